from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from research import rng
from research.policies import CategoricalMLP, GaussianMLP, PolicyConfig
from research.sampling.collect import bind_per_task, collect

OBS = 3


class Walks(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Row i ends after `lengths[i]` steps. Returns the same buffers at every step, as a fast environment may."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, lengths, terminates):
        self.lengths, self.terminates = np.asarray(lengths), np.asarray(terminates)
        self.num_envs = len(self.lengths)
        self.observation = np.zeros((self.num_envs, OBS), np.float32)
        self.reward = np.zeros(self.num_envs)
        self.ends = np.zeros((2, self.num_envs), bool)
        self.t = 0
        self.seeds: list[int | None] = []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.t = 0
        self.observation[:] = np.arange(self.num_envs)[:, None] + np.linspace(0, 1, OBS)
        return self.observation, {}

    def step(self, actions):
        self.t += 1
        self.observation += actions.sum(-1, keepdims=True)
        self.reward[:] = 100 * self.t + np.arange(self.num_envs)
        over = self.t >= self.lengths  # goes on reporting the end, and moving
        self.ends[0], self.ends[1] = over & self.terminates, over & ~self.terminates
        return self.observation, self.reward, *self.ends, {}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(tasks, seed=0, dtype=torch.float64, **settings):
    policy = GaussianMLP(OBS, 2, PolicyConfig((4,), **settings), generator(seed)).to(dtype)
    noise = generator(seed + 1)
    params = {
        name: value.detach() + 0.3 * torch.randn(tasks, *value.shape, generator=noise, dtype=torch.float64).to(dtype)
        for name, value in policy.named_parameters()
    }
    return policy, params


@pytest.mark.thorough
@given(
    lengths=st.lists(st.integers(1, 6), min_size=6, max_size=6),
    terminates=st.lists(st.booleans(), min_size=6, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64]),  # float32 is the environment's own: nothing forces a copy
)
def test_every_step_is_recorded_as_it_happened(lengths, terminates, dtype):
    horizon, tasks, episodes = 5, 2, 3
    policy, params = gaussian(tasks, dtype=dtype)
    sampled = collect(policy, params, Walks(lengths, terminates), tasks, horizon, generator())
    time = min(horizon, max(lengths))
    assert sampled.reward.shape == (tasks, episodes, time)
    assert sampled.observation.dtype == sampled.log_prob.dtype == sampled.reward.dtype == dtype
    for row, (length, ends) in enumerate(zip(lengths, terminates, strict=True)):
        one = [field[row // episodes, row % episodes] for field in sampled]
        observation, action, reward, log_prob, terminated, valid, last, diverged = one
        steps = min(length, time)
        assert valid.tolist() == [t < steps for t in range(time)]
        assert reward.tolist() == [100.0 * (t + 1) + row if t < steps else 0.0 for t in range(time)]
        assert terminated.tolist() == [ends and length <= time and t == length - 1 for t in range(time)]
        assert not diverged
        start = row + np.linspace(0, 1, OBS)
        expected = [start + action[:t].sum().item() for t in range(steps + 1)]
        np.testing.assert_allclose(observation[:steps], expected[:steps], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(last, expected[steps], rtol=1e-5, atol=1e-5)
        theta = {name: value[row // episodes] for name, value in params.items()}
        distribution = functional_call(policy, theta, (observation,))
        torch.testing.assert_close(distribution.log_prob(action), log_prob, rtol=1e-5, atol=1e-5)


def test_same_generator_same_episodes():
    policy, params = gaussian(2)
    runs = [collect(policy, params, Walks([4] * 4, [True] * 4), 2, 4, generator(seed)) for seed in (1, 1, 2)]
    assert all(torch.equal(*pair) for pair in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0].action, runs[2].action)


def test_nothing_is_drawn_from_the_global_generators():
    policy, params = gaussian(2)
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 - this is what must not be used
    collect(policy, params, Walks([4] * 4, [True] * 4), 2, 4, generator())
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_every_episode_has_noise_of_its_own():
    policy, params = gaussian(3)
    same = {name: value[:1].expand_as(value) for name, value in params.items()}
    sampled = collect(policy, same, OnePlace(6), 3, 1, generator())
    assert len(torch.unique(sampled.observation.flatten(0, 2), dim=0)) == 1
    assert len(torch.unique(sampled.action.flatten(0, 2), dim=0)) == 6


class OnePlace(Walks):
    """Every row starts at the same place."""

    def __init__(self, count):
        super().__init__([9] * count, [True] * count)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation[:] = 0.5
        return self.observation, {}


def test_each_task_acts_by_its_own_parameters():
    """With actions at the mean, permuting the parameters of the tasks permutes their episodes."""
    policy, params = gaussian(4, seed=5, min_log_std=-30.0)
    params["log_std"] = torch.full_like(params["log_std"], -30.0)
    order = torch.tensor([2, 0, 3, 1])
    permuted = {name: value[order] for name, value in params.items()}
    plain, moved = (collect(policy, theta, OnePlace(8), 4, 5, generator()) for theta in (params, permuted))
    for field in ("observation", "action", "last_observation"):
        torch.testing.assert_close(getattr(moved, field), getattr(plain, field)[order])
    assert len(torch.unique(plain.action[:, 0, 0], dim=0)) == 4


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", [GaussianMLP, CategoricalMLP])
def test_the_task_axis_gives_what_vmap_and_a_loop_give(kind, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("research.sampling.collect.serves", lambda network, params: False)
    policy = kind(OBS, 2, PolicyConfig((5, 4)), generator()).double()
    params = {
        name: torch.randn(3, *value.shape, generator=generator(len(name)), dtype=torch.float64)
        for name, value in policy.named_parameters()
    }
    observation = torch.randn(3, 7, OBS, generator=generator(9), dtype=torch.float64)
    decide = bind_per_task(policy, params)
    assert isinstance(decide, kind) != compiled
    direct = decide(observation)
    for task in range(3):
        theta = {name: value[task] for name, value in params.items()}
        alone = functional_call(policy, theta, (observation[task],))
        torch.testing.assert_close(tuple(field[task] for field in direct), tuple(alone))
    policy.accepts_task_axis = False
    torch.testing.assert_close(tuple(bind_per_task(policy, params)(observation)), tuple(direct))


def test_no_graph_is_kept():
    policy, params = gaussian(2)
    tracked = {name: value.requires_grad_() for name, value in params.items()}
    sampled = collect(policy, tracked, Walks([2] * 4, [True] * 4), 2, 2, generator())
    assert not any(field.requires_grad for field in sampled)


def cartpoles(count, autoreset_mode=AutoresetMode.NEXT_STEP):
    return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * count, autoreset_mode=autoreset_mode)


def test_a_gymnasium_vector_environment_with_discrete_actions():
    policy = CategoricalMLP(4, 2, PolicyConfig((8,)), generator()).double()
    params = {name: value.detach().expand(2, *value.shape) for name, value in policy.named_parameters()}
    envs = cartpoles(6)
    sampled = collect(policy, params, envs, 2, 60, generator(3))
    assert sampled.action.dtype == torch.int64
    assert sampled.action.shape == sampled.reward.shape
    assert set(sampled.action.unique().tolist()) == {0, 1}
    lengths = sampled.valid.sum(-1)
    assert len(lengths.unique()) > 1, "episodes of different lengths are the point"
    torch.testing.assert_close(sampled.returns(), lengths.double())
    for task in range(2):
        for episode in range(3):
            replay = gymnasium.make("CartPole-v1")
            observation, _ = replay.reset(seed=generator(3).initial_seed() + 3 * task + episode)
            for t in range(lengths[task, episode]):
                np.testing.assert_allclose(sampled.observation[task, episode, t], observation, rtol=1e-6)
                observation, _, ended, *_ = replay.step(int(sampled.action[task, episode, t]))
                assert ended == sampled.terminated[task, episode, t]
            np.testing.assert_allclose(sampled.last_observation[task, episode], observation, rtol=1e-6)
    again = collect(policy, params, envs, 2, 60, generator(3))
    assert all(torch.equal(*pair) for pair in zip(sampled, again, strict=True)), "random starts follow the generator"


def test_the_environments_are_seeded_by_the_generator():
    policy, params = gaussian(1)
    envs = Walks([2], [True])
    for iteration in (0, 0, 1):
        collect(policy, params, envs, 1, 2, rng.torch_generator(0, "actions", iteration))
    first, again, other = envs.seeds
    assert first == again != other
    assert all(0 <= seed < 2**31 for seed in envs.seeds)


def test_environments_that_hide_the_last_observation_are_refused():
    policy = CategoricalMLP(4, 2, PolicyConfig(()), generator())
    params = {name: value.detach()[None] for name, value in policy.named_parameters()}
    with pytest.raises(ValueError, match="autoreset_mode=SAME_STEP replaces the last observation"):
        collect(policy, params, cartpoles(2, AutoresetMode.SAME_STEP), 1, 5, generator())


def test_rows_that_do_not_divide_into_the_tasks_are_refused():
    policy, params = gaussian(2)
    with pytest.raises(ValueError, match="num_tasks=2: 5 rows do not divide into so many tasks"):
        collect(policy, params, Walks([1] * 5, [True] * 5), 2, 1, generator())


class BlowsUp(Walks):
    """Rows go wrong at a step of their own, each in another way, and stay so."""

    def __init__(self, steps, lengths, say_so):
        super().__init__(lengths, [True] * len(lengths))
        self.steps, self.say_so = np.asarray(steps), say_so

    def step(self, actions):
        observation, reward, terminated, truncated, _ = super().step(actions)
        wrong = np.flatnonzero(self.steps == self.t)
        if self.say_so:
            return observation, reward, terminated, truncated, {"diverged": self.steps == self.t}
        for row in wrong:
            if row % 2:
                reward[row] = (np.nan, np.inf)[row // 2 % 2]
            else:
                observation[row, row % OBS] = (np.inf, np.nan)[row // 2 % 2]
        return observation, reward, terminated, truncated, {}


@pytest.mark.parametrize("say_so", [False, True])
def test_a_step_that_diverges_is_dropped_and_ends_its_episode(say_so):
    policy, params = gaussian(2)
    steps, lengths = [1, 2, 3, 4, 9, 2], [6, 6, 6, 4, 6, 1]  # the last is over before it goes wrong
    sampled = collect(policy, params, BlowsUp(steps, lengths, say_so), 2, 6, generator())
    assert sampled.diverged.flatten().tolist() == [True, True, True, True, False, False]
    assert sampled.valid.sum(-1).flatten().tolist() == [0, 1, 2, 3, 6, 1]
    assert sampled.terminated.sum(-1).flatten().tolist() == [0, 0, 0, 0, 1, 1]
    assert all(field.isfinite().all() for field in sampled)
    assert (sampled.reward[~sampled.valid] == 0).all()
    plain = collect(policy, params, Walks(lengths, [True] * 6), 2, 6, generator())
    for row, length in enumerate(sampled.valid.sum(-1).flatten().tolist()):
        at = row // 3, row % 3
        torch.testing.assert_close(sampled.observation[at][:length], plain.observation[at][:length])
        what_followed = plain.last_observation[at] if row > 3 else plain.observation[at][length]
        torch.testing.assert_close(sampled.last_observation[at], what_followed)


def test_all_rows_may_diverge_at_once():
    policy, params = gaussian(2)
    sampled = collect(policy, params, BlowsUp([1] * 4, [5] * 4, True), 2, 5, generator())
    assert sampled.reward.shape == (2, 2, 1)
    assert sampled.diverged.all() and not sampled.valid.any()


class Halves(Walks):
    """Can be stepped part by part; notes in which order parts begin and are waited for."""

    def __init__(self, lengths, terminates):
        super().__init__(lengths, terminates)
        self.num_threads, self.notes, self.clock = 0, [], np.zeros(self.num_envs, int)

    def reset(self, *, seed=None, options=None):
        self.clock[:] = 0
        return super().reset(seed=seed)

    def begin(self, actions, rows):
        self.notes.append(("begin", rows.start))
        actions = actions.copy()

        def wait():
            self.notes.append(("wait", rows.start))
            self.clock[rows] += 1
            self.observation[rows] += actions.sum(-1, keepdims=True)
            over = self.clock[rows] >= self.lengths[rows]
            reward = 100.0 * self.clock[rows] + np.arange(self.num_envs)[rows]
            return self.observation[rows], reward, over & self.terminates[rows], over & ~self.terminates[rows], {}

        return wait


def test_one_half_moves_while_the_policy_decides_for_the_other():
    policy, params = gaussian(3)
    envs = Halves([4] * 6, [True] * 6)
    collect(policy, params, envs, 3, 4, generator(), num_threads=5)
    assert envs.num_threads == 5
    turns = [("begin", 0), ("begin", 2), *[("wait", 0), ("begin", 0), ("wait", 2), ("begin", 2)] * 3]
    assert envs.notes == [*turns, ("wait", 0), ("wait", 2)]


@pytest.mark.thorough
@given(lengths=st.lists(st.integers(1, 6), min_size=6, max_size=6), tasks=st.sampled_from([1, 2, 3]))
def test_halves_are_recorded_in_their_places(lengths, tasks):
    horizon, episodes = 5, 6 // tasks
    policy, params = gaussian(tasks)
    sampled = collect(policy, params, Halves(lengths, [True] * 6), tasks, horizon, generator())
    assert sampled.reward.shape == (tasks, episodes, min(horizon, max(lengths)))
    for row, length in enumerate(lengths):
        at, steps = (row // episodes, row % episodes), min(length, horizon)
        expected = [100.0 * (t + 1) + row if t < steps else 0.0 for t in range(sampled.reward.shape[2])]
        assert sampled.reward[at].tolist() == expected
        assert sampled.valid[at].tolist() == [reward > 0 for reward in expected]
        start = row + np.linspace(0, 1, OBS)
        walked = [start + sampled.action[at][:t].sum().item() for t in range(steps + 1)]
        np.testing.assert_allclose(sampled.observation[at][:steps], walked[:steps], rtol=1e-5)
        np.testing.assert_allclose(sampled.last_observation[at], walked[steps], rtol=1e-5)
        theta = {name: value[at[0]] for name, value in params.items()}
        distribution = functional_call(policy, theta, (sampled.observation[at][:steps],))
        torch.testing.assert_close(distribution.log_prob(sampled.action[at][:steps]), sampled.log_prob[at][:steps])
    assert len(torch.unique(sampled.action[sampled.valid], dim=0)) == sampled.valid.sum(), "noise is never used twice"


def test_the_halves_have_noise_of_their_own():
    class OneStart(Halves):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation[:] = 0.5
            return self.observation, {}

    policy, params = gaussian(2)
    same = {name: value[:1].expand_as(value) for name, value in params.items()}
    sampled = collect(policy, same, OneStart([3] * 4, [True] * 4), 2, 1, generator())
    assert len(torch.unique(sampled.action.flatten(0, 2), dim=0)) == 4
