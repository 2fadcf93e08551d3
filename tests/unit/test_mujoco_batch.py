from __future__ import annotations

import copy
import threading
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils import env_checker

from research import rng
from research.policies import GaussianMLP, PolicyConfig
from research.sampling.collect import collect
from research.sampling.mujoco import MujocoEnvs, load_robot
from research.tasks import make_tasks
from research.tasks.locomotion import VelocityTasks

ROWS = 6
LOW = 1.2  # a hopper starts at 1.25


class Hoppers(MujocoEnvs):
    """A family of this test's own: reads more than positions, starts without noise, ends when low."""

    def __init__(self, num_envs=ROWS, models=None, **settings):
        robot = load_robot("hopper.xml")
        defaults: dict[str, Any] = dict(horizon=50, observation_size=14, frame_skip=4, contact_forces=True)
        fields = ("qpos", "qvel", "cfrc_ext")
        super().__init__(robot, models or [robot.model], num_envs, fields=fields, **(defaults | settings))

    def start(self, row, rng):
        return self.robot.model.qpos0 + 0.005 * rng.uniform(-1, 1, self.robot.model.nq), np.zeros(self.robot.model.nv)

    def observe(self, rows, state):
        return np.concatenate([state["qpos"], state["qvel"], state["cfrc_ext"][:, 4, 4:]], 1)

    def reward(self, rows, before, after, action):
        return after["qpos"][:, 0] - before["qpos"][:, 0] + rows

    def has_ended(self, rows, state):
        return state["qpos"][:, 1] < LOW


def actions(envs, steps, seed=0):
    low, high = envs.single_action_space.low, envs.single_action_space.high
    shape = (steps, envs.num_envs, *low.shape)
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def roll_out(envs, acts, **reset):
    shown = [(envs.reset(**reset)[0],)]
    for action in acts:
        *parts, info = envs.step(action)
        shown.append((*parts, info["diverged"]))
    return shown


def assert_same(first, second, rows=slice(None)):
    for ours, theirs in zip(first, second, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other[rows])


def heavier(robot, factor):
    model = copy.copy(robot.model)
    model.body_mass[:] *= factor
    model.dof_damping[:] *= factor
    return model


@pytest.mark.parametrize("factors", [(1.0,), (1.0, 1.0, 0.5, 0.5, 2.0, 3.0)])
def test_each_row_is_what_a_loop_over_simulations_gives(factors):
    robot = load_robot("hopper.xml")
    models = [heavier(robot, factor) for factor in factors]
    envs = Hoppers(models=models, horizon=10**6)
    acts = actions(envs, 60)
    shown = roll_out(envs, acts, seed=4)
    for row in range(ROWS):
        model = models[row % len(models)]
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = envs.start(row, np.random.default_rng(4 + row))
        mujoco.mj_forward(model, data)
        np.testing.assert_array_equal(shown[0][0][row, :6], data.qpos)
        for action, (observation, reward, terminated, truncated, _) in zip(acts, shown[1:], strict=True):
            before = data.qpos[0]
            data.ctrl[:] = action[row]
            mujoco.mj_step(model, data, 4)
            mujoco.mj_rnePostConstraint(model, data)
            expected = np.concatenate([data.qpos, data.qvel, data.cfrc_ext[4, 4:]])
            np.testing.assert_array_equal(observation[row], expected)
            assert reward[row] == data.qpos[0] - before + row
            assert terminated[row] == (data.qpos[1] < LOW)
            assert not truncated[row]
            if terminated[row]:
                break
        else:
            pytest.fail("every hopper falls within 60 steps of random actions")
    assert len({float(step[1][0]) for step in shown[1:10]}) == 9, "it moves"


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_numbers_do_not_depend_on_the_threads(threads):
    one, many = Hoppers(), Hoppers()
    one.num_threads, many.num_threads = 1, threads
    acts = actions(one, 60)
    assert_same(roll_out(one, acts, seed=1), roll_out(many, acts, seed=1))


def test_several_threads_step_the_rows():
    envs = Hoppers(40)
    envs.num_threads = 3
    envs.reset(seed=0)
    before = {thread.name for thread in threading.enumerate()}
    envs.step(actions(envs, 1)[0])
    assert any("share" in name for name in before | {thread.name for thread in threading.enumerate()})


def test_permuting_rows_permutes_results():
    order = np.array([3, 0, 5, 1, 4, 2])
    robot = load_robot("hopper.xml")
    models = [heavier(robot, 1 + 0.1 * row) for row in range(ROWS)]
    plain, permuted = Hoppers(models=models), Hoppers(models=[models[row] for row in order])
    plain.reward = permuted.reward = lambda rows, before, after, action: after["qvel"][:, 0]
    acts = actions(plain, 60)
    seeds = [10, 11, 12, 13, 14, 15]
    shown = roll_out(plain, acts, seed=seeds)
    assert_same(roll_out(permuted, acts[:, order], seed=[seeds[row] for row in order]), shown, order)


def test_parts_give_what_the_whole_gives():
    whole, parted = Hoppers(), Hoppers()
    acts = actions(whole, 60)
    shown = roll_out(whole, acts, seed=2)
    parted.reset(seed=2)
    slices = slice(0, 2), slice(2, 6)
    waits = [parted.begin(acts[0][part], part) for part in slices]
    for t, expected in enumerate(shown[1:]):
        for k, part in enumerate(slices):
            *ours, info = waits[k]()
            assert_same([(*ours, info["diverged"])], [expected], part)
            if t + 1 < len(acts):
                waits[k] = parted.begin(acts[t + 1][part], part)


def test_rows_that_are_done_are_not_stepped():
    envs = Hoppers()
    acts = actions(envs, 60)
    roll_out(envs, acts, seed=0)
    before = envs._simulations._kept.copy()
    assert len(set(before[:, 0])) > 1, "they ended at different times"
    observation, reward, terminated, truncated, info = envs.step(acts[0])
    np.testing.assert_array_equal(envs._simulations._kept, before)
    assert not reward.any() and not terminated.any() and not truncated.any() and not info["diverged"].any()
    np.testing.assert_array_equal(observation, roll_out(envs, acts, seed=0)[-1][0])


def test_a_fall_in_the_last_step_is_no_truncation():
    acts = actions(Hoppers(), 60)
    falls = [step[2] for step in roll_out(Hoppers(horizon=10**6), acts, seed=0)[1:]]
    first = next(t for t, fell in enumerate(falls) if fell.any())
    *_, terminated, truncated, _ = roll_out(Hoppers(horizon=first + 1), acts[: first + 1], seed=0)[-1]
    np.testing.assert_array_equal(terminated, falls[first])
    np.testing.assert_array_equal(truncated, ~falls[first])


def test_a_mask_resets_its_rows_and_leaves_the_others():
    envs, apart = Hoppers(), Hoppers()
    acts = actions(envs, 8)
    untouched = roll_out(apart, acts, seed=0)
    roll_out(envs, acts[:4], seed=0)
    mask = np.array([False, True, False, False, True, False])
    observation, _ = envs.reset(seed=50, options={"reset_mask": mask})
    np.testing.assert_array_equal(observation[~mask], untouched[4][0][~mask])
    np.testing.assert_array_equal(observation[mask], Hoppers().reset(seed=50)[0][mask])
    for action, expected in zip(acts[4:], untouched[5:], strict=True):
        np.testing.assert_array_equal(envs.step(action)[0][~mask], expected[0][~mask])


def test_rows_draw_starts_of_their_own_that_go_on_without_a_seed():
    envs = Hoppers()
    first, second = envs.reset(seed=3)[0], envs.reset()[0]
    assert len(np.unique(first, axis=0)) == ROWS
    assert (first != second).any(1).all()
    np.testing.assert_array_equal(envs.reset(seed=3)[0], first)
    np.testing.assert_array_equal(envs.reset()[0], second)
    np.testing.assert_array_equal(envs.reset(seed=4)[0][:-1], first[1:])  # row i has seed + i, as in Gymnasium


def blow_up(envs, how):
    """Breaks row 1 and gives the actions of the step that notices."""
    simulations, act = envs._simulations, actions(envs, 1)[0].astype(np.float64)
    qpos, qvel = (simulations._kept[1, simulations._places[name]] for name in ("qpos", "qvel"))
    if how == "position":
        qpos[2] = np.nan
    elif how == "velocity":
        qvel[2] = 1e12
    elif how == "acceleration":
        qvel[:] = 1e9
    elif how == "at rest":
        qpos[2], act[:] = np.inf, 0.0
    else:
        act[1, 0] = np.nan
    return act


@pytest.mark.parametrize("how", ["position", "velocity", "acceleration", "at rest", "action"])
def test_a_simulation_that_blows_up_ends_its_row_and_no_other(how, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    envs, sound = Hoppers(), Hoppers()
    acts = actions(envs, 5)
    last = roll_out(envs, acts[:3], seed=0)[-1][0]
    roll_out(sound, acts[:3], seed=0)
    act = blow_up(envs, how)
    observation, reward, terminated, truncated, info = envs.step(act)
    expected = sound.step(np.nan_to_num(act))
    others = np.arange(ROWS) != 1
    assert info["diverged"].tolist() == [row == 1 for row in range(ROWS)]
    assert terminated[1] and not truncated[1] and reward[1] == 0.0
    np.testing.assert_array_equal(observation[1], last[1])
    for ours, theirs in zip((observation, reward, terminated, truncated), expected[:4], strict=True):
        np.testing.assert_array_equal(ours[others], theirs[others])
    after = envs.step(acts[4])
    np.testing.assert_array_equal(after[0][1], last[1])
    assert not after[2][1] and not after[4]["diverged"].any()
    assert_same(roll_out(envs, acts, seed=7), roll_out(Hoppers(), acts, seed=7))
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir()), "MuJoCo must not litter"


def test_rewards_see_clipped_actions_only_when_asked():
    seen = []
    for clip in (False, True):
        envs = Hoppers(clip_actions=clip)
        envs.reward = lambda rows, before, after, action: seen.append(action) or np.zeros(len(rows))
        envs.reset(seed=0)
        envs.step(np.full((ROWS, 3), 1.5, np.float32))
    assert (seen[0] == 1.5).all() and (seen[1] == 1.0).all()


def test_as_many_simulations_are_made_as_threads_step_at_once():
    robot = load_robot("hopper.xml")
    robot._spare.clear()
    acts = actions(Hoppers(), 10)
    first = roll_out(Hoppers(), acts, seed=0)
    for _ in range(5):
        envs = Hoppers()
        envs.num_threads = 3
        assert_same(roll_out(envs, acts, seed=0), first)
        envs.close()
        with pytest.raises(gymnasium.error.ResetNeeded):
            envs.step(acts[0])
    assert 1 <= len(robot._spare) <= 3


def test_gymnasiums_own_checks_pass():
    """Those written for single environments, as far as they make sense for rows: spaces, seeds, options, aliasing."""
    envs = make_tasks("cheetah_vel").make_envs(VelocityTasks(np.array([0.5, 1.0, 1.5])), 2)
    env_checker.check_reset_seed_determinism(envs)
    env_checker.check_reset_options(envs)
    env_checker.check_reset_return_type(envs)
    env_checker.check_returned_data_not_reused(make_tasks("cheetah_vel").make_envs(VelocityTasks(np.ones(1)), 1))
    env_checker.check_space_limit(envs.single_action_space, "action")
    observation, info = envs.reset(seed=1)
    assert observation in envs.observation_space
    for action in (envs.action_space.sample() for _ in range(5)):
        observation, reward, terminated, truncated, info = envs.step(action)
        assert observation in envs.observation_space
        assert reward.dtype == np.float64 and terminated.dtype == truncated.dtype == np.bool_
        assert reward.shape == terminated.shape == truncated.shape == (6,)
        assert isinstance(info, dict)


def test_gymnasiums_vector_wrappers_work_on_it():
    envs = make_tasks("cheetah_vel", horizon=4).make_envs(VelocityTasks(np.array([0.5, 1.0])), 2)
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    wrapped.reset(seed=0)
    total = np.zeros(4)
    for action in actions(envs, 4):
        _, reward, _, truncated, info = wrapped.step(action)
        total += reward
    assert truncated.all()
    np.testing.assert_allclose(info["episode"]["r"], total)


@pytest.mark.parametrize("threads", [1, 4])
def test_collect_steps_halves_to_the_same_numbers_on_any_threads(threads):
    tasks = make_tasks("cheetah_vel", horizon=12)
    policy = GaussianMLP(17, 6, PolicyConfig((8,)), torch.Generator().manual_seed(0)).double()
    params = {name: value.detach().expand(3, *value.shape) for name, value in policy.named_parameters()}
    envs = tasks.make_envs(tasks.test_tasks(3), 2)
    generator = rng.torch_generator(0, "actions")
    sampled = collect(policy, params, envs, 3, 12, generator, threads)
    replay = tasks.make_envs(tasks.test_tasks(3), 2)
    observation, _ = replay.reset(seed=generator.initial_seed() % 2**31)
    for t in range(12):
        np.testing.assert_array_equal(sampled.observation[:, :, t].flatten(0, 1), observation)
        observation, reward, *_ = replay.step(sampled.action[:, :, t].flatten(0, 1).numpy())
        np.testing.assert_array_equal(sampled.reward[:, :, t].flatten(), reward)
    np.testing.assert_array_equal(sampled.last_observation.flatten(0, 1), observation)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda envs: envs.step(np.zeros((5, 3))), r"actions: got shape \(5, 3\), need \(6, 3\)"),
        (lambda envs: envs.reset(seed=[1, 2]), "seed: got 2 seeds, need one for each of the 6 rows"),
        (lambda envs: envs.reset(seed=-1), "greater or equal to zero, actual value: -1"),
        (lambda envs: envs.reset(seed=[0, 1, 2, 3, 4, -5]), "seed=-5: need an integer of at least 0"),
        (lambda envs: envs.reset(options={"reset_mask": np.zeros(6, bool)}), "need 6 booleans, one of them true"),
        (lambda envs: envs.reset(options={"reset_mask": [True] * 6}), "need 6 booleans, one of them true"),
        (lambda envs: Hoppers(0), "num_envs=0: need a value above 0"),
        (lambda envs: Hoppers(6, [envs.robot.model] * 2), "models: got 2, need 1 or one for each of the 6 rows"),
        (lambda envs: setattr(envs, "num_threads", -1), "num_threads=-1: need at least 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    envs = Hoppers()
    envs.reset(seed=0)
    with pytest.raises((ValueError, gymnasium.error.Error), match=message):
        call(envs)
