"""Replays against what was recorded by hand while the episodes ran."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from experiments.replay import can_be_drawn, check_drawable, film, has_paths, walked_paths
from research.algorithms.gradient.evaluation import adaptation_curve
from research.distributions import DiagGaussian
from research.tasks import TASKS, make_tasks
from research.tasks.navigation_2d import Navigation2D, NavigationEnvs

EPISODES = 3


class Walker(nn.Module):
    """Goes where its bias says, with noise."""

    def __init__(self, size):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-0.6, 0.9, size))

    def forward(self, observation):
        mean = self.bias.expand(*observation.shape[:-1], -1)
        return DiagGaussian(mean, torch.full_like(mean, -1.0))


def curve_of(distribution, num_tasks=4, steps=1):
    """An evaluation whose policy turns round with every step of adaptation."""
    policy = Walker(distribution.action_space.shape[0])

    def adapt(meta, batches, num_tasks):
        return {"bias": ((-1.0) ** len(batches) * policy.bias.detach()).expand(num_tasks, -1)}

    config = SimpleNamespace(at_evaluation=lambda meta: meta, eval_episodes=EPISODES, seed=5, num_threads=0)
    own = {"config": config, "tasks": distribution, "policy": policy, "device": "cpu"}
    agent = SimpleNamespace(**own, adapt=adapt, process=lambda sampled: sampled)
    return adaptation_curve(agent, None, num_tasks, steps)


def short_walks():
    """Walks of which some end early: the goal is large."""
    return Navigation2D(horizon=12, done_radius=0.25)


def test_paths_are_the_observed_positions_and_stay_at_their_end():
    curve = curve_of(short_walks())
    lengths = torch.stack([sampled.valid.sum(-1) for sampled in curve.details.trajectories])
    assert lengths.min() < 12 == lengths.max()
    for step, sampled in enumerate(curve.details.trajectories):
        paths = walked_paths(curve, step, num_tasks=3)
        assert paths.shape == (3, EPISODES, sampled.valid.shape[2] + 1, 2)
        for task in range(3):
            for episode in range(EPISODES):
                length = int(sampled.valid[task, episode].sum())
                seen = [sampled.observation[task, episode, t] for t in range(length)]
                seen += [sampled.last_observation[task, episode]] * (paths.shape[2] - length)
                np.testing.assert_allclose(paths[task, episode], torch.stack(seen), atol=1e-6)


class Reset(NavigationEnvs):
    """Is elsewhere after the end, as environments are that reset themselves."""

    def positions(self):
        return np.where(self._done[:, None] & (self._steps < 12)[:, None] & self._rested[:, None], 99.0, self.state)

    def step(self, actions):
        self._rested = self._done.copy()
        return super().step(actions)

    def reset(self, **given):
        self._rested = np.zeros(self.num_envs, bool)
        return super().reset(**given)


class ResetTasks(Navigation2D):
    def make_envs(self, tasks, episodes):
        return Reset(self, tasks, episodes)


def test_what_happens_after_the_end_is_no_part_of_a_path():
    curve = curve_of(ResetTasks(horizon=12, done_radius=0.25))
    assert not curve.details.trajectories[0].valid.all()
    paths = walked_paths(curve, 0, num_tasks=4)
    assert np.abs(paths).max() < 2
    np.testing.assert_array_equal(paths, walked_paths(curve_of(short_walks()), 0, num_tasks=4))


def test_more_tasks_than_there_are_gives_all():
    assert walked_paths(curve_of(short_walks()), 0, num_tasks=50).shape[0] == 4


@pytest.mark.parametrize("name", ["ant_goal", "reacher_goal"])
def test_paths_of_robots_are_where_gymnasium_says_they_are(name):
    """Both observe where they are: the ant in the first two numbers, the tip in the last two."""
    distribution = make_tasks(name, horizon=6, **({"observe_forces": False} if name == "ant_goal" else {}))
    curve = curve_of(distribution, num_tasks=2)
    for step, sampled in enumerate(curve.details.trajectories):
        paths = walked_paths(curve, step, num_tasks=2)
        place = slice(0, 2) if name == "ant_goal" else slice(-2, None)
        seen = torch.cat([sampled.observation[..., place], sampled.last_observation[:, :, None, place]], 2)
        tolerance = 1e-6 if name == "reacher_goal" else 0.05  # the torso is read one physics step before qpos
        assert sampled.valid.all()
        np.testing.assert_allclose(paths, seen, atol=tolerance)


def test_which_tasks_have_paths():
    with_paths = {name for name in TASKS if has_paths(make_tasks(name))}
    grids = {"dark_room", "grid_goals", "gridnavi"}
    assert with_paths == grids | {"ant_goal", "navigation_2d", "point_semicircle", "reacher_goal"}


class Restless(NavigationEnvs):
    """Forgets its seed."""

    visits = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        Restless.visits += 1
        self.state += 0.01 * Restless.visits
        return self.state.astype(np.float32), {}


class RestlessTasks(Navigation2D):
    def make_envs(self, tasks, episodes):
        return Restless(self, tasks, episodes)


def test_what_does_not_repeat_is_never_shown():
    curve = curve_of(RestlessTasks(horizon=4))
    with pytest.raises(RuntimeError, match="task 0, episode 0: after 0 steps a replay is not where the episode was"):
        walked_paths(curve, 0, num_tasks=2)
    repeats = curve_of(Navigation2D(horizon=4))
    episodes = repeats.details
    other_actions = [sampled._replace(action=sampled.action + 0.1) for sampled in episodes.trajectories]
    with pytest.raises(RuntimeError, match="task 0, episode 0: after 1 steps"):
        walked_paths(repeats._replace(details=episodes._replace(trajectories=other_actions)), 1, num_tasks=2)


@pytest.mark.parametrize("change", [{"distribution": None}, {"details": None}])
def test_a_curve_without_its_episodes_is_refused(change):
    with pytest.raises(ValueError, match="curve: need a distribution, and Episodes as details, to replay episodes"):
        walked_paths(curve_of(short_walks())._replace(**change), 0, num_tasks=1)


def test_the_seeds_of_a_curve_are_those_of_its_environments(monkeypatch):
    given = []
    reset = NavigationEnvs.reset
    monkeypatch.setattr(NavigationEnvs, "reset", lambda envs, *, seed, **rest: (
        given.append(seed), reset(envs, seed=seed, **rest))[1])  # fmt: skip
    curve = curve_of(short_walks(), steps=2)
    assert list(curve.details.reset_seeds) == given and len(set(given)) == 3


class Painted(NavigationEnvs):
    """Its pictures hold the position in their pixels."""

    dt = 0.05

    def draw(self, row):
        return np.broadcast_to((100 + 50 * self.state[row, :1]).astype(np.uint8), (2, 4, 3)).copy()


@dataclasses.dataclass(frozen=True)
class PaintedTasks(Navigation2D):
    def make_envs(self, tasks, episodes):
        return Painted(self, tasks, episodes)


def test_a_film_shows_the_first_episode_of_each_task_from_start_to_end():
    curve = curve_of(PaintedTasks(horizon=12, done_radius=0.25))
    sampled = curve.details.trajectories[1]
    assert (sampled.valid[:3, 0].sum(-1) < sampled.valid.shape[2]).any()
    for task, footage in enumerate(film(curve, 1, num_tasks=3)):
        length = int(sampled.valid[task, 0].sum())
        places = walked_paths(curve, 1, num_tasks=3)[task, 0, : length + 1, 0]
        np.testing.assert_array_equal(footage.frames[:, 0, 0, 0], (100 + 50 * places).astype(np.uint8))
        assert footage.frames.shape == (length + 1, 2, 4, 3)
        np.testing.assert_allclose(footage.time, 0.05 * np.arange(length + 1))
        np.testing.assert_allclose(footage.returns[-1], sampled.returns()[task, 0], rtol=1e-5)
        np.testing.assert_allclose(footage.returns[2], sampled.reward[task, 0, :2].sum(), rtol=1e-5)
        assert footage.returns[0] == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("dt", "horizon", "expected"),
    [(0.02, 9, [0, 2, 4, 6, 8, 9]), (0.04, 3, [0, 1, 2, 3]), (0.05, 400, [*range(0, 400, 3), 400])],
)
def test_frames_are_few_enough_and_end_with_the_episode(monkeypatch, dt, horizon, expected):
    monkeypatch.setattr(Painted, "dt", dt)
    (footage,) = film(curve_of(PaintedTasks(horizon=horizon, done_radius=1e-9), num_tasks=1), 0, num_tasks=1)
    np.testing.assert_allclose(footage.time, dt * np.array(expected))


def test_what_can_be_drawn():
    without_pictures = {
        "bandit",
        "dark_room",
        "grid_goals",
        "gridnavi",
        "navigation_2d",
        "point_semicircle",
        "tabular_mdp",
    }
    assert {name for name in TASKS if can_be_drawn(make_tasks(name))} == set(TASKS) - without_pictures
    with pytest.raises(ValueError, match=r"Navigation2D: its environments cannot be drawn.*ant_goal.*gym_tasks"):
        check_drawable(Navigation2D())


def test_a_picture_that_is_none_is_refused(monkeypatch):
    check_drawable(PaintedTasks())
    monkeypatch.setattr(Painted, "draw", lambda envs, row: np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"draw ndarray of shape \(2, 4\); need an array \[height, width, 3\]"):
        check_drawable(PaintedTasks())


def test_gymnasium_environments_are_drawn_as_gymnasium_draws_them():
    distribution = make_tasks("gym_tasks", horizon=4)
    curve = curve_of(distribution, num_tasks=2)
    sampled = curve.details.trajectories[0]
    (_, footage) = film(curve, 0, num_tasks=2)
    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array", g=float(curve.tasks.values[1, 0]))
    env.reset(seed=curve.details.reset_seeds[0] + EPISODES)  # the first row of task 1
    expected = [env.render()]
    for t in range(4):
        env.step(np.clip(sampled.action[1, 0, t].numpy(), -2, 2))
        expected.append(env.render())
    env.close()
    np.testing.assert_array_equal(footage.frames, np.array(expected)[[0, 2, 4]])  # 30 in a second are too many
    np.testing.assert_allclose(footage.time, [0, 2 / 30, 4 / 30])


@pytest.mark.parametrize("kwargs", [{"env_id": "FrozenLake-v1", "choose_kwargs": {"is_slippery": [True, False]}}])
def test_discrete_gymnasium_environments_are_drawn_too(kwargs):
    check_drawable(make_tasks("gym_tasks", horizon=4, **kwargs))


class Blind(gymnasium.Env):
    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, speed=1.0):
        self.speed = speed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_a_gymnasium_environment_without_pictures_is_refused():
    gymnasium.register("Blind-v0", entry_point=Blind)
    try:
        distribution = make_tasks("gym_tasks", env_id="Blind-v0", randomize={"speed": [1.0, 2.0]})
        with pytest.raises(ValueError, match=r"kwargs.render_mode='rgb_array': Blind-v0 cannot be made with such"):
            check_drawable(distribution)
    finally:
        del gymnasium.registry["Blind-v0"]


def test_carts_are_drawn_where_gymnasium_draws_them():
    distribution = make_tasks("cartpole_params")
    envs = distribution.make_envs(distribution.test_tasks(2), 1)
    observation, _ = envs.reset(seed=3)
    expected = gymnasium.make("CartPole-v1", render_mode="rgb_array").unwrapped
    expected.reset()
    for row in (0, 1):
        expected.state, expected.length = observation[row].astype(float), distribution.test_tasks(2).half_length[row]
        np.testing.assert_array_equal(envs.draw(row), expected.render())
    assert (envs.draw(0) != envs.draw(1)).any()
    envs.close()
    expected.close()


def test_half_a_batch_starts_as_the_whole_does():
    """What replays of the first tasks rest on, for every task."""
    for name in TASKS:
        distribution = make_tasks(name)
        few, many = (distribution.make_envs(distribution.test_tasks(count), 2) for count in (2, 4))
        np.testing.assert_array_equal(few.reset(seed=9)[0], many.reset(seed=9)[0][:4])
        few.close()
        many.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym_tasks", "env_id='Pendulum-v1': the package pygame is missing"),
        ("cartpole_params", "task='cartpole_params': it cannot be drawn: pygame is not installed"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ValueError, match=message):
        check_drawable(make_tasks(name))
