"""RL²: advantages over a trial, its losses against loops, truncation, the trust region, and what memory is worth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from research import rng
from research.algorithms.memory import recurrent
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import trial_curve
from research.algorithms.memory.losses import rl2_gradient, rl2_loss
from research.algorithms.memory.recurrent import (
    Steps,
    ValueScale,
    advantages,
    explained_variance,
    minibatches,
    num_parts,
)
from research.algorithms.memory.rl2 import RL2
from research.algorithms.memory.trpo import make_objective
from research.algorithms.trust_region import trust_region_update
from research.checkpoint import Checkpoints, load
from research.policies.memory import MemoryConfig
from research.sampling.trials import bind
from research.types import Trials

SMALL = RL2Config(
    task="cartpole_params",
    meta_batch_size=4,
    trials_per_task=2,
    episodes_per_trial=2,
    horizon=30,
    policy=MemoryConfig(4, output_scale=1.0),
    num_minibatches=2,
    dtype="float64",
    num_threads=1,
)

LOSS = dataclasses.replace(SMALL, clip_eps=0.2, value_coef=0.7)


def made(**changes):
    return RL2(dataclasses.replace(SMALL, **changes))


def sampled(algorithm: RL2) -> tuple[dict[str, Tensor], Steps]:
    """Parameters, and steps that other parameters sampled: ratios are not 1, and some are beyond the clip."""
    state = algorithm.init()
    steps = algorithm.agent.sample(state.meta.model, state.scale, 0).steps
    generator = torch.Generator().manual_seed(0)
    params = state.meta.model
    moved = {k: v + 0.15 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in params.items()}
    return moved, steps


def trials(reward, value, ended, valid):
    """Trials `[1, 1, time]` of which only the named fields matter."""
    shape = (1, 1, len(reward))
    fields = [torch.tensor(field).reshape(shape) for field in (reward, value, ended, valid)]
    reward, value, ended, valid = fields
    nothing = torch.zeros(shape)
    first = (nothing[..., None], nothing, reward, nothing, value, nothing.long(), ended, valid)
    return Trials(*first, torch.zeros(1, 1), nothing[..., None])


def test_advantages_by_hand_go_through_the_end_of_an_episode():
    """Two episodes of two steps; γ = ½, λ = ½. V = mean + std · v, and nothing follows the trial's last step."""
    seen = trials([1.0, 2.0, 4.0, 8.0], [0.0, 1.0, 2.0, 3.0], [False, True, False, True], [True] * 4)
    mean, std = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([2.0, 2.0, 1.0, 1.0])
    advantage, value = advantages(seen, mean, std, 0.5, 0.5)
    assert value.flatten().tolist() == [1.0, 3.0, 2.0, 3.0]
    deltas = [1 + 0.5 * 3 - 1, 2 + 0.5 * 2 - 3, 4 + 0.5 * 3 - 2, 8 - 3]
    fourth = deltas[3]
    third = deltas[2] + 0.25 * fourth
    second = deltas[1] + 0.25 * third
    assert advantage.flatten().tolist() == [deltas[0] + 0.25 * second, second, third, fourth]


def test_advantages_stop_where_a_trial_was_cut_short():
    seen = trials([1.0, 2.0, 0.0], [0.0, 1.0, 9.0], [False, False, False], [True, True, False])
    advantage, _ = advantages(seen, torch.zeros(3), torch.ones(3), 1.0, 1.0)
    assert advantage.flatten().tolist() == [3.0, 1.0, 0.0]


def test_what_was_not_valid_changes_no_advantage():
    plain = trials([1.0, 2.0, 0.0], [0.0, 1.0, 9.0], [False, True, False], [True, True, False])
    other = plain._replace(value=torch.tensor([0.0, 1.0, -5.0]).reshape(1, 1, 3))
    ours, theirs = (advantages(seen, torch.zeros(3), torch.ones(3), 0.9, 0.8)[0] for seen in (plain, other))
    assert torch.equal(ours, theirs)


def test_the_scale_of_values_is_the_running_moments():
    """Three iterations against the definition, the last time step seen in the second one alone."""
    generator = torch.Generator().manual_seed(0)
    batches = [3 + 2 * torch.randn(5, 2, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    lengths = [3, 4, 3]
    scale = ValueScale.start(4)
    sums = np.zeros((3, 4))
    for batch, length in zip(batches, lengths, strict=True):
        valid = (torch.arange(4) < length).expand(5, 2, 4)
        scale = scale.update(batch[..., : max(lengths)] * valid, valid)
        rows = batch.flatten(0, 1).numpy()
        for t in range(length):
            new = np.array([1.0, rows[:, t].mean(), (rows[:, t] ** 2).mean()])
            sums[:, t] = 0.9 * sums[:, t] + 0.1 * new
    mean, std = scale.moments(batches[0])
    np.testing.assert_allclose(mean, sums[1] / sums[0])
    np.testing.assert_allclose(std, np.sqrt(sums[2] / sums[0] - (sums[1] / sums[0]) ** 2))
    shorter = scale.update(batches[0][..., :2], torch.ones(5, 2, 2, dtype=torch.bool))
    assert torch.equal(shorter.mean[2:], scale.mean[2:]) and (shorter.mean[:2] != scale.mean[:2]).all()


def test_targets_of_the_value_have_the_scale_taken_out():
    algorithm = made(gae_lambda=1.0, discount=1.0)
    state = algorithm.init()
    steps, scale, metrics, *_ = algorithm.agent.sample(state.meta.model, state.scale, 0)
    assert steps.target[steps.valid].mean().abs() < 0.3 and 0.5 < steps.target[steps.valid].std() < 1.5
    first = steps.target[:, 0]
    torch.testing.assert_close(first.mean(), torch.tensor(0.0).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(first.std(correction=0), torch.tensor(1.0).double(), rtol=0, atol=1e-9)
    assert scale.weight.max() == pytest.approx(0.1) and metrics["return_trial"] > metrics["return_post"]


def test_what_is_learned_from_regrets_is_their_sum_and_the_policy_still_reads_rewards():
    settings = dict(task="tabular_mdp", horizon=3, gae_lambda=1.0, discount=1.0)
    plain, regretful = made(**settings), made(**settings, learn_from="regret")
    state = plain.init()
    expected, found = (a.agent.sample(state.meta.model, state.scale, 0) for a in (plain, regretful))
    steps, scale, metrics, *_ = found
    pytree.tree_map(torch.testing.assert_close, steps.inputs, expected.steps.inputs)
    assert metrics["return_trial"] == expected.metrics["return_trial"]
    mean, std = scale.moments(steps.target)
    to_come = torch.nn.functional.pad(steps.target * std + mean, (0, 1))
    tasks = plain.agent.tasks.sample(4, rng.generator(SMALL.seed, "tasks", 0))
    observed, action = steps.inputs.features[..., :10].unflatten(0, (4, 2)), steps.action.unflatten(0, (4, 2))
    regret = plain.agent.tasks.action_regret(tasks, observed.numpy(), action.numpy())
    found = (to_come[:, 1:] - to_come[:, :-1]).unflatten(0, (4, 2)).numpy()
    np.testing.assert_allclose(found, regret, atol=1e-12)
    assert regret.max() > 1


def obvious_loss(output, steps: Steps, clip_eps: float, entropy_coef: float, value_coef: float) -> float:
    policy = value = entropy = count = 0.0
    for row in range(len(steps.valid)):
        for t in range(steps.valid.shape[1]):
            if not steps.valid[row, t]:
                continue
            logits = output.distribution.logits[row, t].tolist()
            total = sum(math.exp(logit) for logit in logits)
            probs = [math.exp(logit) / total for logit in logits]
            ratio = probs[int(steps.action[row, t])] / math.exp(float(steps.log_prob[row, t]))
            advantage = float(steps.advantage[row, t])
            clipped = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
            policy -= min(ratio * advantage, clipped * advantage)
            entropy -= sum(p * math.log(p) for p in probs)
            value += 0.5 * (float(output.value[row, t]) - float(steps.target[row, t])) ** 2
            count += 1
    return (policy - entropy_coef * entropy + value_coef * value) / count


def test_the_loss_is_that_of_an_obvious_loop():
    algorithm = made()
    params, steps = sampled(algorithm)
    policy = recurrent_policy(algorithm, params)
    with torch.no_grad():
        output = policy(steps.inputs, policy.initial_state(len(steps.valid)))
    loss, measured = rl2_loss(output, steps, LOSS, 0.03)
    assert float(loss) == pytest.approx(obvious_loss(output, steps, 0.2, 0.03, 0.7), rel=1e-12)
    assert not steps.valid.all() and 0.05 < measured[4] < 0.95, "the clip does something"
    separate = MemoryConfig(4, separate_value=True)
    alone, _ = rl2_loss(output, steps, dataclasses.replace(LOSS, update="trpo", policy=separate), 0.03)
    torch.testing.assert_close(alone, 0.7 * measured[1])


def recurrent_policy(algorithm: RL2, params):
    policy = algorithm.agent.policy
    policy.load_state_dict(params)
    return policy


def whole_gradient(algorithm, params, parts, chunk_length=0):
    """The sum over parts, and the loss as one graph by hand."""
    total = sum(int(part.valid.sum()) for part in parts)
    config = dataclasses.replace(LOSS, chunk_length=chunk_length)
    own = bind(algorithm.agent.policy, params, requires_grad=True)
    results = [rl2_gradient(own, tuple(params), part, config, 0.03, total) for part in parts]
    return {name: sum(gradient[name] for gradient, _ in results) for name in params}


@pytest.mark.thorough
@pytest.mark.parametrize("policy", [MemoryConfig(4), MemoryConfig(4, separate_value=True, learn_start=True)])
def test_a_gradient_is_the_same_in_parts_and_in_chunks_of_a_trial(policy, monkeypatch):
    algorithm = made(policy=policy)
    params, steps = sampled(algorithm)
    own = recurrent_policy(algorithm, params)
    output = own(steps.inputs, own.initial_state(len(steps.valid)))
    loss, _ = rl2_loss(output, steps, LOSS, 0.03)
    expected = dict(zip(params, torch.autograd.grad(loss, list(own.parameters())), strict=True))
    monkeypatch.setattr(recurrent, "_PART_ROWS", 3)
    (parts,) = minibatches(steps, 1, cheap=False)
    assert len(parts) == 3
    length = steps.valid.shape[1]
    for chunk_length in (0, length):
        ours = whole_gradient(algorithm, params, parts, chunk_length)
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-13)
    truncated = whole_gradient(algorithm, params, parts, 5)
    assert not torch.allclose(truncated["body.weight_hidden"], expected["body.weight_hidden"], rtol=1e-3)
    for name in ("action_weight", "action_bias", "value_bias"):  # the state is carried: no path of theirs is cut
        torch.testing.assert_close(truncated[name], expected[name], rtol=1e-10, atol=1e-13)


def test_a_chunk_sees_the_past_as_a_constant():
    """The gradient of chunks of length c is the sum over chunks of each one's own, from the state before it."""
    algorithm = made()
    params, steps = sampled(algorithm)
    own = recurrent_policy(algorithm, params)
    state, total = own.initial_state(len(steps.valid)), int(steps.valid.sum())
    expected = {name: torch.zeros_like(value) for name, value in params.items()}
    for start in range(0, steps.valid.shape[1], 5):
        part = recurrent.in_interval(steps, slice(start, start + 5))
        output = own(part.inputs, state.detach())
        loss, _ = rl2_loss(output, part, LOSS, 0.03)
        gradients = torch.autograd.grad(loss * (int(part.valid.sum()) / total), list(own.parameters()))
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += gradient
        state = output.state
    ours = whole_gradient(algorithm, params, [steps], 5)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-12, atol=1e-15)


def test_minibatches_hold_every_trial_once(monkeypatch):
    algorithm = made(meta_batch_size=5)
    _, steps = sampled(algorithm)
    monkeypatch.setattr(recurrent, "_PART_ROWS", 2)
    shares = minibatches(steps, 3, cheap=False)
    assert [sum(len(part.valid) for part in share) for share in shares] == [3, 3, 4]
    assert all(len(part.valid) <= 2 for share in shares for part in share)
    together = [part for share in shares for part in share]
    for index, whole in enumerate(steps[1:], start=1):
        assert torch.equal(torch.cat([part[index] for part in together]), whole)
    assert torch.equal(torch.cat([part.inputs.features for part in together]), steps.inputs.features)
    assert all(part.inputs.features.transpose(0, 1).is_contiguous() for part in together)


@pytest.mark.parametrize(
    ("rows", "time", "cheap", "parts"),
    [
        (3, 10, True, 3),
        (50, 100, True, 4),
        (250, 100, True, 8),
        (2500, 100, True, 16),
        (10_000, 100, True, 40),
        (50, 100, False, 1),
        (250, 100, False, 1),
        (257, 100, False, 2),
        (250, 400, False, 4),
    ],
)
def test_the_number_of_parts_depends_on_the_trials_alone(rows, time, cheap, parts):
    assert num_parts(rows, time, cheap) == parts


@pytest.mark.thorough
@pytest.mark.parametrize("update", ["ppo", "trpo"])
def test_parts_and_threads_change_nothing(update, monkeypatch):
    """With several parts in a minibatch, one thread and three give the same bits."""
    monkeypatch.setattr(recurrent, "_PART_ROWS", 1)
    changes = dict(
        update=update, policy=MemoryConfig(4, separate_value=True), dtype="float32", horizon=8, meta_batch_size=2
    )
    states = [algorithm.step(algorithm.init()).state for algorithm in (made(num_threads=n, **changes) for n in (1, 3))]
    first, second = map(pytree.tree_leaves, states)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(first, second, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("update", ["ppo", "trpo"])
@pytest.mark.parametrize(
    "policy",
    [
        MemoryConfig(4, "transformer", "film", (3,), num_attention_heads=2, separate_value=True),
        MemoryConfig(4, "set", "hyper", (3,), separate_value=True),
    ],
)
def test_threads_change_nothing_with_other_memories_and_heads(update, policy, monkeypatch):
    monkeypatch.setattr(recurrent, "_PART_ROWS", 1)
    changes = dict(update=update, policy=policy, dtype="float32", horizon=8, meta_batch_size=2)
    states = [algorithm.step(algorithm.init()).state for algorithm in (made(num_threads=n, **changes) for n in (1, 3))]
    first, second = map(pytree.tree_leaves, states)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(first, second, strict=True))


TRPO = dict(update="trpo", policy=MemoryConfig(3, separate_value=True, output_scale=1.0))


def test_the_fisher_product_is_the_hessian_of_the_divergence():
    algorithm = made(meta_batch_size=2, **TRPO)
    state = algorithm.init()
    steps = algorithm.agent.sample(state.meta.model, state.scale, 0).steps
    assert not steps.valid.all()
    objective = make_objective(algorithm.agent, state.meta.model, steps)
    problem = objective.problem()
    size = len(problem.gradient)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    # D(εv) = ½ ε² vᵀFv + O(ε³); both signs take the odd terms out.
    eps = 1e-3
    curvature = (problem.evaluate(eps * vector)[1] + problem.evaluate(-eps * vector)[1]) / eps**2
    assert float(vector.dot(problem.fisher_product(vector))) == pytest.approx(curvature, rel=1e-4)
    slope = (problem.evaluate(eps * vector)[0] - problem.evaluate(-eps * vector)[0]) / (2 * eps)
    assert float(vector.dot(problem.gradient)) == pytest.approx(slope, rel=1e-4)
    assert problem.evaluate(torch.zeros(size, dtype=torch.float64)) == (pytest.approx(problem.loss), 0.0)


@pytest.mark.parametrize(("memory", "parts"), [("gru", 1), ("transformer", 4), ("set", 4)])
def test_few_trials_are_parts_for_several_threads_where_no_memory_loops_over_steps(memory, parts):
    policy = MemoryConfig(8, memory, "state", (3,), separate_value=True)
    algorithm = made(update="trpo", policy=policy, horizon=4)
    state = algorithm.init()
    steps = algorithm.agent.sample(state.meta.model, state.scale, 0).steps
    assert len(make_objective(algorithm.agent, state.meta.model, steps).parts) == parts


def test_the_weights_of_the_fisher_product_have_the_dtype_of_the_run():
    algorithm = made(**TRPO)
    state = algorithm.init()
    steps = algorithm.agent.sample(state.meta.model, state.scale, 0).steps
    (part,) = make_objective(algorithm.agent, state.meta.model, steps).parts
    assert part.weights.dtype == torch.float64
    assert float(part.weights.sum()) == pytest.approx(1.0, abs=1e-14)


def test_the_trust_region_holds_and_the_value_stays():
    algorithm = made(max_kl=0.003, **TRPO)
    state = algorithm.init()
    steps = algorithm.agent.sample(state.meta.model, state.scale, 0).steps
    objective = make_objective(algorithm.agent, state.meta.model, steps)
    params, metrics = trust_region_update(objective, algorithm.config)
    assert not any(name.startswith("value_") for name in params)
    assert metrics["step_accepted"] == 1.0 and metrics["loss_after"] < metrics["loss_before"]
    own = recurrent_policy(algorithm, state.meta.model)
    before = own(steps.inputs, own.initial_state(len(steps.valid))).distribution.logits.detach()
    after = recurrent_policy(algorithm, state.meta.model | params)(steps.inputs, own.initial_state(len(steps.valid)))
    p, q = before.softmax(-1), after.distribution.logits.softmax(-1)
    kl = float((p * (p / q).log()).sum(-1)[steps.valid].mean().detach())
    assert 0 < kl <= 0.003 and metrics["kl"] == pytest.approx(kl, rel=1e-9)
    assert all(not torch.equal(value, state.meta.model[name]) for name, value in params.items())


@pytest.mark.thorough
def test_trpo_moves_everything_and_goes_on_from_a_checkpoint(tmp_path):
    algorithm = made(**TRPO)
    state, metrics = algorithm.step(algorithm.init())
    assert all(not torch.equal(state.meta.model[name], value) for name, value in algorithm.init().meta.model.items())
    assert metrics["kl"] <= algorithm.config.max_kl and {"value_loss", "cg_residual"} <= set(metrics)
    assert not {"policy_loss", "clip_fraction", "entropy_coef"} & set(metrics), "there are no clipped steps"
    expected = algorithm.step(state).state
    Checkpoints(tmp_path, "rl2", {}).save(state)
    again = made(**TRPO).step(load(tmp_path / "latest").restore(made(**TRPO).init())).state
    for ours, theirs in zip(pytree.tree_leaves(again), pytree.tree_leaves(expected), strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs


def test_schedules_by_hand():
    config = dataclasses.replace(
        SMALL,
        num_iterations=11,
        meta_lr=0.1,
        final_lr_fraction=0.05,
        entropy_coef=0.2,
        entropy_until=0.8,
        meta_batch_size=10,
        final_meta_batch_size=30,
    )
    assert [config.lr_at(i) for i in (0, 5, 10)] == pytest.approx([0.1, 0.0525, 0.005])
    assert [config.entropy_coef_at(i) for i in (0, 4, 8, 10)] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert [config.tasks_at(i) for i in (0, 5, 10)] == [10, 20, 30]
    assert dataclasses.replace(config, num_iterations=1).lr_at(0) == 0.1


def test_the_explained_variance_by_hand():
    target, valid = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])
    assert explained_variance(target, target, valid) == 1.0
    assert explained_variance(torch.full((1, 3), 2.0), target, valid) == 0.0
    assert explained_variance(target, torch.full((1, 3), 2.0), valid) is None, "all targets are equal"
    assert explained_variance(target, target, torch.zeros_like(valid)) is None, "there is no step"
    assert explained_variance(torch.tensor([[1.5, 3.0, 0.0]]), target, valid) == pytest.approx(1 - 0.125 / 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(episodes_per_trial=0), "episodes_per_trial=0: need at least 1"),
        (dict(chunk_length=61), r"chunk_length=61: need at most 60, the steps of a trial \(2 episodes\)"),
        (dict(chunk_length=-1), "chunk_length=-1: need at least 0"),
        (dict(num_minibatches=9), r"num_minibatches=9: need at most 8, the trials of an iteration"),
        (dict(update="trpo"), r"policy\.separate_value=False: update='trpo' changes the policy alone"),
        (dict(TRPO, clip_eps=0.1), "clip_eps=0.1: update='trpo' does not read it; need 0.2"),
        (dict(TRPO, entropy_coef=0.1), "entropy_coef=0.1: update='trpo' does not read it; need 0.01 or 0.0"),
        (dict(TRPO, entropy_until=0.1), "entropy_until=0.1: update='trpo' does not read it"),
        (dict(max_kl=0.1), "max_kl=0.1: update='ppo' does not read it; need 0.01"),
        (dict(cg_iterations=4), "cg_iterations=4: update='ppo' does not read it"),
        (
            dict(policy=MemoryConfig(4, init_log_std=0.5)),
            r"policy\.init_log_std=0.5: it is for continuous actions, got Discrete\(2\); need 0.0",
        ),
        (dict(policy=MemoryConfig(4, min_log_std=-1.0)), r"policy\.min_log_std=-1.0: it is for continuous actions"),
        (dict(update="a2c"), "update='a2c': need one of 'ppo', 'trpo'"),
        (dict(learn_from="returns"), "learn_from='returns': need one of 'reward', 'regret'"),
        (
            dict(learn_from="regret"),
            "the best policies for task='cartpole_params' are not known, those for 'bandit' an",
        ),
        (
            dict(task="bandit", horizon=None, learn_from="regret", discount=0.9),
            "undiscounted, got discount=0.9; need 1",
        ),
        (dict(clip_eps=1.0), "clip_eps=1.0: need a value between 0 and 1"),
        (dict(gae_lambda=1.5), "gae_lambda=1.5: need a value from 0 to 1"),
        (dict(entropy_until=0.0), "entropy_until=0.0: need a value above 0"),
        (dict(horizon=0), "horizon=0"),
        (dict(policy=MemoryConfig(4, per_state_heads=True)), r"policy\.per_state_heads=True: it is for one-hot"),
        (
            dict(task="cheetah_vel", policy=MemoryConfig(4, outer_input=True)),
            r"policy\.outer_input=True: it is for disc",
        ),
        (dict(task="bandit", horizon=2), "horizon=2: need 1"),
        (
            dict(policy=MemoryConfig(8, memory="transformer"), chunk_length=7),
            r"chunk_length=7: gradients are truncated at the state of a GRU, got policy\.memory='transformer'; need 0",
        ),
        (dict(policy=MemoryConfig(8, memory="set", head="state"), chunk_length=7), r"got policy\.memory='set'; need 0"),
        (
            dict(policy=MemoryConfig(8, memory="transformer", context_length=59)),
            r"policy\.context_length=59: need at least 60, the steps of a trial",
        ),
        (
            dict(policy=MemoryConfig(8, memory="transformer", positions="learned"), num_adapt_steps=2),
            r"context_length=60: need at least 90, the steps of a trial of an evaluation \(num_adapt_steps=2\), or",
        ),
        (
            dict(policy=MemoryConfig(8, memory="transformer", context_length=89), num_adapt_steps=2),
            r"policy\.context_length=89: need at least 90, the steps of a trial of an evaluation",
        ),
        (dict(policy=MemoryConfig(8, belief_size=2)), r"policy\.belief_size=2: no loss trains the belief"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_a_transformer_with_room_for_the_trials_of_an_evaluation_is_not_refused():
    """Fewer episodes than in training need no more than training does, and other memories have no limit."""
    transformer = MemoryConfig(8, memory="transformer")
    for policy, steps in ((transformer, 1), (transformer, 0), (transformer, None), (MemoryConfig(8), 9)):
        dataclasses.replace(SMALL, policy=policy, num_adapt_steps=steps)
    dataclasses.replace(SMALL, policy=dataclasses.replace(transformer, context_length=90), num_adapt_steps=2)


@pytest.mark.slow
def test_the_state_of_the_policy_is_what_beats_chance_on_a_bandit():
    """Without memory no policy earns more than ½ a pull: arms are exchangeable. With it, far more in seconds."""
    config = RL2Config(
        episodes_per_trial=10,
        meta_batch_size=1000,
        num_iterations=40,
        meta_lr=0.01,
        policy=MemoryConfig(32),
        num_threads=1,
    )
    algorithm = RL2(config)
    state = algorithm.init()
    for _ in range(config.num_iterations):
        state = algorithm.step(state).state
    learned = algorithm.evaluate(state, 4000, None).totals["total"]
    assert learned.mean() > 6.0
    forgetful = dict(state.meta.model)
    for name in ("weight_input", "weight_hidden", "bias_hidden"):
        forgetful[f"body.{name}"] = torch.zeros_like(forgetful[f"body.{name}"])
    total = trial_curve(algorithm.agent, forgetful, 4000, None).totals["total"]
    assert abs(total.mean() - 10 * 0.5) < 4 * total.std() / math.sqrt(4000)
