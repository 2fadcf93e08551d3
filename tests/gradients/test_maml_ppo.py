"""MAML-PPO's objective through the adaptation, against loops over tasks and finite differences, in float64."""

import dataclasses
import math

import pytest
import torch
from torch.func import functional_call

from research.algorithms.gradient import maml_ppo
from research.algorithms.gradient.maml_ppo import MAMLPPO, ClippedObjective, MAMLPPOConfig, _outcome, adapted_coef
from research.algorithms.gradient.maml_trpo import make_objective
from research.algorithms.outer import clip_norm, learned, replaced
from research.distributions import Categorical
from research.inner_loops.base import adapted_names, rate
from research.losses import PolicyBatch, clip_fraction, clipped_surrogate
from research.optim.flat import norm
from research.policies import PolicyConfig

TINY = MAMLPPOConfig(
    meta_batch_size=3,
    episodes_per_task=2,
    horizon=6,
    task_args={"done_radius": 0.2},  # some episodes end early
    policy=PolicyConfig(hidden_sizes=(2,)),
    inner_lr=0.3,
    clip_eps=0.1,
    kl_coef=0.7,
    dtype="float64",
    num_threads=1,
)
VARIANTS = {
    "maml": {},
    "e_maml": {"estimator": "e_maml", "sampling_coef": 0.4},
    "dice": {"estimator": "dice"},
    "lvc": {"estimator": "lvc"},
    "two steps, maml": {"num_inner_steps": 2, "inner_lr": (0.3, 0.2)},
    "two steps, e_maml": {"num_inner_steps": 2, "inner_lr": (0.3, 0.2), "estimator": "e_maml"},
    "two steps, dice": {"num_inner_steps": 2, "inner_lr": (0.3, 0.2), "estimator": "dice"},
    "three steps, lvc": {"num_inner_steps": 3, "inner_lr": (0.3, 0.2), "estimator": "lvc"},
    "Meta-SGD": {"learn_inner_lr": "per_parameter", "num_inner_steps": 2, "estimator": "lvc"},
    "a learned rate for each step": {"learn_inner_lr": "per_step", "num_inner_steps": 2, "estimator": "dice"},
    "last layer only": {"adapt_only": ("mean.2.*",), "estimator": "lvc"},
    "higher": {"inner_loop": "higher", "estimator": "dice", "num_inner_steps": 2},
    "learn2learn": {"inner_loop": "learn2learn", "estimator": "lvc"},
    "no penalty": {"kl_coef": 0.0, "estimator": "lvc"},
    "raw advantages": {"normalize_advantages": False, "estimator": "e_maml", "sampling_coef": 0.2},
}


class Case:
    """What an iteration sampled at θ_old, the objective around it, and parameters that have moved on."""

    def __init__(self, **changes):
        self.config = dataclasses.replace(TINY, **changes)
        self.agent = MAMLPPO(self.config).agent
        self.meta = self.agent.init()
        self.sampled = self.agent.sample(self.meta, 0)
        self.objective = ClippedObjective(self.agent, self.config, self.meta, self.sampled)
        self.start = learned(self.meta, self.config)
        generator = torch.Generator().manual_seed(1)
        self.moved = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value)
            for name, value in self.start.items()
        }
        coefficients = torch.arange(1, self.config.num_inner_steps + 1, dtype=torch.float64)
        self.kl_coef = self.config.kl_coef * coefficients
        self.old = detached(walk(self, self.start))

    def gradient(self, params):
        (minibatch,) = self.objective.minibatches
        return self.objective.gradient(params, minibatch, self.kl_coef)


@pytest.fixture(params=VARIANTS, scope="module")
def case(request):
    return Case(**VARIANTS[request.param])


def walk(case, params, anchors=None):
    """The parameters of every stage, `[task][step]`, by a loop.

    `anchors`: the stages at which everything under a stop-gradient is evaluated, those of `params` themselves if None.
    """
    meta, paths = replaced(case.meta, params), []
    for task in range(case.config.meta_batch_size):
        path = [dict(meta.model)]
        for step, batches in enumerate(case.sampled.batches):
            anchor = path[-1] if anchors is None else anchors[task][step]
            path.append(inner_step(case, path[-1], anchor, meta.update, of_task(batches, task), step))
        paths.append(path)
    return paths


def plain(case, params, anchors=None):
    """mean_i f_i by loops over tasks, inner steps and steps of the query."""
    total = 0.0
    for task, path in enumerate(walk(case, params, anchors)):
        for step, batches in enumerate(case.sampled.batches):
            batch = of_task(batches, task)
            coef = case.kl_coef[step] / len(case.sampled.batches)
            total = total + coef * kl(case, case.old[task][step], path[step], batch)
            if case.config.estimator == "e_maml":
                outcome = _outcome(case.agent, case.sampled)[task]
                ratio = (log_probs(case, path[step], batch) - batch.log_prob).exp()[batch.valid]
                total = total + case.config.sampling_coef * ratio.sum() * outcome
        total = total + clipped(case, path[-1], of_task(case.sampled.query, task))
    return total / case.config.meta_batch_size


def of_task(batch, task):
    return type(batch)(*(leaf[task] for leaf in batch))


def detached(paths):
    return [[{name: value.detach() for name, value in stage.items()} for stage in path] for path in paths]


def log_probs(case, theta, batch):
    return functional_call(case.agent.policy, theta, (batch.observation,)).log_prob(batch.action)


def kl(case, before, theta, batch):
    old, new = (functional_call(case.agent.policy, point, (batch.observation,)) for point in (before, theta))
    return old.kl(new)[batch.valid].mean()


def clipped(case, theta, query):
    total, count = 0.0, 0
    for episode, valid in enumerate(query.valid):
        for time in range(int(valid.sum())):
            one = type(query)(*(leaf[episode, time] for leaf in query))
            ratio = (log_probs(case, theta, one) - one.log_prob).exp()
            if one.advantage > 0:
                ratio = ratio.clamp_max(1 + case.config.clip_eps)
            else:
                ratio = ratio.clamp_min(1 - case.config.clip_eps)
            total, count = total - ratio * one.advantage, count + 1
    return total / count


def inner_step(case, theta, anchor, update, batch, step):
    """One step of gradient descent on the estimator's loss, differentiable."""
    names = adapted_names(case.config, theta)
    point = {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in theta.items()}
    loss = inner_loss(case, point, anchor, batch)
    gradient = torch.autograd.grad(loss, [point[name] for name in names], create_graph=True)
    moved = {name: point[name] - rate(update, name, step) * g for name, g in zip(names, gradient, strict=True)}
    return {**theta, **moved}


def inner_loss(case, theta, anchor, batch):
    log_prob = log_probs(case, theta, batch)
    terms = {
        "maml": lambda: log_prob,
        "e_maml": lambda: log_prob,
        "lvc": lambda: (log_prob - batch.log_prob).exp(),
        "dice": lambda: dice_terms(log_prob, log_probs(case, anchor, batch).detach(), batch.log_prob),
    }[case.config.estimator]()
    return -(terms * batch.advantage)[batch.valid].mean()


def dice_terms(log_prob, anchored, recorded):
    rows = []
    for new, fixed, old in zip(log_prob, anchored, recorded, strict=True):
        past = [(new[:time] - fixed[:time]).sum().exp() for time in range(len(new))]
        rows.append(torch.stack(past) * ((new - old).exp() - (fixed - old).exp()))
    return torch.stack(rows)


def finite_differences(case, params, step=1e-5):
    """The gradient of `plain` with everything under a stop-gradient fixed at `params`."""
    anchors = detached(walk(case, params))
    result = {}
    for name, value in params.items():
        result[name] = torch.zeros_like(value)
        for index in range(value.numel()):
            ends = []
            for sign in (1, -1):
                shifted = value.clone()
                shifted.view(-1)[index] += sign * step
                ends.append(plain(case, {**params, name: shifted}, anchors).item())
            result[name].view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
    return result


def assert_close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_the_gradient_matches_finite_differences_where_the_parameters_have_moved(case):
    gradient = case.gradient(case.moved)
    assert norm(gradient) > 1e-2, "a zero gradient would prove nothing"
    assert_close(gradient, finite_differences(case, case.moved), rtol=1e-5, atol=1e-7)


def test_the_cases_reach_the_clip_and_the_ends_of_episodes():
    case = Case(estimator="lvc")
    metrics, inner_kl = case.objective.measure(case.moved)
    assert 0.05 < metrics["clip_fraction"] < 0.9
    assert metrics["kl"] > 1e-3 and inner_kl.min() > 1e-3
    assert 0 < (~case.sampled.query.valid).sum() < case.sampled.query.valid.numel() / 2
    assert (~case.sampled.batches[0].valid).any()


COMPILED = {
    **{name: VARIANTS[name] for name in ("maml", "two steps, e_maml", "three steps, lvc", "Meta-SGD", "no penalty")},
    "last layer only": {"adapt_only": ("mean.2.*",), "estimator": "lvc", "first_order": True},
    "a learned rate": {"learn_inner_lr": "scalar", "num_inner_steps": 2, "estimator": "e_maml"},
    "tasks of a chunk each": {"horizon": 100, "episodes_per_task": 25, "estimator": "lvc"},
    "relu": {"policy": PolicyConfig(hidden_sizes=(5, 3), activation="relu"), "estimator": "lvc"},
    "discrete actions": {"task": "cartpole_params", "task_args": {}, "estimator": "lvc", "num_inner_steps": 2},
}


@pytest.mark.parametrize("variant", COMPILED)
def test_the_compiled_objective_is_that_of_autograd(variant, monkeypatch):
    case = Case(**COMPILED[variant])
    if case.objective.minibatches[0][0].compiled is None:
        pytest.skip("there is no compiler")
    monkeypatch.setattr(maml_ppo, "network_for", lambda agent, meta: None)
    recorded = ClippedObjective(case.agent, case.config, case.meta, case.sampled)
    (minibatch,) = recorded.minibatches
    assert minibatch[0].compiled is None
    gradient = recorded.gradient(case.moved, minibatch, case.kl_coef)
    assert norm(gradient) > 1e-2
    assert_close(case.gradient(case.moved), gradient, rtol=1e-10, atol=1e-12)
    (ours, our_kl), (theirs, their_kl) = case.objective.measure(case.moved), recorded.measure(case.moved)
    assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-13)
    torch.testing.assert_close(our_kl, their_kl, rtol=1e-10, atol=1e-13)


def test_a_task_without_a_valid_step_adds_nothing_to_the_compiled_gradient(monkeypatch):
    case = Case(**COMPILED["tasks of a chunk each"])
    without = lambda batch: batch._replace(valid=batch.valid & (torch.arange(3) != 1).view(3, 1, 1))  # noqa: E731
    sampled = case.sampled._replace(batches=[*map(without, case.sampled.batches)], query=without(case.sampled.query))
    gradients = []
    for _ in range(2):
        objective = ClippedObjective(case.agent, case.config, case.meta, sampled)
        gradients.append(objective.gradient(case.moved, objective.minibatches[0], case.kl_coef))
        assert all(math.isfinite(value) for value in objective.measure(case.moved)[0].values())
        monkeypatch.setattr(maml_ppo, "network_for", lambda agent, meta: None)
    assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "change", [{"estimator": "dice"}, {"inner_loop": "higher"}, {"inner_optimizer": "adam"}, {"lookahead_k": 2}]
)
def test_autograd_computes_objectives_that_are_not_compiled(change):
    case = Case(**change)
    assert case.objective.minibatches[0][0].compiled is None


def relative_error(ours, theirs):
    return norm({name: ours[name] - value for name, value in theirs.items()}) / norm(theirs)


def test_the_first_order_gradient_is_not_the_gradient():
    """Negative control: leaving the Hessian out must be seen by the check above."""
    case = Case(estimator="lvc")
    first = Case(estimator="lvc", first_order=True)
    assert_close(first.moved, case.moved)
    assert relative_error(first.gradient(case.moved), finite_differences(case, case.moved)) > 1e-2


@pytest.mark.parametrize("other", ["lvc", "dice", "e_maml"])
def test_the_estimators_differ_at_the_sampling_point(other):
    """Negative control: there they agree in the first derivative of the inner loss, so the second must be right."""
    case, theirs = Case(), Case(estimator=other)
    assert relative_error(theirs.gradient(case.start), case.gradient(case.start)) > 1e-3


def test_at_the_sampling_point_the_gradient_is_that_of_the_trust_region():
    case = Case(num_inner_steps=2)
    problem = make_objective(case.agent, case.meta, case.sampled).problem()
    gradient = case.gradient(case.start)
    torch.testing.assert_close(torch.cat([value.flatten() for value in gradient.values()]), problem.gradient)


@pytest.mark.parametrize("estimator", ["maml", "e_maml", "dice", "lvc"])
@pytest.mark.parametrize("backend", ["higher", "learn2learn"])
def test_the_backends_agree(estimator, backend):
    func, other = (Case(inner_loop=name, estimator=estimator, num_inner_steps=2) for name in ("func", backend))
    assert_close(other.gradient(func.moved), func.gradient(func.moved), rtol=1e-10, atol=1e-12)


def test_what_is_measured_after_the_epochs(case):
    metrics, inner_kl = case.objective.measure(case.moved)
    paths, tasks = detached(walk(case, case.moved)), range(case.config.meta_batch_size)

    def mean_divergence(stage, batches):
        return sum(kl(case, case.old[i][stage], paths[i][stage], of_task(batches, i)).item() for i in tasks) / 3

    assert metrics["kl"] == pytest.approx(mean_divergence(-1, case.sampled.query), rel=1e-9)
    expected = [mean_divergence(step, batches) for step, batches in enumerate(case.sampled.batches)]
    assert inner_kl.tolist() == pytest.approx(expected, rel=1e-9)
    assert metrics["kl_inner"] == pytest.approx(inner_kl.mean().item())
    loss = sum(clipped(case, paths[i][-1], of_task(case.sampled.query, i)).item() for i in tasks) / 3
    assert metrics["loss_after"] == pytest.approx(loss, rel=1e-9)
    at_start, inner_start = case.objective.measure(case.start)
    assert (at_start["kl"], at_start["clip_fraction"]) == (pytest.approx(0, abs=1e-14), 0.0)
    assert inner_start.abs().max() < 1e-14
    assert at_start["loss_before"] == pytest.approx(at_start["loss_after"], abs=1e-12)


def test_minibatches_are_shares_of_the_tasks():
    whole, cut = Case(), Case(num_minibatches=2)
    parts = cut.objective.minibatches
    sizes = [sum(len(chunk.query.valid) for chunk in part) for part in parts]
    assert sizes == [1, 2]
    gradients = [cut.objective.gradient(whole.moved, part, whole.kl_coef) for part in parts]
    mean = {name: (gradients[0][name] + 2 * gradients[1][name]) / 3 for name in whole.moved}
    assert_close(mean, whole.gradient(whole.moved))


def test_the_outcome_is_minus_the_return_above_the_other_tasks_in_the_units_of_the_loss():
    case = Case(estimator="e_maml")
    episodes = case.sampled.query_episodes
    raw = case.agent.advantages(episodes)
    returns = [float(episodes.returns()[task].mean()) for task in range(3)]
    for task, outcome in enumerate(_outcome(case.agent, case.sampled).tolist()):
        others = sum(value for index, value in enumerate(returns) if index != task) / 2
        steps = float(episodes.valid[task].sum()) / 2
        values = raw[task][episodes.valid[task]]
        deviation = float(((values - values.mean()) ** 2).mean() ** 0.5)
        assert outcome == pytest.approx(-(returns[task] - others) / steps / deviation, rel=1e-6)
    raw_units = Case(estimator="e_maml", normalize_advantages=False)
    ours = _outcome(raw_units.agent, case.sampled)
    assert ours[0].item() == pytest.approx(
        -(returns[0] - (returns[1] + returns[2]) / 2) / (episodes.valid[0].sum() / 2)
    )


def test_the_penalty_doubles_and_halves():
    coef = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    kl = torch.tensor([0.0151, 0.0149, 0.01, 0.0067, 0.0066], dtype=torch.float64)
    assert adapted_coef(coef, kl, 0.01).tolist() == [2.0, 1.0, 1.0, 1.0, 0.5]
    bounds = adapted_coef(torch.tensor([9e3, 1.5e-8], dtype=torch.float64), torch.tensor([1.0, 0.0]), 0.01)
    assert bounds.tolist() == [1e4, 1e-8]


def test_each_inner_step_has_a_penalty_of_its_own_that_the_next_iteration_uses():
    algorithm = MAMLPPO(
        dataclasses.replace(TINY, num_inner_steps=2, adaptive_kl=True, target_kl=1e-9, kl_coef=1.0, num_epochs=2)
    )
    state = algorithm.init()
    assert state.kl_coef.tolist() == [1.0, 1.0]
    state, metrics = algorithm.step(state)
    assert state.kl_coef.tolist() == [2.0, 2.0] and metrics["kl_coef"] == 1.0
    fixed, _ = MAMLPPO(dataclasses.replace(TINY, num_inner_steps=2, target_kl=1e-9, num_epochs=2)).step(
        algorithm.init()
    )
    assert fixed.kl_coef.tolist() == [1.0, 1.0]


def test_a_long_gradient_is_scaled_to_its_limit():
    gradient = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    scaled, length = clip_norm(gradient, 2.5)
    assert length == 5.0 and scaled["a"].tolist() == [1.5, 0.0] and scaled["b"].tolist() == [[2.0]]
    for limit in (0.0, 5.0, 7.0):
        assert clip_norm(gradient, limit)[0] is gradient
    with pytest.raises(FloatingPointError, match="gradient_norm=nan: the meta-gradient is not finite; lower inner_lr"):
        clip_norm({"a": torch.tensor([float("nan")])}, 1.0)


def test_the_epochs_follow_the_minibatches_one_after_the_other():
    """An iteration by hand: Adam on the gradients of the same episodes, at parameters as they become."""
    config = dataclasses.replace(TINY, num_epochs=2, num_minibatches=3, meta_lr=0.02, max_grad_norm=0.05)
    algorithm = MAMLPPO(config)
    state = algorithm.init()
    after, metrics = algorithm.step(state)
    sampled = algorithm.agent.sample(state.meta, 0)
    objective = ClippedObjective(algorithm.agent, config, state.meta, sampled)
    params = {name: value.clone().requires_grad_() for name, value in learned(state.meta, config).items()}
    optimizer, norms = torch.optim.Adam(params.values(), lr=0.02), []
    for _ in range(2):
        for minibatch in objective.minibatches:
            gradient = objective.gradient(params, minibatch, state.kl_coef)
            for name, value in params.items():
                value.grad = gradient[name]
            norms.append(float(torch.nn.utils.clip_grad_norm_(params.values(), 0.05)))
            optimizer.step()
    result = learned(after.meta, config)
    assert_close(result, {name: value.detach() for name, value in params.items()}, rtol=1e-4, atol=1e-7)
    assert metrics["gradient_norm"] == pytest.approx(sum(norms) / 6, rel=1e-3)
    assert min(norms) > 0.05, "the limit must have been reached"
    assert after.optimizer.step == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(estimator="foo"), "estimator='foo': need one of 'maml', 'e_maml', 'dice', 'lvc'"),
        (dict(clip_eps=-1.0), "clip_eps=-1.0: need a value between 0 and 1"),
        (dict(num_minibatches=4), "num_minibatches=4: need at most meta_batch_size=3"),
        (dict(num_epochs=0), "num_epochs=0: need at least 1"),
        (dict(kl_coef=0.0, adaptive_kl=True), "kl_coef=0: adaptive_kl=True doubles and halves it"),
        (dict(estimator="dice", first_order=True), "estimator='dice': first_order=True leaves out"),
        (dict(estimator="e_maml", meta_batch_size=1), "meta_batch_size=1: estimator='e_maml' compares tasks"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_the_clip_by_hand():
    """Ratios 2, 1.1, 0.5, 0.5 and one step that is not valid, ε = 0.2."""
    ratio = torch.tensor([[2.0, 1.1, 0.5, 0.5, 9.0]], dtype=torch.float64)
    logits = torch.stack([ratio.log(), torch.zeros_like(ratio)], -1)
    distribution = Categorical(logits)
    log_prob = distribution.log_prob(torch.zeros_like(ratio, dtype=torch.int64)) - ratio.log()
    batch = PolicyBatch(
        observation=torch.zeros(1, 5, 1),
        action=torch.zeros(1, 5, dtype=torch.int64),
        advantage=torch.tensor([[1.0, -2.0, 1.0, -4.0, 5.0]], dtype=torch.float64),
        log_prob=log_prob,
        valid=torch.tensor([[True, True, True, True, False]]),
    )
    # 2 gains no more than 1.2; 1.1 is within; 0.5 with a positive advantage is not clipped; with a negative one it is.
    expected = -(1.2 * 1.0 + 1.1 * -2.0 + 0.5 * 1.0 + 0.8 * -4.0) / 4
    assert clipped_surrogate(distribution, batch, 0.2).item() == pytest.approx(expected)
    assert clip_fraction(distribution, batch, 0.2).item() == pytest.approx(3 / 4)
