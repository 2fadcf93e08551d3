"""What holds for every registered task distribution."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from research import rng
from research.tasks import REGRESSION_TASKS, TASKS, SolvedTasks, make_regression_tasks, make_tasks
from research.tasks.base import InferredTasks
from research.tasks.splits import evaluation_tasks

HORIZON = 7
ONE_STEP = ("bandit",)
FITTED = {"grid_goals": dict(size=20), "point_semicircle": dict(goal_radius=0.9)}
"""Settings with enough held-out tasks, and with rewards that random actions find in a short episode."""
BOTH = [("reinforcement learning", name) for name in TASKS] + [("regression", name) for name in REGRESSION_TASKS]


def make_short(name):
    return make_tasks(name, horizon=1 if name in ONE_STEP else HORIZON, **FITTED.get(name, {}))


@pytest.fixture(params=TASKS)
def tasks(request):
    return make_short(request.param)


@pytest.fixture(params=REGRESSION_TASKS)
def regression(request):
    return make_regression_tasks(request.param)


@pytest.fixture(params=BOTH, ids=[name for _, name in BOTH])
def distribution(request):
    kind, name = request.param
    return make_short(name) if kind == "reinforcement learning" else make_regression_tasks(name)


def rows(batch):
    """The tasks of a batch, one after the other, as hashable values."""
    return [tuple(np.asarray(field)[i].tobytes() for field in batch) for i in range(len(batch[0]))]


def assert_equal(first, second):
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def random_actions(envs, steps, seed=0):
    envs.action_space.seed(seed)
    return [envs.action_space.sample() for _ in range(steps)]


def roll_out(envs, seed=0, steps=HORIZON):
    """Everything that an episode shows, copied at the time it is shown."""
    actions = random_actions(envs, steps, seed)
    shown = [np.array(envs.reset(seed=seed)[0])]
    for action in actions:
        shown += [np.array(part) for part in envs.step(action)[:4]]
    return shown


def test_it_is_a_frozen_dataclass_with_defaults(distribution):
    assert type(distribution)() == type(distribution)()
    field = dataclasses.fields(distribution)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(distribution, field, getattr(distribution, field))


def test_a_batch_is_a_named_tuple_of_arrays_with_a_task_axis(distribution):
    for batch in (distribution.sample(5, rng.generator(0, "test")), distribution.test_tasks(5)):
        assert isinstance(batch, tuple) and batch._fields
        assert all(isinstance(field, np.ndarray) and field.shape[0] == 5 for field in batch)
        assert all(np.isfinite(field).all() for field in batch)


def test_samples_come_from_the_generator_alone(distribution):
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    first = distribution.sample(6, rng.generator(0, "test", 1))
    np.random.seed(2)  # noqa: NPY002
    assert_equal(first, distribution.sample(6, rng.generator(0, "test", 1)))
    assert has_one_task(distribution) or rows(first) != rows(distribution.sample(6, rng.generator(0, "test", 2)))


def test_held_out_tasks_are_the_first_of_one_fixed_sequence(distribution):
    nine = distribution.test_tasks(9)
    assert_equal(nine, distribution.test_tasks(9))
    assert_equal([field[:4] for field in nine], distribution.test_tasks(4))
    distinct = 9 if is_disjoint(distribution) else min(9, len(set(rows(distribution.test_tasks(100)))))
    assert len(set(rows(nine))) == distinct


def is_disjoint(distribution):
    return distribution.split.disjoint


def has_one_task(distribution):
    """Whether there is nothing to draw. Only a distribution that says that its splits are not disjoint may be so."""
    return not is_disjoint(distribution) and len(set(rows(distribution.test_tasks(100)))) == 1


def test_training_draws_no_held_out_task_or_the_distribution_says_so(distribution):
    if not is_disjoint(distribution):
        assert set(rows(distribution.sample(100, rng.generator(0, "tasks")))) == set(rows(distribution.test_tasks(100)))
        assert distribution.split.how
        return
    held_out = set(rows(distribution.test_tasks(100)))
    for seed in range(5):
        for iteration in range(20):
            assert not held_out & set(rows(distribution.sample(40, rng.generator(seed, "tasks", iteration))))


def validation(distribution, num_tasks):
    return evaluation_tasks(distribution, "validation", num_tasks)


def test_validation_tasks_are_the_first_of_one_fixed_sequence(distribution):
    nine, evaluated = validation(distribution, 9)
    assert_equal(nine, validation(distribution, 9)[0])
    assert_equal([field[:4] for field in nine], validation(distribution, 4)[0])
    assert evaluated.split == "validation" and evaluated.held_out == distribution.split.validation_disjoint


def test_no_validation_task_is_a_held_out_test_task(distribution):
    test, ours = set(rows(distribution.test_tasks(60))), set(rows(validation(distribution, 60)[0]))
    assert not test & ours if is_disjoint(distribution) else test == ours


def test_training_draws_no_validation_task_or_the_distribution_says_so(distribution):
    ours = set(rows(validation(distribution, 100)[0]))
    drawn = {row for i in range(100) for row in rows(distribution.sample(40, rng.generator(0, "tasks", i)))}
    assert isinstance(distribution.split.validation_disjoint, bool)
    assert not ours & drawn if distribution.split.validation_disjoint else ours <= drawn


INFERRED = [name for name, kind in TASKS.items() if isinstance(kind(), InferredTasks)]


@pytest.mark.parametrize("name", INFERRED)
def test_targets_of_inference_are_in_their_space_and_tell_tasks_apart(name):
    tasks = make_short(name)
    batch, space = tasks.sample(40, rng.generator(0, "test")), tasks.inference_space
    targets = tasks.inference_targets(batch)
    assert targets.shape == (40, *space.shape) and targets.dtype == space.dtype
    assert all(space.contains(target) for target in targets)
    assert len({target.tobytes() for target in targets}) == len(set(rows(batch)))
    pairs = {(target.tobytes(), task) for target, task in zip(targets, rows(batch), strict=True)}
    assert len(pairs) == len(set(rows(batch)))
    assert not any(np.shares_memory(targets, field) for field in batch)


@pytest.mark.parametrize("name", ["ant_dir", "humanoid_dir"])
def test_two_directions_are_kinds_of_tasks_and_all_directions_numbers(name):
    line, plane = (make_tasks(name, directions=kind) for kind in ("line", "plane"))
    assert line.inference_space == gymnasium.spaces.Discrete(2)
    np.testing.assert_array_equal(line.inference_targets(line.test_tasks(4)), [1, 0, 1, 0])
    batch = plane.test_tasks(4)
    np.testing.assert_array_equal(plane.inference_targets(batch), batch.direction)


def test_some_tasks_have_targets_of_inference_and_some_have_none():
    assert {"bandit", "cheetah_vel", "grid_goals", "navigation_2d", "tabular_mdp"} <= set(INFERRED) < set(TASKS)


def test_environments_have_a_row_for_each_task_and_episode(tasks):
    envs = tasks.make_envs(tasks.sample(3, rng.generator(0, "test")), 2)
    assert isinstance(envs, gymnasium.vector.VectorEnv)
    assert envs.num_envs == 6
    assert envs.single_observation_space == tasks.observation_space
    assert envs.single_action_space == tasks.action_space
    observation, info = envs.reset(seed=0)
    assert observation.shape == (6, *tasks.observation_space.shape)
    assert isinstance(info, dict)
    for action in random_actions(envs, HORIZON):
        observation, reward, terminated, truncated, info = envs.step(action)
        assert observation.shape == (6, *tasks.observation_space.shape)
        assert observation in envs.observation_space
        assert all(row in envs.single_observation_space for row in observation), "e.g. one-hot"
        assert reward.shape == terminated.shape == truncated.shape == (6,)
        assert terminated.dtype == truncated.dtype == np.bool_
        assert np.isfinite(observation).all() and np.isfinite(reward).all()
    envs.close()


def test_rows_that_are_part_of_a_batch_draw_what_they_draw_there(tasks):
    batch = tasks.sample(5, rng.generator(0, "test"))
    own = slice(1, None, 2)
    rows = rng.Rows(np.arange(15).reshape(5, 3)[own].ravel(), 15)
    whole, part = tasks.make_envs(batch, 3), tasks.make_envs(type(batch)(*(field[own] for field in batch)), 3)
    for seed in (0, 1):
        there, here = whole.reset(seed=seed)[0], part.reset(seed=seed, options={"rows": rows})[0]
        np.testing.assert_array_equal(here, there[rows.number])
        for action in random_actions(whole, HORIZON):
            there, here = whole.step(action), part.step(action[rows.number])
            for of_part, of_whole in zip(here[:4], there[:4], strict=True):
                np.testing.assert_array_equal(of_part, of_whole[rows.number])
    whole.close()
    part.close()


def test_rows_end_once_at_the_horizon_at_the_latest_and_are_not_reset(tasks):
    envs = tasks.make_envs(tasks.sample(4, rng.generator(0, "test")), 2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert tasks.horizon in (1, HORIZON)
    envs.reset(seed=0)
    ended = np.zeros(8, int)
    for t, action in enumerate(random_actions(envs, HORIZON + 3)):
        _, reward, terminated, truncated, _ = envs.step(action)
        assert not (terminated & truncated).any()
        assert t == tasks.horizon - 1 or not truncated.any(), "truncated before the horizon"
        assert (reward[ended == 1] == 0).all(), "a row that has ended goes on being rewarded"
        ended += terminated | truncated
        assert (ended <= 1).all(), "a row ended twice without a reset"
    assert (ended == 1).all()


def test_a_reset_mask_starts_those_rows_alone(tasks):
    envs = tasks.make_envs(tasks.sample(2, rng.generator(0, "test")), 2)
    start, _ = envs.reset(seed=0)
    start = np.array(start)
    for action in random_actions(envs, HORIZON):
        last = np.array(envs.step(action)[0])
    mask = np.array([True, False, False, True])
    observation, _ = envs.reset(seed=0, options={"reset_mask": mask})
    np.testing.assert_array_equal(observation[mask], start[mask])
    np.testing.assert_array_equal(observation[~mask], last[~mask])
    ended = np.zeros(4, int)
    for action in random_actions(envs, HORIZON):
        observation, reward, terminated, truncated, _ = envs.step(action)
        np.testing.assert_array_equal(observation[~mask], last[~mask])
        assert (reward[~mask] == 0).all(), "a row that was not reset is rewarded"
        ended += terminated | truncated
    np.testing.assert_array_equal(ended, mask)
    envs.close()


def test_solved_tasks_tell_what_sampled_ones_give_away_on_average(tasks):
    if not isinstance(tasks, SolvedTasks):
        assert not hasattr(tasks, "optimal_return") and not hasattr(tasks, "action_regret")
        return
    episodes = 4000
    batch = tasks.sample(3, rng.generator(0, "test"))
    envs = tasks.make_envs(batch, episodes)
    seen, done, total = [envs.reset(seed=0)[0]], [], np.zeros((3, episodes))
    for action in random_actions(envs, tasks.horizon):
        observation, reward, *_ = envs.step(action)
        total += reward.reshape(3, episodes)
        seen, done = [*seen, observation], [*done, action]
    observed = np.stack(seen[:-1], 1).reshape(3, episodes, tasks.horizon, -1)
    acted = np.stack(done, 1).reshape(3, episodes, tasks.horizon, *tasks.action_space.shape)
    regret = tasks.action_regret(batch, observed, acted)
    assert regret.shape == (3, episodes, tasks.horizon) and (regret >= 0).all()
    best = tasks.optimal_return(batch)
    assert best.shape == (3,)
    error = best[:, None] - regret.sum(-1) - total
    assert (np.abs(error.mean(1)) <= 4 * error.std(1) / episodes**0.5 + 1e-9).all()


def test_episodes_repeat_with_the_seed(tasks):
    batch = tasks.sample(3, rng.generator(0, "test"))
    envs = tasks.make_envs(batch, 2)
    first = roll_out(envs)
    assert_equal(first, roll_out(envs))
    assert_equal(first, roll_out(tasks.make_envs(batch, 2)))


def test_what_is_returned_is_the_receivers_own(tasks):
    envs = tasks.make_envs(tasks.sample(2, rng.generator(0, "test")), 2)
    shown = [envs.reset(seed=0)[0]]
    copies = [shown[0].copy()]
    for action in random_actions(envs, HORIZON):
        parts = envs.step(action)[:4]
        shown += parts
        copies += [part.copy() for part in parts]
    assert_equal(shown, copies)


def test_a_task_can_be_told_from_its_environment(tasks):
    """Other tasks, same seed, same actions: something must differ, or there is nothing to adapt to."""
    if has_one_task(tasks):
        return
    one, other = (roll_out(tasks.make_envs(tasks.sample(8, rng.generator(0, "test", i)), 1)) for i in range(2))
    assert any((ours != theirs).any() for ours, theirs in zip(one, other, strict=True))


def test_examples_come_from_the_generator_alone(regression):
    batch = regression.sample(3, rng.generator(0, "test"))
    first = regression.examples(batch, 4, rng.generator(0, "examples"))
    assert first.inputs.shape == (3, 4, regression.num_inputs)
    assert first.targets.shape == (3, 4, regression.num_outputs)
    assert np.isfinite(first.inputs).all() and np.isfinite(first.targets).all()
    assert_equal(first, regression.examples(batch, 4, rng.generator(0, "examples")))
    assert (first.inputs != regression.examples(batch, 4, rng.generator(1, "examples")).inputs).any()


def test_the_documentation_lists_every_task():
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(TASKS)
    assert all(f"`{name}`" in text for name in REGRESSION_TASKS)


@pytest.mark.parametrize("make", [make_tasks, make_regression_tasks])
def test_an_unknown_task_is_refused(make):
    with pytest.raises(ValueError, match="task='walking': need one of "):
        make("walking")


def test_an_unknown_setting_is_refused(distribution):
    name, make = named(distribution)
    with pytest.raises(ValueError, match=r"task_args\.colour='blue': no such key; "):
        make(name, colour="blue")


def named(distribution):
    """The name of the family, and the function that makes it."""
    registry, make = (
        (TASKS, make_tasks) if hasattr(distribution, "horizon") else (REGRESSION_TASKS, make_regression_tasks)
    )
    return next(name for name, kind in registry.items() if kind is type(distribution)), make


def test_every_setting_of_another_type_is_refused_by_its_key(distribution):
    name, make = named(distribution)
    for field in (field for field in dataclasses.fields(distribution) if field.init):
        with pytest.raises(ValueError, match=rf"^task_args.{field.name}="):
            make(name, **{field.name: {1, 2}})


def test_a_horizon_below_one_is_refused(tasks):
    with pytest.raises(ValueError, match="horizon=0"):
        dataclasses.replace(tasks, horizon=0)
