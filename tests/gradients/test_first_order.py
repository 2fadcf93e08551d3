"""FOMAML and Reptile for policies, against loops over tasks, in float64."""

import pytest
import torch
from torch.func import functional_call

from research.algorithms.gradient import fomaml
from research.algorithms.gradient.fomaml import FOMAML, FOMAMLConfig
from research.algorithms.gradient.maml_trpo import make_objective
from research.algorithms.gradient.reptile import Reptile, ReptileConfig
from research.losses import PolicyBatch, reinforce
from research.policies import PolicyConfig
from research.policies.mlp_kernel import serves
from research.policies.mlp_network import network_of

TINY = dict(
    meta_batch_size=3,
    episodes_per_task=2,
    horizon=6,
    task_args={"done_radius": 0.2},  # some episodes end early
    policy=PolicyConfig(hidden_sizes=(3,)),
    num_inner_steps=2,
    inner_lr=(0.3, 0.2),
    dtype="float64",
    num_threads=1,
)


def of_task(batch, task):
    return type(batch)(*(leaf[task] for leaf in batch))


def gradient_at(agent, theta, batch):
    point = {name: value.detach().requires_grad_() for name, value in theta.items()}
    loss = reinforce(lambda seen: functional_call(agent.policy, point, (seen,)), batch)
    return dict(zip(point, torch.autograd.grad(loss, list(point.values())), strict=True))


def descend(agent, theta, batches, rates, names):
    for batch, lr in zip(batches, rates, strict=True):
        gradient = gradient_at(agent, theta, batch)
        theta = {name: value - lr * gradient[name] if name in names else value for name, value in theta.items()}
    return theta


@pytest.mark.parametrize("task", ["navigation_2d", "cartpole_params"])
def test_fomaml_follows_the_same_gradient_compiled_and_by_autograd(task, monkeypatch):
    agent = (algorithm := FOMAML(FOMAMLConfig(**{**TINY, "task": task, "task_args": {}}))).agent
    meta = algorithm.init().meta
    sampled = agent.sample(meta, 0)
    adapted = agent.adapt(meta, sampled.batches, 3)
    if not serves(network_of(agent.policy), adapted):
        pytest.skip("there is no compiler")
    compiled, entropy = algorithm._gradient(adapted, sampled.query)
    monkeypatch.setattr(fomaml, "serves", lambda network, params: False)
    recorded, same_entropy = algorithm._gradient(adapted, sampled.query)
    assert entropy == pytest.approx(same_entropy, rel=1e-12)
    assert compiled.keys() == recorded.keys()
    for name, value in recorded.items():
        assert value.norm() > 1e-3
        torch.testing.assert_close(compiled[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("task", ["navigation_2d", "cartpole_params"])
def test_a_task_without_a_valid_step_has_no_gradient(task):
    agent = (algorithm := FOMAML(FOMAMLConfig(**{**TINY, "task": task, "task_args": {}}))).agent
    meta = algorithm.init().meta
    query = PolicyBatch(*(leaf[:1].flatten(1, 2)[:, :0] for leaf in agent.sample(meta, 0).query))
    adapted = {name: value.unsqueeze(0) for name, value in meta.model.items()}
    gradient, entropy = fomaml._gradient_of_chunk(agent.policy, [query], adapted)
    assert entropy == 0 and not any(value.any() for value in gradient.values())


@pytest.mark.parametrize("adapt_only", [(), ("mean.2.*",)])
@pytest.mark.parametrize("inner_loop", ["func", "higher", "learn2learn"])
def test_fomaml_follows_the_mean_gradient_at_the_adapted_parameters(inner_loop, adapt_only):
    algorithm = FOMAML(
        FOMAMLConfig(**TINY, inner_loop=inner_loop, adapt_only=adapt_only, meta_optimizer="sgd", meta_lr=0.5)
    )
    state, agent = algorithm.init(), algorithm.agent
    model = state.meta.model
    names = [name for name in model if not adapt_only or name.startswith("mean.2.")]
    sampled = agent.sample(state.meta, 0)
    mean = {name: torch.zeros_like(value) for name, value in model.items()}
    for task in range(3):
        adapted = descend(agent, model, [of_task(batch, task) for batch in sampled.batches], (0.3, 0.2), names)
        for name, value in gradient_at(agent, adapted, of_task(sampled.query, task)).items():
            mean[name] += value / 3
    after, metrics = algorithm.step(state)
    assert metrics["gradient_norm"] == pytest.approx(float(sum((value**2).sum() for value in mean.values()) ** 0.5))
    assert metrics["step_norm"] == pytest.approx(0.5 * metrics["gradient_norm"])
    for name, value in model.items():
        torch.testing.assert_close(after.meta.model[name], value - 0.5 * mean[name])


def test_fomaml_is_maml_with_the_identity_for_the_derivative_of_the_adaptation():
    for inner_optimizer, inner_lr in (("sgd", 0.3), ("adam", 0.05)):
        changes = TINY | {"inner_optimizer": inner_optimizer, "inner_lr": inner_lr}
        algorithm = FOMAML(FOMAMLConfig(**changes, meta_optimizer="sgd", meta_lr=1.0))
        state = algorithm.init()
        sampled = algorithm.agent.sample(state.meta, 0)
        gradient = make_objective(algorithm.agent, state.meta, sampled).problem().gradient
        after, _ = algorithm.step(state)
        move = torch.cat([(state.meta.model[name] - value).flatten() for name, value in after.meta.model.items()])
        torch.testing.assert_close(move, gradient)


def test_fomaml_steps_with_adam_as_torch_does():
    algorithm = FOMAML(FOMAMLConfig(**TINY, meta_lr=0.02, max_grad_norm=0.05))
    state = algorithm.init()
    params = {name: value.clone().requires_grad_() for name, value in state.meta.model.items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.02)
    for iteration in range(3):
        plain = FOMAML(FOMAMLConfig(**TINY, meta_optimizer="sgd", meta_lr=1.0))
        moved, metrics = plain.step(plain.init()._replace(iteration=iteration, meta=state.meta))
        for name, value in params.items():
            value.grad = state.meta.model[name] - moved.meta.model[name]
        assert float(torch.nn.utils.clip_grad_norm_(params.values(), 0.05)) > 0.05
        optimizer.step()
        state, ours = algorithm.step(state)
        assert ours["gradient_norm"] == pytest.approx(metrics["gradient_norm"], rel=1e-3)
        for name, value in params.items():
            torch.testing.assert_close(state.meta.model[name], value.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("inner_loop", ["func", "higher", "learn2learn"])
def test_reptile_moves_towards_the_mean_of_where_all_sampled_episodes_lead(inner_loop):
    config = ReptileConfig(**TINY, inner_loop=inner_loop, meta_lr=0.8, num_iterations=10)
    algorithm = Reptile(config)
    state, agent = algorithm.init()._replace(iteration=4), algorithm.agent
    model = state.meta.model
    sampled = agent.sample(state.meta, 4)
    ends = []
    for task in range(3):
        batches = [of_task(batch, task) for batch in (*sampled.batches, sampled.query)]
        ends.append(descend(agent, model, batches, (0.3, 0.2, 0.2), list(model)))
    after, metrics = algorithm.step(state)
    assert metrics["step_norm"] == pytest.approx(0.8 * 0.6 * metrics["gradient_norm"])
    for name, value in model.items():
        move = sum(end[name] for end in ends) / 3 - value
        assert move.norm() > 1e-3
        torch.testing.assert_close(after.meta.model[name], value + 0.8 * (1 - 4 / 10) * move)


@pytest.mark.parametrize("kind", [FOMAMLConfig, ReptileConfig])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(learn_inner_lr="per_step"), "learn_inner_lr='per_step': (FOMAML|Reptile) has no gradient to learn it by"),
        (dict(transform="kronecker", inner_loop="learn2learn"), "transform='kronecker': .* need 'none'"),
        (dict(first_order=False), "first_order=False: .* need True"),
        (dict(meta_lr=0.0), "meta_lr=0.0: need a value above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="meta_optimizer='adagrad': need one of 'adam', 'sgd'"):
        FOMAMLConfig(meta_optimizer="adagrad")
