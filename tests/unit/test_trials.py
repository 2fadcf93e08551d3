"""Whole trials: rows of different episode lengths, boundaries, divergence, and what the policy saw."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from research import rng
from research.policies.memory import MemoryConfig, make_memory_policy
from research.sampling.trials import collect_trials, trial_inputs
from research.tasks import make_tasks


class Counting(gymnasium.vector.VectorEnv):
    """Row i has episodes of `lengths[i]` steps. The observation is (row, episode, step), the reward 100 row + step."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, lengths, blow_up=None, terminates=False):
        self.num_envs = len(lengths)
        self.lengths, self.blow_up, self.terminates = np.array(lengths), blow_up, terminates
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.episode, self.time, self.total = (np.zeros(self.num_envs, int) for _ in range(3))
        self.stepped_after_end = False
        self.done = np.zeros(self.num_envs, bool)

    def observation(self):
        return np.stack([np.arange(self.num_envs), self.episode, self.time], 1).astype(np.float64)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.episode[mask] += options is not None
        self.time[mask], self.done[mask] = 0, False
        return self.observation(), {}

    def step(self, actions):
        self.stepped_after_end |= bool(self.done.any())
        reward = 100.0 * np.arange(self.num_envs) + self.time
        self.time += 1
        self.total += 1
        observation, info = self.observation(), {}
        if self.blow_up is not None:
            row, at, how = self.blow_up
            if self.total[row] == at:
                if how == "observation":
                    observation[row, 1] = np.nan
                elif how == "reward":
                    reward[row] = np.inf
                else:
                    info["diverged"] = np.arange(self.num_envs) == row
        self.done = self.time >= self.lengths
        none = np.zeros(self.num_envs, bool)
        return observation, reward, self.done if self.terminates else none, none if self.terminates else self.done, info


def policy_for(envs: Any, **settings):
    config = MemoryConfig(hidden_size=5, output_scale=1.0, **settings)
    spaces = envs.single_observation_space, envs.single_action_space
    policy = make_memory_policy(config, *spaces, rng.torch_generator(0, "policy")).double()
    return policy, {name: value.detach() for name, value in policy.named_parameters()}


def collected(envs, num_tasks, episodes, horizon=4, seed=0, **settings):
    policy, params = policy_for(envs, **settings)
    generator = rng.torch_generator(seed, "actions")
    return policy, collect_trials(policy, params, envs, num_tasks, episodes, horizon, generator)


@pytest.mark.parametrize("terminates", [True, False])
def test_rows_of_different_lengths(terminates):
    envs = Counting([1, 2, 3, 4], terminates=terminates)
    _, trials = collected(envs, 2, episodes=3)
    assert trials.reward.shape == (2, 2, 12) and trials.observation.shape == (2, 2, 12, 3)
    assert not envs.stepped_after_end, "a row that has ended is reset before it is stepped again"
    for row, length in enumerate([1, 2, 3, 4]):
        place, end = (row // 2, row % 2), 3 * length
        steps = np.arange(end)
        assert trials.valid[place].tolist() == [True] * end + [False] * (12 - end)
        seen = np.stack([np.full(end, row), steps // length, steps % length], 1)
        np.testing.assert_array_equal(trials.observation[place][:end], seen)
        np.testing.assert_array_equal(trials.reward[place], [*(100.0 * row + steps % length), *[0.0] * (12 - end)])
        np.testing.assert_array_equal(trials.episode[place][:end], steps // length)
        np.testing.assert_array_equal(trials.ended[place], [*(steps % length == length - 1), *[False] * (12 - end)])
    assert not trials.diverged.any()
    sums = trials.episode_sums(trials.reward, 3)
    expected = [100.0 * row * length + length * (length - 1) / 2 for row, length in enumerate([1, 2, 3, 4])]
    np.testing.assert_allclose(sums, np.tile(np.reshape(expected, (2, 2)), (3, 1, 1)))


@pytest.mark.parametrize("how", ["observation", "reward", "info"])
def test_a_row_that_blows_up_ends_its_trial_and_no_other(how):
    """Row 1 does in its fourth step, the first of its second episode."""
    _, plain = collected(Counting([3, 3, 3]), 3, episodes=3)
    _, trials = collected(Counting([3, 3, 3], blow_up=(1, 4, how)), 3, episodes=3)
    assert trials.diverged.flatten().tolist() == [False, True, False]
    assert trials.valid[1, 0].tolist() == [True] * 3 + [False] * 6
    assert (trials.reward[1, 0, 3:] == 0).all()
    for ours, theirs in zip(trials[:-1], plain[:-1], strict=True):
        assert torch.equal(ours[::2], theirs[::2])
        assert ours.isfinite().all()


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{}, {"separate_value": True}, {"learn_start": True}, {"layer_norm": True}])
@pytest.mark.parametrize("task", ["navigation_2d", "cartpole_params", "cheetah_vel"])
def test_the_sequence_pass_sees_what_the_policy_saw(task, settings):
    """Values and log-probabilities of the recorded steps are those of the sequence pass over the trials."""
    tasks = make_tasks(task, horizon=25)
    envs = tasks.make_envs(tasks.sample(3, rng.generator(0, "tasks")), 2)
    policy, trials = collected(envs, 3, episodes=2, horizon=25, **settings)
    envs.close()
    inputs = trial_inputs(policy, trials)
    rows = inputs.map(lambda field: field.flatten(0, 1))
    output = policy(rows, policy.initial_state(6))
    value = output.value.unflatten(0, (3, 2))
    log_prob = output.distribution.log_prob(trials.action.flatten(0, 1)).unflatten(0, (3, 2))
    valid = trials.valid
    assert valid.any() and (task != "cartpole_params" or not valid.all())
    torch.testing.assert_close(value[valid], trials.value[valid], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_prob[valid], trials.log_prob[valid], rtol=0, atol=1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize("take_mode", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        MemoryConfig(8, "transformer", num_layers=2, num_attention_heads=2, output_scale=1.0),
        MemoryConfig(8, "transformer", "hyper", (4,), positions="learned", separate_value=True),
        MemoryConfig(8, "set", "film", (4,), num_layers=2),
    ],
)
def test_the_sequence_pass_sees_what_other_memories_saw(config, take_mode):
    """Values and log-probabilities, with room for longer trials; a policy acts twice from one start."""
    tasks = make_tasks("cartpole_params", horizon=25)
    policy = make_memory_policy(config, tasks.observation_space, tasks.action_space, torch.Generator(), 70).double()
    params = {name: value.detach() for name, value in policy.named_parameters()}
    seen = []
    for _ in range(2):
        envs = tasks.make_envs(tasks.sample(3, rng.generator(0, "tasks")), 2)
        generator = rng.torch_generator(0, "actions")
        seen.append(collect_trials(policy, params, envs, 3, 2, 25, generator, take_mode=take_mode))
        envs.close()
    trials = seen[0]
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
    rows = trial_inputs(policy, trials).map(lambda field: field.flatten(0, 1))
    output = policy(rows, policy.initial_state(6))
    log_prob = output.distribution.log_prob(trials.action.flatten(0, 1)).unflatten(0, (3, 2))
    valid = trials.valid
    assert valid.any() and not valid.all()
    torch.testing.assert_close(output.value.unflatten(0, (3, 2))[valid], trials.value[valid], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_prob[valid], trials.log_prob[valid], rtol=0, atol=1e-12)


def test_the_state_is_carried_over_the_end_of_an_episode_and_not_of_a_trial():
    """The same observations: episodes of a trial differ from each other, the first ones of all trials do not."""
    tasks = make_tasks("navigation_2d", horizon=3)
    envs = tasks.make_envs(tasks.sample(1, rng.generator(0, "tasks")), 4)
    _, trials = collected(envs, 1, episodes=2, horizon=3)
    first, second = trials.value[0, :, 0], trials.value[0, :, 3]
    assert torch.equal(trials.observation[0, :, 0], trials.observation[0, :, 3])
    assert (first == first[0]).all()
    assert (second != first).all() and len(set(second.tolist())) == 4


@pytest.mark.thorough
@pytest.mark.parametrize("task", ["navigation_2d", "cartpole_params", "hopper_params"])
def test_fewer_episodes_are_the_beginning_of_more(task):
    """Though rows end at different times, and starts are drawn for all at once."""
    results = []
    for episodes in (2, 4):
        tasks = make_tasks(task, horizon=30)
        envs = tasks.make_envs(tasks.sample(3, rng.generator(0, "tasks")), 2)
        results.append(collected(envs, 3, episodes=episodes, horizon=30)[1])
        envs.close()
    fewer, more = results
    valid = fewer.valid
    time = valid.shape[2]
    for ours, theirs in zip(fewer[:-2], more[:-2], strict=True):
        assert torch.equal(ours[valid], theirs[:, :, :time][valid])
    sums = [trials.episode_sums(trials.reward, 4) for trials in results]
    assert torch.equal(sums[0][:2], sums[1][:2])


def test_the_draws_are_those_of_the_generator():
    first, again, other = (collected(Counting([2, 3]), 2, 2, seed=seed)[1] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.action, other.action)


def test_rows_must_divide_into_tasks():
    with pytest.raises(ValueError, match="num_tasks=2: 3 rows do not divide into so many tasks"):
        collected(Counting([1, 1, 1]), 2, 1)


@pytest.mark.parametrize("how", [None, "observation", "reward"])
def test_the_observation_that_a_step_reached_is_kept_if_asked_for(how):
    """Also at the end of an episode, where the next observation is of another one; 0 where a simulation diverged."""
    blow_up = how and (2, 4, how)
    envs = Counting([1, 2, 3, 4], blow_up=blow_up)
    policy, params = policy_for(envs)
    asked, plain = (
        collect_trials(policy, params, make, 2, 3, 4, rng.torch_generator(0, "actions"), keep_next)
        for make, keep_next in ((envs, True), (Counting([1, 2, 3, 4], blow_up=blow_up), False))
    )
    assert plain.next_observation.shape == (2, 2, 12, 0) and torch.equal(asked.observation, plain.observation)
    assert asked.next_observation.shape == asked.observation.shape and asked.next_observation.isfinite().all()
    reached = asked.observation + torch.tensor([0.0, 0.0, 1.0])
    assert torch.equal(asked.next_observation[asked.valid], reached[asked.valid].to(asked.observation.dtype))
    assert bool(asked.diverged[1, 0]) == bool(how) and not (how and asked.next_observation[1, 0, 3].any())
