"""Steps under the actions of a network in C: the episodes of `collect` step by step, up to rounding."""

import numpy as np
import pytest
import torch

from research import rng
from research.distributed import Share
from research.policies import GaussianMLP, PolicyConfig
from research.sampling import closed_loop, simulations
from research.sampling import collect as stepwise
from research.sampling.acting import until_the_end
from research.sampling.closed_loop import ClosedLoop
from research.sampling.collect import collect
from research.sampling.mujoco import Columns, MujocoEnvs
from research.tasks import make_tasks

TASKS, EPISODES = 3, 2
FAMILIES = [
    ("cheetah_vel", {"clip_actions": True}, "tanh"),
    ("cheetah_dir", {"observation": "com"}, "relu"),
    ("hopper_params", {}, "tanh"),
    ("walker_params", {}, "relu"),
    ("ant_goal", {"goals": "disc", "terminate": False}, "tanh"),
    ("ant_dir", {"observe_forces": True}, "tanh"),
    ("humanoid_dir", {}, "tanh"),
]


def problem(name, horizon, activation="tanh", dtype=torch.float64, **settings):
    family = make_tasks(name, horizon=horizon, **settings)
    sizes = family.observation_space.shape[0], family.action_space.shape[0]
    noise = torch.Generator().manual_seed(0)
    policy = GaussianMLP(*sizes, PolicyConfig((11, 70, 9), activation), noise).to(dtype)
    params = {
        key: value.detach() + 0.1 * torch.randn(TASKS, *value.shape, generator=noise).to(dtype)
        for key, value in policy.named_parameters()
    }
    return policy, params, family.make_envs(family.test_tasks(TASKS), EPISODES)


def sample(policy, params, envs, horizon, threads=2):
    return collect(policy, params, envs, TASKS, horizon, rng.torch_generator(0, "actions"), threads)


@pytest.fixture
def loops(monkeypatch):
    """Notes whether parts of a collection acted in C; `loops.off` makes all act step by step."""

    class Loops:
        def __init__(self):
            self.made, self.off = [], False

        def make(self, *arguments):
            loop = None if self.off else original(*arguments)
            self.made.append(isinstance(loop, ClosedLoop))
            return loop

    original, found = stepwise.closed_loop, Loops()
    monkeypatch.setattr(stepwise, "closed_loop", found.make)
    return found


@pytest.mark.parametrize(("name", "settings", "activation"), FAMILIES)
def test_the_episodes_are_those_of_single_steps(name, settings, activation, loops):
    policy, params, envs = problem(name, 10, activation, **settings)
    fast = sample(policy, params, envs, 10)
    after = envs._observation.copy(), envs._steps.copy(), envs._done.copy()
    loops.off = True
    slow = sample(policy, params, envs, 10)
    assert loops.made == [True, True, False, False]
    assert torch.equal(fast.valid, slow.valid)
    for field, ours, theirs in zip(fast._fields, fast, slow, strict=True):
        per_step = field not in ("last_observation", "diverged")
        torch.testing.assert_close(
            *((ours[slow.valid], theirs[slow.valid]) if per_step else (ours, theirs)), rtol=1e-7, atol=1e-9
        )
        assert not per_step or not ours[~slow.valid].any(), "there are zeros after the end of an episode"
    np.testing.assert_allclose(after[0], envs._observation, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(after[1], envs._steps)
    np.testing.assert_array_equal(after[2], envs._done)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["cheetah_vel", "hopper_params"])
def test_the_bits_depend_neither_on_threads_nor_on_steps_of_a_call(name, dtype, loops, monkeypatch):
    policy, params, envs = problem(name, 40, dtype=dtype)
    first = sample(policy, params, envs, 40)
    assert (name == "cheetah_vel") == bool(first.valid.all())
    for threads, steps in ((1, 1), (3, 7), (2, 40)):
        monkeypatch.setattr(MujocoEnvs, "steps_at_once", steps)
        assert all(map(torch.equal, first, sample(policy, params, envs, 40, threads)))
    assert all(loops.made)
    envs.reset(seed=rng.torch_generator(0, "actions").initial_seed() % 2**31)
    for t in range(first.reward.shape[2]):
        alive = first.valid[:, :, t].flatten().numpy()
        observation, reward, terminated, *_ = envs.step(first.action[:, :, t].flatten(0, 1).numpy())
        np.testing.assert_array_equal(
            first.reward[:, :, t].flatten()[alive], reward[alive].astype(first.reward.numpy().dtype)
        )
        np.testing.assert_array_equal(first.terminated[:, :, t].flatten()[alive], terminated[alive])
    np.testing.assert_array_equal(first.last_observation.flatten(0, 1), torch.from_numpy(observation).to(dtype))


def test_ranks_collect_what_one_process_collects(loops):
    policy, params, envs = problem("cheetah_vel", 6)
    whole = sample(policy, params, envs, 6)
    family = envs.distribution
    for rank in range(2):
        share = Share(rank, 2, TASKS)
        theirs = {name: value[share.tasks] for name, value in params.items()}
        tasks = type(envs.tasks)(*(field[share.tasks] for field in family.test_tasks(TASKS)))
        own = family.make_envs(tasks, EPISODES)
        part = collect(policy, theirs, own, share.size, 6, rng.torch_generator(0, "actions"), 1, share)
        assert all(torch.equal(ours, field[share.tasks]) for ours, field in zip(part, whole, strict=True))
    assert all(loops.made)


def test_a_row_that_diverges_ends_and_no_other(loops):
    policy, params, envs = problem("cheetah_vel", 5)
    plain = sample(policy, params, envs, 5)
    params["log_std"][1] = torch.nan
    sampled = sample(policy, params, envs, 5)
    assert all(loops.made)
    assert sampled.diverged.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert not sampled.valid[1].any() and not sampled.reward[1].any() and not sampled.terminated[1].any()
    assert torch.equal(sampled.last_observation[1], plain.observation[1, :, 0])
    for task in (0, 2):
        assert all(torch.equal(ours[task], theirs[task]) for ours, theirs in zip(sampled, plain, strict=True))


def test_policies_act_step_by_step_where_c_cannot(loops, monkeypatch):
    policy, params, envs = problem("reacher_goal", 3)  # observes angles by their cosine
    sample(policy, params, envs, 3)
    policy, params, envs = problem("cheetah_vel", 3)
    weights = 17 * 11 + 11 * 70 + 70 * 9 + 9 * 6
    for most in (weights - 1, weights):
        monkeypatch.setattr(closed_loop, "_MOST_PARAMETERS", most)
        sample(policy, params, envs, 3)
    monkeypatch.setattr(simulations, "load", lambda dtype="": None)  # no compiler
    sample(policy, params, envs, 3)
    assert loops.made == [*[False] * 4, True, True, False, False]


@pytest.mark.parametrize("sizes", [(16, 6), (17, 7)])
def test_a_policy_of_other_spaces_does_not_act_in_c(sizes, loops):
    """It would be given too many numbers, or write more controls than there are."""
    _, _, envs = problem("cheetah_vel", 3)
    policy = GaussianMLP(*sizes, PolicyConfig((4,)), torch.Generator().manual_seed(0))
    params = {name: value.detach().expand(TASKS, *value.shape) for name, value in policy.named_parameters()}
    with pytest.raises(ValueError, match=r"inputs: .*, need|actions: got shape"):
        sample(policy, params, envs, 3)
    assert loops.made and not any(loops.made)


def test_a_row_moves_up_to_its_end():
    ends = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]], bool)
    moves, done = until_the_end(np.array([True, True, True, False]), ends)
    np.testing.assert_array_equal(moves, np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], bool))
    np.testing.assert_array_equal(done, [False, True, True, True])


def test_a_policy_of_other_sizes_is_refused_before_c_reads_it():
    family = make_tasks("cheetah_vel", horizon=3)
    envs = family.make_envs(family.test_tasks(TASKS), EPISODES)
    for sizes, refused in (((17, 5), "actions: got shape"), ((17, 7), "actions: got shape"), ((16, 6), "inputs:")):
        policy = GaussianMLP(*sizes, PolicyConfig((8,)), torch.Generator().manual_seed(0))
        params = {name: value.detach().expand(TASKS, *value.shape) for name, value in policy.named_parameters()}
        with pytest.raises(ValueError, match=refused):
            sample(policy, params, envs, 3)


def test_a_policy_with_a_hook_or_environments_with_their_own_steps_act_step_by_step(loops):
    policy, params, envs = problem("cheetah_vel", 3)
    calls = []
    handle = policy.register_forward_hook(lambda module, inputs, output: calls.append(1))
    sample(policy, params, envs, 3)
    handle.remove()
    assert len(calls) == 6

    class Reversed(type(envs)):
        def begin(self, actions, rows):
            return super().begin(-actions, rows)

    class Shifted(type(envs)):
        def reset(self, **options):
            observation, info = super().reset(**options)
            return observation + 1, info

    for kind in (Reversed, Shifted):
        envs.__class__ = kind
        sample(policy, params, envs, 3)
    assert loops.made == [False] * 6


@pytest.mark.parametrize("columns", [[Columns("qpos", start=-8), Columns("qvel", start=-9, stop=99)]])
def test_columns_are_those_of_a_slice(columns, loops, monkeypatch):
    policy, params, envs = problem("cheetah_vel", 3)
    usual = sample(policy, params, envs, 3)
    monkeypatch.setattr(type(envs), "observed", columns)
    assert all(map(torch.equal, usual, sample(policy, params, envs, 3)))
    assert all(loops.made)


def test_rewards_of_rows_that_have_ended_are_of_states_that_exist(loops, monkeypatch):
    policy, params, envs = problem("hopper_params", 40)
    heights, reward = [], type(envs).reward

    def watched(self, rows, before, after, action):
        heights.append(min(before["qpos"][:, 1].min(), after["qpos"][:, 1].min()))
        return reward(self, rows, before, after, action)

    monkeypatch.setattr(type(envs), "reward", watched)
    assert not sample(policy, params, envs, 40).valid.all()
    assert all(loops.made) and min(heights) > 0.1
