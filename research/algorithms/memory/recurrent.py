"""The agent of RL²: it samples whole trials and prepares their steps for an update of the network."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from research import rng
from research.algorithms.memory.agent import MemoryAgent
from research.algorithms.memory.config import RL2Config
from research.policies.memory import Inputs
from research.returns import discounted_returns, gae, masked_mean, normalize
from research.sampling.trials import collect_trials, trial_inputs
from research.tasks import SolvedTasks
from research.types import Metrics, Params, Trials

_PART_ROWS, _PART_STEPS = 256, 30_000
"""Most trials and steps of a part, which fit into the caches."""
_FEW_PARTS, _MANY_PARTS, _WORTH_A_PART = 4, 16, 3_000
"""Least parts of a minibatch that compiled code treats, of a large one, and steps for which a part more is worth it."""
_MEMORY = 0.9
_LEAST_VARIANCE = 1e-12
"""Variance of targets that differ by rounding errors only; otherwise it is near 1."""


class ValueScale(NamedTuple):
    """Running moments of the return from each step of a trial on: `[time]`, float64.

    x ← m x + (1 − m) · mean over the trials of an iteration, for x = mean and square, and weight ← m weight + (1 − m):
    x / weight is unbiased.
    """

    weight: Tensor
    mean: Tensor
    square: Tensor

    @classmethod
    def start(cls, time: int) -> ValueScale:
        """Returns the moments before the first iteration, for trials of `time` steps."""
        return cls(*(torch.zeros(time, dtype=torch.float64) for _ in range(3)))

    def update(self, returns: Tensor, valid: Tensor) -> ValueScale:
        """Returns the moments after another iteration; those of times that no trial reached stay.

        Args:
            returns: The returns of the iteration, `[tasks, trials, time]`.
            valid: Which of them belong to a trial, bool.
        """
        rows, here = returns.flatten(0, 1).double(), valid.flatten(0, 1).double()
        count = here.sum(0)
        rate = (1 - _MEMORY) * (count > 0)
        sums = ((rows * here).sum(0), (rows.square() * here).sum(0))
        new = (torch.ones_like(count), *(total / count.clamp_min(1) for total in sums))
        padded = (torch.nn.functional.pad(leaf, (0, len(self.mean) - len(count))) for leaf in (rate, *new))
        rate, *values = (leaf.to(self.mean.device) for leaf in padded)
        return ValueScale(*(old + rate * (value - old) for old, value in zip(self, values, strict=True)))

    def moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation at each step of `like [..., time]`, `[time]` in its dtype."""
        weight = self.weight.clamp_min(1e-12)
        mean = self.mean / weight
        std = (self.square / weight - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
        return tuple(leaf[: like.shape[-1]].to(like) for leaf in (mean, std))  # type: ignore[return-value]


class Steps(NamedTuple):
    """The steps of some trials, as an update reads them; every tensor is `[rows, time, ...]`.

    Attributes:
        inputs: Inputs of the network.
        action: The actions.
        log_prob: Their log-probabilities under the policy that took them.
        advantage: Their advantages.
        target: Targets of the value, in the unit of the value head.
        valid: Whether the step belongs to the trial, bool.
    """

    inputs: Inputs
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    valid: Tensor


class TrialSamples(NamedTuple):
    """The samples of one iteration: the steps of all trials, the scale of their value targets, and metrics.

    Attributes:
        steps: The steps, `[tasks × trials, time, ...]`.
        scale: Moments of the returns, these included.
        metrics: Metrics of the trials.
        tasks: The tasks.
        trials: The trials as they were sampled.
    """

    steps: Steps
    scale: ValueScale
    metrics: Metrics
    tasks: Any
    trials: Trials


class RecurrentAgent(MemoryAgent[RL2Config]):
    """The agent that samples trials and prepares them for an update.

    Args:
        config: The settings.
        keep_next: Whether sampled trials also have the observation that each step reached.
    """

    def __init__(self, config: RL2Config, keep_next: bool = False):
        super().__init__(config)
        self.keep_next = keep_next

    @torch.no_grad()
    def sample(self, params: Params, scale: ValueScale, iteration: int) -> TrialSamples:
        """Returns trials of new tasks with their advantages and the targets of the value."""
        config, start = self.config, time.perf_counter()
        count = config.tasks_at(iteration)
        tasks = self.tasks.sample(count, rng.generator(config.seed, "tasks", iteration))
        envs = self.tasks.make_envs(tasks, config.trials_per_task)
        generator = rng.torch_generator(config.seed, "actions", iteration, device=self.device)
        sizes = (count, config.episodes_per_trial, self.tasks.horizon)
        trials = collect_trials(self.policy, params, envs, *sizes, generator, self.keep_next, self.num_threads)
        envs.close()
        collecting = time.perf_counter() - start
        steps, scale = self._process(trials, self._reward(tasks, trials), scale)
        metrics = _trial_metrics(trials, config.episodes_per_trial)
        explained = explained_variance(trials.value.flatten(0, 1), steps.target, steps.valid)
        if explained is not None:
            metrics["explained_variance"] = explained
        metrics["time/env_steps_per_second"] = metrics["env_steps"] / collecting
        metrics["time/sample_seconds"] = time.perf_counter() - start
        return TrialSamples(steps, scale, metrics, tasks, trials)

    def _reward(self, tasks: Any, trials: Trials) -> Tensor:
        """Returns the reward that the update maximises, `[tasks, trials, time]`."""
        if self.config.learn_from == "reward":
            return trials.reward
        return -action_regret(self.tasks, tasks, trials).to(trials.reward.dtype)  # type: ignore[arg-type]

    def _process(self, trials: Trials, reward: Tensor, scale: ValueScale) -> tuple[Steps, ValueScale]:
        config = self.config
        scale = scale.update(discounted_returns(reward, config.discount), trials.valid)
        mean, std = scale.moments(trials.value)
        advantage, value = advantages(trials._replace(reward=reward), mean, std, config.discount, config.gae_lambda)
        target = (advantage + value - mean) / std
        if config.normalize_advantages:
            advantage = normalize(advantage.unsqueeze(0), trials.valid.unsqueeze(0)).squeeze(0)
        fields = (trials.action, trials.log_prob, advantage, target, trials.valid)
        inputs = trial_inputs(self.policy, trials).map(lambda field: field.flatten(0, 1))
        return Steps(inputs, *(field.flatten(0, 1) for field in fields)), scale


def action_regret(distribution: SolvedTasks, tasks: Any, trials: Trials) -> Tensor:
    """Returns the expected return lost by each valid action, `[tasks, trials, time]`, float64; 0 elsewhere."""
    observation, action = (field.cpu().numpy() for field in (trials.observation, trials.action))
    regret = torch.as_tensor(distribution.action_regret(tasks, observation, action), device=trials.valid.device)
    return regret * trials.valid


def advantages(trials: Trials, mean: Tensor, std: Tensor, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Returns generalised advantage estimates and the values V, `[tasks, trials, time]`, in the unit of the reward.

    V_t = mean_t + std_t · v_t, with v_t the output of the value head. The end of an episode bootstraps like any other
    step, because the state that the agent carries over affects later episodes. The end of the trial does not.
    """
    value = mean + std * trials.value
    last_value, terminated = torch.zeros_like(value[..., 0]), torch.zeros_like(trials.valid)
    return gae(trials.reward, value, last_value, terminated, trials.valid, discount, gae_lambda), value


def explained_variance(value: Tensor, target: Tensor, valid: Tensor) -> float | None:
    """Returns 1 − E(target − value)² / Var(target) over valid steps: 1 is perfect, 0 no better than a constant.

    It has no value, and is None, if all targets are equal up to rounding.
    """
    variance = masked_mean((target - masked_mean(target, valid)).square(), valid)
    if variance <= _LEAST_VARIANCE:
        return None
    return float(1 - masked_mean((target - value).square(), valid) / variance)


def in_interval(steps: Steps, interval: slice) -> Steps:
    """Returns the steps of a time interval, `[rows, interval, ...]`."""
    return _map(steps, lambda leaf: leaf[:, interval])


def minibatches(steps: Steps, count: int, cheap: bool) -> list[list[Steps]]:
    """Returns the trials in `count` minibatches of nearly equal size, each a list of parts for one thread.

    The trials keep their order, which is random. In memory a part is `[time, rows, ...]`, the order in which a
    recurrent network reads it.

    Args:
        steps: The trials.
        count: Number of minibatches.
        cheap: Whether parts of a few trials are no slower: no loop of torch over steps, see `num_parts`.
    """

    def part(rows: slice) -> Steps:
        return _map(steps, lambda leaf: leaf[rows].transpose(0, 1).contiguous().transpose(0, 1))

    def parts(rows: slice) -> list[Steps]:
        return [part(own) for own in split_rows(rows, num_parts(rows.stop - rows.start, steps.valid.shape[1], cheap))]

    return [parts(own) for own in split_rows(slice(0, len(steps.valid)), count)]


def num_parts(rows: int, time: int, cheap: bool) -> int:
    """Returns the number of parts of a minibatch, which does not depend on the threads: nor do sums over the parts.

    There are at least four, if there are so many trials, and up to sixteen for sixteen threads where each has work
    enough, in multiples of four, so that two and four threads have equal shares. A part of a few trials takes torch,
    which needs some ten calls for each time step, as long as one of many: there, a part has as many trials as fit
    into the caches.
    """
    least = -(-rows // max(1, min(_PART_ROWS, _PART_STEPS // time)))
    if not cheap:
        return least
    worth = min(_MANY_PARTS, rows * time // _WORTH_A_PART)
    return min(rows, max(_FEW_PARTS, -(-least // 4) * 4, worth // 4 * 4))


def split_rows(rows: slice, count: int) -> list[slice]:
    """Returns `count` consecutive slices of nearly equal size."""
    start, length = rows.start, rows.stop - rows.start
    bounds = [start + length * index // count for index in range(count + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(bounds)))


def _map(steps: Steps, function: Callable[[Tensor], Tensor]) -> Steps:
    return Steps(steps.inputs.map(function), *(function(leaf) for leaf in steps[1:]))


def _trial_metrics(trials: Trials, num_episodes: int) -> dict[str, Any]:
    earned = trials.episode_sums(trials.reward, num_episodes)
    return {
        "return_pre": float(earned[0].mean()),
        "return_post": float(earned[-1].mean()),
        "return_trial": float(earned.sum(0).mean()),
        "env_steps": float(trials.valid.sum()),
        "diverged_episodes": float(trials.diverged.sum()),
    }
