"""Algorithm Distillation: histories of sources, the loss, and files, against loops over single steps."""

from __future__ import annotations

import dataclasses
import zipfile

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from research import rng
from research.algorithms.memory.distillation import Distillation, as_trials
from research.algorithms.memory.distillation_config import DistillationConfig
from research.algorithms.memory.sources import SourceConfig, play
from research.policies.memory import MemoryConfig
from research.sampling.histories import Histories, make_histories, read_histories, state_table, write_histories
from research.sampling.trials import bind, collect_trials, trial_inputs
from research.tasks import make_tasks
from research.tasks.hidden_goal import MOVES

TRANSFORMER = MemoryConfig(8, memory="transformer", num_attention_heads=2, num_layers=2, output_scale=1.0)
SMALL = DistillationConfig(
    task="dark_room",
    task_args={"size": 3},
    horizon=4,
    episodes_per_trial=3,
    source=SourceConfig(num_episodes=7, initial_value=1.0, epsilon=0.4),
    num_histories=9,
    keep_every=2,
    meta_batch_size=6,
    updates_per_iteration=2,
    policy=TRANSFORMER,
    num_eval_tasks=9,
    eval_trials=2,
    num_threads=1,
    dtype="float64",
)
BANDIT = dict(task="bandit", task_args={}, horizon=None, episodes_per_trial=6, keep_every=1)


def made(**changes):
    return Distillation(dataclasses.replace(SMALL, **changes))


def started(**changes):
    """The algorithm after the check that a training begins with."""
    algorithm = made(**changes)
    algorithm.check(algorithm.init())
    return algorithm


def room(**settings):
    return make_tasks("dark_room", size=3, horizon=4, **settings)


def test_the_histories_of_q_learning_are_those_of_one_learner_after_the_other():
    config = SourceConfig(num_episodes=7, initial_value=0.5, epsilon=0.6, final_epsilon=0.1, learning_rate=0.7)
    distribution = room()
    tasks, episodes = distribution.sample(5, rng.generator(1, "tasks")), 6
    found = play(config, distribution, tasks, 2, episodes, rng.generator(2, "source"))
    draws = rng.generator(2, "source")
    draws.integers(2**31)  # the seed of the environments, which draw nothing
    drawn = [(draws.random(10), draws.integers(5, size=10), draws.random((10, 5))) for _ in range(episodes * 4)]
    for row in range(10):
        goal = tuple((tasks.goal[row // 2] + 1).astype(int))
        values = {(x, y): [0.5] * 5 for x in range(3) for y in range(3)}
        for t, (chance, at_random, tie) in enumerate(drawn):
            episode, step = divmod(t, 4)
            cell = (1, 1) if step == 0 else cell
            epsilon = 0.6 + (0.1 - 0.6) * episode / 6
            best = [action for action in range(5) if values[cell][action] == max(values[cell])]
            action = max(best, key=lambda action: tie[row, action])
            if chance[row] < epsilon:
                action = int(at_random[row])
            following = tuple(min(max(int(c + d), 0), 2) for c, d in zip(cell, MOVES[action], strict=True))
            reward = float(following == goal)
            own = row, episode, step
            assert found.observation[own] == cell[0] * 3 + cell[1]
            assert (found.action[own], found.reward[own]) == (action, reward)
            target = reward + 0.9 * max(values[following])
            values[cell][action] += 0.7 * (target - values[cell][action])
            cell = following
    assert (found.length == 4).all()
    np.testing.assert_array_equal(found.returns(), found.reward.sum(-1))


def test_fewer_episodes_of_a_source_are_the_first_ones_of_more():
    distribution = room()
    tasks = distribution.test_tasks(9)
    fewer, more = (play(SMALL.source, distribution, tasks, 1, count, rng.generator(0, "source")) for count in (3, 8))
    assert all(np.array_equal(a, b[:, :3]) for a, b in zip(fewer, more, strict=True))


def test_coordinates_are_learned_like_cells():
    """The table of Q-learning is by the observations that it met, whatever they are."""
    cells, coordinates = (
        play(SMALL.source, distribution, distribution.test_tasks(9), 1, 7, rng.generator(0, "source"))
        for distribution in (room(), room(observation="coordinates"))
    )
    np.testing.assert_array_equal(cells.action, coordinates.action)
    assert coordinates.observation.shape == (9, 7, 4, 2)
    np.testing.assert_array_equal(coordinates.observation @ np.array([3, 1]), cells.observation)


@pytest.mark.parametrize("kind", ["ucb1", "thompson"])
def test_the_histories_of_bandits_are_those_of_their_formula(kind):
    config = SourceConfig(kind=kind, num_episodes=30)
    distribution = make_tasks("bandit", num_arms=3)
    tasks = distribution.sample(20, rng.generator(1, "tasks"))
    found = play(config, distribution, tasks, 1, 30, rng.generator(2, "source"))
    draws = rng.generator(2, "source")
    draws.integers(2**31)
    success, failure = np.zeros((20, 3)), np.zeros((20, 3))
    for t in range(30):
        pulls = success + failure + 2
        if kind == "ucb1":
            index = (success + 1) / pulls + 0.2 * np.sqrt(2 * np.log(t + 1) / pulls)
        else:
            index = draws.beta(success + 1, failure + 1)
        arm, reward = found.action[:, t, 0], found.reward[:, t, 0]
        np.testing.assert_array_equal(arm, index.argmax(1))
        success[np.arange(20), arm] += reward
        failure[np.arange(20), arm] += 1 - reward
    assert 0 < found.reward.mean() < 1


def test_episodes_that_end_early_are_kept_apart():
    """A grid whose episodes end at the goal: rows go on at their own pace."""
    distribution = make_tasks("grid_goals", size=3, horizon=6)
    tasks = distribution.sample(6, rng.generator(1, "tasks"))
    found = play(SourceConfig(num_episodes=30, initial_value=1.0), distribution, tasks, 1, 30, rng.generator(0, "x"))
    assert found.length.min() < found.length.max() <= 6 and found.length.min() >= 1
    valid = found.valid()
    assert not found.reward[~valid].any() and not found.action[~valid].any()
    last = np.take_along_axis(found.reward, found.length[..., None] - 1, 2)[..., 0]
    np.testing.assert_array_equal(found.returns(), last)  # 1 at the goal, which ends the episode
    assert last[found.length < 6].all()
    steps = np.abs(np.diff(np.divmod(found.observation, 3), axis=-1)).sum(0)
    assert steps[valid[:, :, 1:]].max() == 1, "neighbours follow each other"


def numbered(lengths):
    """Histories whose reward says history, episode and step: 100 h + 10 e + t."""
    length = np.asarray(lengths)
    rows, episodes = length.shape
    history, episode, step = np.ogrid[:rows, :episodes, :3]
    reward = 100.0 * history + 10 * episode + step
    return make_histories(step + 0 * reward.astype(int), step + 0 * reward.astype(int), reward, length)


def test_every_kth_episode_is_kept():
    histories = numbered(np.full((2, 7), 3))
    kept = histories.keep(np.array([1, 0, 1]), np.array([0, 2, 1]), 3, 2)
    np.testing.assert_array_equal(kept.reward[..., 0], [[100, 130], [20, 50], [110, 140]])
    assert kept.length.shape == (3, 2)


def test_trials_of_histories_have_their_steps_one_after_the_other():
    kept = numbered([[3, 1, 2], [1, 1, 3]])
    trials = as_trials(kept, np.eye(3, dtype=np.float32), torch.zeros((), dtype=torch.float64))
    expected = [[0, 1, 2, 10, 20, 21], [100, 110, 120, 121, 122]]
    for row, rewards in enumerate(expected):
        count = len(rewards)
        assert trials.reward[row, 0, :count].tolist() == rewards
        assert trials.valid[row, 0].tolist() == [True] * count + [False] * (9 - count)
        assert trials.episode[row, 0, :count].tolist() == [reward // 10 % 10 for reward in rewards]
        steps = torch.tensor(rewards) % 10
        assert torch.equal(trials.action[row, 0, :count], steps)
        assert torch.equal(trials.observation[row, 0, :count], torch.eye(3, dtype=torch.float64)[steps])
        assert trials.ended[row, 0, :count].tolist() == [b % 10 == 0 for b in [*rewards[1:], 0]]


def drawn_rows(algorithm, iteration, update):
    """The histories of a minibatch, by their definition: a list of lists of episodes."""
    config, draws = algorithm.config, rng.generator(algorithm.config.seed, "minibatches", iteration, update)
    history = draws.integers(config.num_histories, size=config.meta_batch_size)
    first = draws.integers(config.keep_every, size=config.meta_batch_size)
    episodes = range(config.episodes_per_trial)
    return [(h, [j + config.keep_every * e for e in episodes]) for h, j in zip(history, first, strict=True)]


def plain_loss(algorithm, policy, iteration, update):
    """−log π of every action of a minibatch, one step after the other with the cache; and how many modes agree."""
    table = state_table(algorithm.agent.tasks.observation_space)
    losses, equal = [], 0
    for history, episodes in drawn_rows(algorithm, iteration, update):
        state, seen = policy.initial_state(1), torch.zeros(1, table.shape[1], dtype=torch.float64)
        last = seen, policy.first_action(1), torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
        for episode in episodes:
            for step in range(algorithm.agent.tasks.horizon):
                place = history, episode, step
                observation, action, reward = (field[place] for field in algorithm.histories[:3])
                seen = torch.as_tensor(table[observation], dtype=torch.float64)[None]
                output = policy.act(policy.encode(seen, *last), state)
                log_probs, state = output.distribution.logits.log_softmax(-1)[0], output.state
                losses.append(-float(log_probs[action]))
                equal += int(log_probs.argmax()) == action
                is_last = torch.tensor([step == algorithm.agent.tasks.horizon - 1])
                last = seen, torch.tensor([int(action)]), torch.tensor([float(reward)], dtype=torch.float64), is_last
    return np.mean(losses), equal / len(losses)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(policy=dataclasses.replace(TRANSFORMER, positions="learned", head="state", head_hidden_sizes=(5,))),
        dict(policy=MemoryConfig(6, output_scale=1.0)),
        BANDIT | dict(source=SourceConfig(kind="ucb1", num_episodes=6)),
    ],
)
def test_the_loss_is_that_of_single_steps_with_the_cache(changes):
    algorithm = made(**changes, updates_per_iteration=1)
    state = algorithm.init()
    policy = bind(algorithm.agent.policy, state.meta.model)
    with torch.no_grad():
        loss, accuracy = plain_loss(algorithm, policy, 0, 0)
    metrics = algorithm.step(state).metrics
    assert metrics["imitation_loss"] == pytest.approx(loss, rel=1e-9)
    assert metrics["imitation_accuracy"] == pytest.approx(accuracy)
    assert metrics["imitated_steps"] == 6 * algorithm.agent.longest


def test_the_gradient_in_parts_is_that_of_the_loss_in_one_piece():
    algorithm = made()
    params = algorithm.init().meta.model
    policy, batch = bind(algorithm.agent.policy, params, requires_grad=True), algorithm.minibatch(0, 0)
    log_prob = policy(batch.inputs, policy.initial_state(6)).distribution.log_prob(batch.action)
    names, leaves = zip(*policy.named_parameters(), strict=True)
    expected = torch.autograd.grad(-log_prob.mean(), leaves, allow_unused=True)
    gradient, _ = algorithm._gradient(policy, batch)
    assert gradient.keys() == {name for name in names if not name.startswith("value_")}
    for name, value in zip(names, expected, strict=True):
        if name in gradient:
            torch.testing.assert_close(gradient[name], value, rtol=1e-9, atol=1e-12)
        else:
            assert value is None or not value.any(), "the value is not trained"


def test_steps_after_the_end_of_a_history_do_not_count():
    """Episodes of different lengths: the loss of a padded batch is that of its valid steps."""
    algorithm = made()
    kept = numbered([[3, 1, 2], [1, 1, 3]])
    algorithm.histories = kept._replace(observation=kept.observation % 9)
    algorithm.config = dataclasses.replace(SMALL, keep_every=1, meta_batch_size=2)
    batch = algorithm.minibatch(0, 0)
    policy = bind(algorithm.agent.policy, algorithm.init().meta.model)
    _, sums = algorithm._gradient(bind(policy, dict(policy.named_parameters()), requires_grad=True), batch)
    with torch.no_grad():
        rows = [slice(0, 1), slice(1, 2)]
        losses = []
        for row in rows:
            count = int(batch.valid[row].sum())
            own = batch.inputs.map(lambda leaf, row=row, count=count: leaf[row, :count])
            distribution = policy(own, policy.initial_state(1)).distribution
            losses.append(-distribution.log_prob(batch.action[row, :count]).sum())
    assert float(sums[0]) == pytest.approx(float(sum(losses)), rel=1e-9)
    assert float(sums[3]) == int(batch.valid.sum()) < batch.valid.numel()


def test_no_history_and_no_later_step_reaches_an_action():
    algorithm = made()
    policy, batch = bind(algorithm.agent.policy, algorithm.init().meta.model), algorithm.minibatch(0, 0)

    def respond(inputs):
        return policy(inputs, policy.initial_state(6)).distribution.logits.detach()

    before = respond(batch.inputs)
    changed = batch.inputs.map(torch.clone)
    changed.features[2, 7:] += 1.0
    after = respond(changed)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-12)
    torch.testing.assert_close(after[2, :7], before[2, :7], rtol=0, atol=1e-12)
    assert (after[2, 7:] - before[2, 7:]).abs().amax(-1).min() > 1e-6
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(respond(batch.inputs.map(lambda leaf: leaf[order])), before[order])


def test_acting_in_a_trial_is_reading_it_as_a_history():
    algorithm = made()
    agent, params = algorithm.agent, algorithm.init().meta.model
    envs = agent.tasks.make_envs(agent.tasks.test_tasks(9), 1)
    trials = collect_trials(agent.policy, params, envs, 9, 3, 4, rng.torch_generator(0, "actions"))
    policy = bind(agent.policy, params)
    inputs = trial_inputs(policy, trials).map(lambda leaf: leaf.flatten(0, 1))
    log_prob = policy(inputs, policy.initial_state(9)).distribution.log_prob(trials.action.flatten(0, 1))
    torch.testing.assert_close(log_prob, trials.log_prob.flatten(0, 1), rtol=0, atol=1e-12)


def test_minibatches_have_all_histories_from_all_their_first_episodes():
    algorithm = made(meta_batch_size=400)
    rows = drawn_rows(algorithm, 0, 0)
    assert {row[0] for row in rows} == set(range(9)) and {row[1][0] for row in rows} == {0, 1}
    rewards = [algorithm.histories.reward[history][episodes].ravel() for history, episodes in rows]
    ours = algorithm.minibatch(0, 0).inputs.features[:, 1:, -2].numpy()
    np.testing.assert_array_equal(ours, np.array(rewards)[:, :-1])
    assert not torch.equal(algorithm.minibatch(0, 1).action, algorithm.minibatch(0, 0).action)


@pytest.mark.thorough
def test_it_learns_to_imitate():
    """The source's actions are easier to tell from its history than without it: below their marginal entropy."""
    algorithm = made(
        policy=dataclasses.replace(TRANSFORMER, num_layers=1, head="state", head_hidden_sizes=(16,), hidden_size=16),
        dtype="float32",
        num_histories=90,
        meta_batch_size=24,
        updates_per_iteration=15,
        meta_lr=1e-2,
        num_iterations=6,
        horizon=6,
        keep_every=6,
        source=dataclasses.replace(SMALL.source, epsilon=0.0, num_episodes=18),
    )
    share = np.bincount(algorithm.histories.action.ravel(), minlength=5) / algorithm.histories.action.size
    entropy = -(share * np.log(share)).sum()
    state, losses = algorithm.init(), []
    for _ in range(6):
        state, metrics = algorithm.step(state)
        losses.append(metrics["imitation_loss"])
    assert losses[0] > losses[-1] and losses[-1] < entropy - 0.2, (losses, entropy)


def saved(path, histories, distribution, task="dark_room"):
    with path.open("wb") as file:
        write_histories(file, histories, task, distribution, "a test")
    return str(path)


def same(first, second):
    ours, theirs = pytree.tree_leaves(first), pytree.tree_leaves(second)
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(ours, theirs, strict=True)
    )


def test_a_file_of_the_source_trains_as_the_source_does(tmp_path):
    algorithm = made()
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    other = made(histories=path, num_histories=1, source=SourceConfig())
    assert other.checksum == algorithm.checksum > 0
    first, second = algorithm.step(algorithm.init()), other.step(other.init())
    assert same(first.state, second.state) and first.state.checksum == algorithm.checksum
    curve = other.evaluate(second.state, 9, None)
    assert "source" not in curve.extras and "total_source" not in curve.totals
    np.testing.assert_array_equal(curve.score, algorithm.evaluate(first.state, 9, None).score)


def test_other_histories_than_those_of_the_checkpoint_are_refused(tmp_path):
    algorithm = made()
    state = algorithm.step(algorithm.init()).state
    histories = algorithm.histories
    changed = histories._replace(reward=histories.reward.copy())
    changed.reward[3, 2, 1] += 1
    assert changed.checksum() != histories.checksum()
    other = made(histories=saved(tmp_path / "other.npz", changed, algorithm.agent.tasks))
    for go_on in (other.check, other.step):
        with pytest.raises(
            ValueError, match=f"was trained on histories with checksum {algorithm.checksum:012x}, .*other"
        ):
            go_on(state)
    other.check(state._replace(iteration=other.config.num_iterations))  # nothing is left to be learned
    with pytest.raises(ValueError, match="those of the source have"):
        made(seed=1).check(state)
    algorithm.check(state)


def test_an_evaluation_needs_no_file_and_does_not_speak_of_another_source(tmp_path):
    algorithm = made()
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    state = made(histories=path).step(algorithm.init()).state
    moved = made(histories=str(tmp_path / "moved.npz"))
    np.testing.assert_array_equal(moved.evaluate(state, 9, None).score, algorithm.evaluate(state, 9, None).score)
    with pytest.raises(ValueError, match=r"moved\.npz': no such file"):
        moved.check(state)
    assert "histories" not in DistillationConfig.evaluation_settings
    assert "histories" in DistillationConfig.resume_settings


def test_continuous_actions_and_observations_are_imitated_from_a_file(tmp_path):
    distribution = make_tasks("navigation_2d", horizon=4)
    draws = rng.generator(0, "test")
    size = (5, 3, 4)
    histories = make_histories(
        draws.normal(size=(*size, 2)), draws.normal(size=(*size, 2)), draws.normal(size=size), np.full((5, 3), 4)
    )
    path = saved(tmp_path / "points.npz", histories, distribution, "navigation_2d")
    algorithm = made(task="navigation_2d", task_args={}, keep_every=1, histories=path, updates_per_iteration=1)
    batch = algorithm.minibatch(0, 0)
    policy = bind(algorithm.agent.policy, algorithm.init().meta.model)
    expected = -policy(batch.inputs, policy.initial_state(6)).distribution.log_prob(batch.action).mean()
    metrics = algorithm.step(algorithm.init()).metrics
    assert metrics["imitation_loss"] == pytest.approx(float(expected)) and "imitation_accuracy" not in metrics


def test_an_evaluation_has_the_source_on_the_same_tasks():
    algorithm = made()
    curve = algorithm.evaluate(algorithm.init(), 9, None)
    assert curve.extras.keys() == {"regret", "source", "source_kept", "source_regret"}
    played = play(SMALL.source, room(), curve.tasks, 2, 6, rng.generator(0, "source/evaluation"))
    returns = played.returns().reshape(9, 2, 6).mean(1).T
    np.testing.assert_allclose(curve.extras["source"], returns[:3])
    np.testing.assert_allclose(curve.extras["source_kept"], [(returns[e] + returns[e + 1]) / 2 for e in (0, 2, 4)])
    optimal = room().optimal_return(curve.tasks)
    np.testing.assert_allclose(optimal - curve.extras["source_regret"].mean(0), returns[:3].mean(0), atol=1e-9)
    np.testing.assert_allclose(curve.totals["total_source"].mean(), returns[:3].sum(0).mean())
    shorter = algorithm.evaluate(algorithm.init(), 9, 1)
    np.testing.assert_array_equal(shorter.extras["source"], curve.extras["source"][:2])
    other = algorithm.evaluate(algorithm.init(), 9, None, "validation")
    assert not np.array_equal(other.extras["source"], curve.extras["source"])


def test_the_total_of_the_source_stands_next_to_that_of_the_policy():
    """Where no optimum is known, too."""
    algorithm = made(task="grid_goals", num_eval_tasks=3)
    curve = algorithm.evaluate(algorithm.init(), 3, None)
    assert curve.totals.keys() == {"total", "total_source"} and curve.score.sum() > 0
    np.testing.assert_array_equal(curve.totals["total"], curve.score.sum(0))
    np.testing.assert_array_equal(curve.totals["total_source"], curve.extras["source"].sum(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(keep_every=3), r"source\.num_episodes=7: need at least 9 \(keep_every=3 × episodes_per_trial=3\)"),
        (dict(keep_every=0), "keep_every=0: need at least 1"),
        (dict(policy=MemoryConfig(8, separate_value=True)), r"policy\.separate_value=True: the value is not trained"),
        (dict(policy=dataclasses.replace(TRANSFORMER, context_length=11)), r"context_length=11: need at least 12"),
        (dict(source=SourceConfig(kind="ucb1", num_episodes=9)), r"source\.kind='ucb1': it is for bandits"),
        (
            BANDIT | dict(task_args={"reward": "gaussian"}, source=SourceConfig(kind="thompson", num_episodes=6)),
            r"source\.kind='thompson': it is for rewards 0 and 1, got task_args\.reward='gaussian'; need task",
        ),
        (dict(task="navigation_2d", task_args={}), r"source\.kind='q_learning': it is for discrete actions, got Box"),
        (dict(task="dark_room", task_args={"size": 4}), "size=4: need an odd number"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(change, message):
    with pytest.raises(ValueError, match=message):
        made(**change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(kind="sarsa"), "kind='sarsa': need one of"),
        (dict(num_episodes=0), "num_episodes=0: need at least 1"),
        (dict(learning_rate=0.0), "learning_rate=0.0: need a value above 0, at most 1"),
        (dict(epsilon=1.5), "epsilon=1.5: need a value from 0 to 1"),
        (dict(bonus=0.5), r"source\.bonus=0\.5: source\.kind='q_learning' does not read it; need 0\.2"),
        (dict(kind="thompson", epsilon=0.1), r"source\.epsilon=0\.1: source\.kind='thompson' does not read it"),
    ],
)
def test_impossible_sources_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SourceConfig(**settings)


def test_a_bandit_policy_refuses_rewards_that_it_cannot_count():
    gaussian = make_tasks("bandit", reward="gaussian")
    with pytest.raises(ValueError, match=r"for rewards 0 and 1, got -?\d.*; need 'q_learn"):
        play(SourceConfig(kind="ucb1"), gaussian, gaussian.test_tasks(3), 1, 5, rng.generator(0, "x"))


def test_a_table_refuses_observations_without_number(monkeypatch):
    from research.algorithms.memory import sources

    assert f"at most {sources._MOST_STATES} observations" in SourceConfig.__doc__
    monkeypatch.setattr(sources, "_MOST_STATES", 8)
    distribution = room(observation="coordinates")
    with pytest.raises(ValueError, match="met more than 8 different observations; need a file of histories"):
        play(SourceConfig(epsilon=1.0), distribution, distribution.test_tasks(9), 1, 9, rng.generator(0, "x"))


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reward=None, length=None), "it has no reward, length; need format, task, settings, source, observation"),
        (dict(format=np.array(2)), r"it has format=2 \(int64\); need the integer 1"),
        (dict(format=np.array("1")), r"it has format=1 \(<U1\); need the integer 1"),
        (dict(task=np.array("gridnavi")), "its task is 'gridnavi', got task='dark_room'; need task='gridnavi', or"),
        (dict(settings=np.array('{"horizon": 9}')), r"its horizon is 9, got horizon=4; need 9, or another file"),
        (dict(settings=np.array("nothing")), "its settings are no JSON"),
        (dict(settings=np.array("[" * 100_000)), "its settings are no JSON"),
        (dict(settings=np.array(["{}", "{}"])), r"settings has <U2 of shape \[2\]; need one text"),
        (dict(reward=np.zeros((9, 7))), r"reward has the shape \[9, 7\]; need \[histories, episodes, time\]"),
        (
            dict(action=np.zeros((9, 7, 3), int)),
            r"action has int64 of shape \[9, 7, 3\]; need integers of shape \[9, 7, 4\]",
        ),
        (dict(action=np.zeros((9, 7, 4))), r"action has float64 of shape \[9, 7, 4\]; need integers"),
        (dict(observation=np.zeros((9, 7, 4, 9))), r"observation has float64 of shape \[9, 7, 4, 9\]; need integers"),
        (dict(length=np.full((9, 6), 4)), r"length has int64 of shape \[9, 6\]; need integers of shape \[9, 7\]"),
        (dict(length=np.full((9, 7), 4, "m8[s]")), r"length has timedelta64\[s\] of shape \[9, 7\]; need integers"),
        (dict(length=np.full((9, 7), 5)), "length has 5; need integers from 1 to 4"),
        (dict(action=np.full((9, 7, 4), 5)), "action has 5; need integers from 0 to 4"),
        (dict(observation=np.full((9, 7, 4), -1)), "observation has -1; need integers from 0 to 8"),
        (dict(reward=np.full((9, 7, 4), np.nan)), "reward has values that are not finite"),
        (dict(reward=np.full((9, 7, 4), 1e39)), "reward has values that are not finite in float32"),
        (dict(reward=np.full((9, 7, 4), True)), "reward has bool; need floats or integers"),
        (dict(reward=np.full((9, 7, 4), 1j)), "reward has complex128; need floats or integers"),
    ],
)
def test_files_that_do_not_fit_are_refused(change, message, tmp_path):
    algorithm = made()
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    content = {name: values for name, values in (arrays_of(path) | change).items() if values is not None}
    np.savez(path, **content)
    with pytest.raises(ValueError, match=f"histories='.*own.npz': {message}"):
        started(histories=path)


def test_only_the_members_of_the_format_are_read(tmp_path):
    """Another member may be anything: here one with pickled objects, which nothing here reads."""
    algorithm = made()
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    np.savez(path, **arrays_of(path), remark=np.array([{}], object))
    assert started(histories=path).checksum == algorithm.checksum


def test_a_member_that_is_no_array_is_refused(tmp_path):
    algorithm = made()
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    content = arrays_of(path)
    del content["reward"]
    np.savez(path, **content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("reward", b"text")
    with pytest.raises(ValueError, match=r"own\.npz': reward is no array; need a file that np\.savez wrote"):
        started(histories=path)


def test_an_encrypted_file_is_refused(tmp_path):
    """The archive has an error of its own kind for it."""
    algorithm = made()
    path = tmp_path / "own.npz"
    saved(path, algorithm.histories, algorithm.agent.tasks)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flags of the first member, there and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own.npz': it cannot be read \(.*encrypted.*\); need an \.npz file"):
        started(histories=str(path))


def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def load(*arguments, **named):
        raise MemoryError("Unable to allocate 8 TiB")

    path = saved(tmp_path / "own.npz", made().histories, room())
    monkeypatch.setattr(np, "load", load)
    with pytest.raises(MemoryError, match="8 TiB"):
        started(histories=path)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"histories='.*none.npz': no such file; need one that"):
        started(histories=str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "pickled.npz", reward=np.array([{}], object))
    for name in ("text.npz", "array.npy", "pickled.npz"):
        with pytest.raises(ValueError, match=f"histories='.*{name}': it cannot be read .*without pickled objects"):
            started(histories=str(tmp_path / name))


def test_a_damaged_file_and_one_with_too_few_episodes_are_refused(tmp_path):
    algorithm = made()
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    with pytest.raises(ValueError, match=r"its episodes=7: need at least 9 \(keep_every=3"):
        started(histories=path, keep_every=3)
    content = bytearray((tmp_path / "own.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ValueError, match="it cannot be read"):
        read_histories(path, "dark_room", algorithm.agent.tasks)


def test_a_file_holds_the_histories_to_the_last_bit(tmp_path):
    algorithm = made(task_args={"size": 3, "observation": "coordinates"})
    path = saved(tmp_path / "own.npz", algorithm.histories, algorithm.agent.tasks)
    again = read_histories(path, "dark_room", algorithm.agent.tasks)
    assert isinstance(again, Histories) and again.checksum() == algorithm.checksum
    for ours, theirs in zip(again, algorithm.histories, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
