"""The trust region through the adaptation, against explicit Hessians and finite differences, in float64."""

import dataclasses
import functools

import pytest
import torch
from torch.func import functional_call

from research.algorithms.gradient.agent import inner_loss
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig, make_objective
from research.algorithms.outer import replaced
from research.losses import mean_kl, surrogate
from research.optim.flat import flatten, unflatten
from research.policies import PolicyConfig

TINY = MAMLTRPOConfig(
    meta_batch_size=3,
    episodes_per_task=2,
    horizon=6,
    task_args={"done_radius": 0.2},  # some episodes end early
    policy=PolicyConfig(hidden_sizes=(3,)),
    inner_lr=0.3,
    dtype="float64",
    num_threads=1,
)
VARIANTS = {
    "func": {},
    "higher": {"inner_loop": "higher"},
    "learn2learn": {"inner_loop": "learn2learn"},
    "two steps": {"num_inner_steps": 2, "inner_lr": (0.3, 0.2)},
    "first order": {"first_order": True},
    "Meta-SGD, two steps": {"learn_inner_lr": "per_parameter", "num_inner_steps": 2},
    "a learned rate for each step": {"learn_inner_lr": "per_step", "num_inner_steps": 2},
    "a learned rate": {"learn_inner_lr": "scalar"},
    "a learned rate, higher": {"learn_inner_lr": "scalar", "inner_loop": "higher"},
    "Meta-SGD, learn2learn": {"learn_inner_lr": "per_parameter", "inner_loop": "learn2learn"},
    "Kronecker transform": {"transform": "kronecker", "inner_loop": "learn2learn"},
    "Adam": {"inner_optimizer": "adam", "inner_lr": 0.05},
    "last layer only": {"adapt_only": ("mean.2.*",)},
    "ReLU": {"policy": PolicyConfig(hidden_sizes=(4,), activation="relu")},
    "three threads": {"num_threads": 3},
}


SMOOTH = [name for name in VARIANTS if name not in ("first order", "ReLU")]
"""Where differences are derivatives: a first-order gradient is none, and walks start at the kink of every ReLU."""


@pytest.fixture(params=VARIANTS, scope="module")
def case(request):
    """The objective, and its f and D written out as plain functions of the flat vector."""
    algorithm = MAMLTRPO(dataclasses.replace(TINY, **VARIANTS[request.param]))
    meta = algorithm.init().meta
    sampled = algorithm.agent.sample(meta, 0)
    objective = make_objective(algorithm.agent, meta, sampled)
    vector = flatten(objective.params.values())
    return objective, functools.partial(plain, algorithm.agent, meta, objective.params, sampled), vector


def plain(agent, start, params, sampled, vector):
    """(f, D) at a vector by adapting on the graph and looping over tasks."""
    meta, num_tasks = replaced(start, unflatten(vector, params)), agent.config.meta_batch_size
    adapted = agent.inner_loop.adapt(agent.policy, meta.model, meta.update, inner_loss, sampled.batches)
    loss, divergence = 0.0, 0.0
    with torch.no_grad():
        old = agent.adapt(start, sampled.batches, num_tasks)
    for task in range(num_tasks):
        query = type(sampled.query)(*(leaf[task] for leaf in sampled.query))
        new = functional_call(agent.policy, {n: v[task] for n, v in adapted.items()}, (query.observation,))
        before = functional_call(agent.policy, {n: v[task] for n, v in old.items()}, (query.observation,))
        loss = loss + surrogate(new, query) / num_tasks
        divergence = divergence + mean_kl(before, new, query.valid) / num_tasks
    return loss, divergence


def test_loss_and_gradient_match_autograd(case):
    objective, f_and_d, vector = case
    problem = objective.problem()
    leaf = vector.clone().requires_grad_()
    loss, divergence = f_and_d(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(problem.gradient, gradient, rtol=1e-9, atol=1e-11)
    assert problem.loss == pytest.approx(loss.item(), abs=1e-12)
    assert divergence.item() == pytest.approx(0.0, abs=1e-14)
    assert problem.gradient.norm() > 1e-3, "a zero gradient would prove nothing"


def test_some_episodes_end_early():
    agent = MAMLTRPO(TINY).agent
    sampled = agent.sample(agent.init(), 0)
    assert 0 < (~sampled.query.valid).sum() < sampled.query.valid.numel() / 2


def test_fisher_products_are_the_hessian_of_the_divergence(case):
    objective, f_and_d, vector = case
    hessian = torch.autograd.functional.hessian(lambda x: f_and_d(x)[1], vector)
    columns = torch.stack([objective.fisher_product(unit) for unit in torch.eye(len(vector), dtype=vector.dtype)], 1)
    torch.testing.assert_close(columns, hessian, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(columns, columns.T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", SMOOTH, indirect=True)
def test_fisher_products_match_finite_differences_of_the_gradient_of_the_divergence(case):
    objective, f_and_d, vector = case
    direction = torch.randn(len(vector), generator=torch.Generator().manual_seed(1), dtype=vector.dtype)
    direction /= direction.norm()

    def slope(point):
        leaf = point.clone().requires_grad_()
        return torch.autograd.grad(f_and_d(leaf)[1], leaf)[0]

    step = 1e-5
    numeric = (slope(vector + step * direction) - slope(vector - step * direction)) / (2 * step)
    torch.testing.assert_close(objective.fisher_product(direction), numeric, rtol=1e-4, atol=1e-7)


def test_evaluate_is_f_and_d_after_a_step(case):
    objective, f_and_d, vector = case
    step = 0.05 * torch.randn(len(vector), generator=torch.Generator().manual_seed(2), dtype=vector.dtype)
    loss, divergence = f_and_d(vector + step)
    assert objective.evaluate(step) == pytest.approx((loss.item(), divergence.item()), rel=1e-9)


def test_the_first_order_gradient_is_not_the_gradient():
    """Negative control: leaving the Hessian out must be seen by the checks above."""
    sampled = MAMLTRPO(TINY).agent.sample(MAMLTRPO(TINY).init().meta, 0)
    full, first = (MAMLTRPO(dataclasses.replace(TINY, first_order=order)).agent for order in (False, True))
    gradients = [make_objective(agent, agent.init(), sampled).problem().gradient for agent in (full, first)]
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[0].norm()


def test_parameters_stay_and_the_metrics_say_so_when_the_line_search_fails():
    algorithm = MAMLTRPO(dataclasses.replace(TINY, max_kl=1e-300, line_search_steps=2))
    state = algorithm.init()
    after, metrics = algorithm.step(state)
    assert metrics["step_accepted"] == 0.0 and metrics["line_search_backtracks"] == 2.0
    assert after.iteration == 1
    assert all(torch.equal(after.meta.model[name], value) for name, value in state.meta.model.items())


def test_a_step_stays_in_the_trust_region_and_does_not_depend_on_the_number_of_threads():
    results = [MAMLTRPO(dataclasses.replace(TINY, num_threads=n)) for n in (1, 2)]
    steps = [algorithm.step(algorithm.init()) for algorithm in results]
    assert steps[0].metrics["step_accepted"] == 1.0 and 0 < steps[0].metrics["kl"] <= TINY.max_kl
    for name, value in steps[0].state.meta.model.items():
        assert torch.equal(value, steps[1].state.meta.model[name])
