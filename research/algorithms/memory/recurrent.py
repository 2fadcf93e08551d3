"""What the updates of RL² share: an agent that samples whole trials, and its batch of steps to learn from."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from research import rng
from research.algorithms.memory.config import RL2Config
from research.parallel import available_cores
from research.policies.gru import Inputs, make_gru_policy
from research.returns import discounted_returns, gae, masked_mean, normalize
from research.sampling.trials import collect_trials, trial_inputs
from research.tasks import SolvedTasks
from research.types import Metrics, Params, Trials

_SHARD_ROWS, _SHARD_STEPS = 256, 30_000
_MEMORY = 0.9


class ValueScale(NamedTuple):
    """Running mean and square of the returns at each step of a trial, `[time]`, float64; `weight` tells how full.

    x ← m x + (1 − m) mean over this iteration's trials, weight ← m weight + (1 − m): x / weight is unbiased.
    """

    weight: Tensor
    mean: Tensor
    square: Tensor

    @classmethod
    def start(cls, time: int) -> ValueScale:
        """Before anything was seen."""
        return cls(*(torch.zeros(time, dtype=torch.float64) for _ in range(3)))

    def update(self, returns: Tensor, valid: Tensor) -> ValueScale:
        """With the returns `[tasks, trials, time]` of another iteration; the times that none reached stay."""
        rows, here = returns.flatten(0, 1).double(), valid.flatten(0, 1).double()
        count = here.sum(0)
        rate = (1 - _MEMORY) * (count > 0)
        new = (torch.ones_like(count), (rows * here).sum(0) / count.clamp_min(1), (rows.square() * here).sum(0))
        new = (new[0], new[1], new[2] / count.clamp_min(1))
        padded = (torch.nn.functional.pad(leaf, (0, len(self.mean) - len(count))) for leaf in (rate, *new))
        rate, *values = (leaf.to(self.mean.device) for leaf in padded)
        return ValueScale(*(old + rate * (value - old) for old, value in zip(self, values, strict=True)))

    def moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the returns at each step of `like [..., time]`, in its dtype."""
        weight = self.weight.clamp_min(1e-12)
        mean = self.mean / weight
        std = (self.square / weight - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
        return tuple(leaf[: like.shape[-1]].to(like) for leaf in (mean, std))  # type: ignore[return-value]


class Steps(NamedTuple):
    """What an update reads of trials, `[rows, time, ...]`.

    Attributes:
        inputs: Of the network.
        action: What was done.
        log_prob: Of the action under the policy that took it.
        advantage: Of the action.
        target: Of the value, in the units of the value head.
        valid: The step belongs to the trial.
    """

    inputs: Inputs
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    valid: Tensor


class Sampled(NamedTuple):
    """What one iteration sampled: the steps of all trials, the scale that their targets have, and metrics."""

    steps: Steps
    scale: ValueScale
    metrics: Metrics


class RecurrentAgent:
    """A recurrent policy and its tasks. Holds no state of the training: parameters are passed in."""

    def __init__(self, config: RL2Config):
        self.config = config
        self.device = torch.device(config.device)
        self.num_threads = 1 if self.device.type != "cpu" else config.num_threads or available_cores()
        self.tasks = config.make_tasks()
        self.longest = self.tasks.horizon * config.episodes_per_trial
        initial = rng.torch_generator(config.seed, "policy")
        policy = make_gru_policy(config.policy, self.tasks.observation_space, self.tasks.action_space, initial)
        self.policy = policy.to(self.device, getattr(torch, config.dtype))

    def init(self) -> Params:
        """The parameters at the start of training."""
        return {name: value.detach().clone() for name, value in self.policy.named_parameters()}

    @torch.no_grad()
    def sample(self, params: Params, scale: ValueScale, iteration: int) -> Sampled:
        """Trials of new tasks, with advantages, and with targets for the value."""
        config, start = self.config, time.perf_counter()
        count = config.tasks_at(iteration)
        tasks = self.tasks.sample(count, rng.generator(config.seed, "tasks", iteration))
        envs = self.tasks.make_envs(tasks, config.trials_per_task)
        generator = rng.torch_generator(config.seed, "actions", iteration, device=self.device)
        trials = collect_trials(
            self.policy, params, envs, count, config.episodes_per_trial, self.tasks.horizon, generator
        )
        envs.close()
        collecting = time.perf_counter() - start
        steps, scale = self._process(trials, self._signal(tasks, trials), scale)
        metrics = _describe(trials, config.episodes_per_trial)
        metrics["explained_variance"] = explained_variance(trials.value.flatten(0, 1), steps.target, steps.valid)
        metrics["time/env_steps_per_second"] = metrics["env_steps"] / collecting
        metrics["time/sample_seconds"] = time.perf_counter() - start
        return Sampled(steps, scale, metrics)

    def _signal(self, tasks: Any, trials: Trials) -> Tensor:
        """What the policy is to have much of, `[tasks, trials, time]`."""
        if self.config.learn_from == "reward":
            return trials.reward
        return -action_regret(self.tasks, tasks, trials).to(trials.reward.dtype)  # type: ignore[arg-type]

    def _process(self, trials: Trials, signal: Tensor, scale: ValueScale) -> tuple[Steps, ValueScale]:
        config = self.config
        scale = scale.update(discounted_returns(signal, config.discount), trials.valid)
        mean, std = scale.moments(trials.value)
        advantage, value = advantages(trials._replace(reward=signal), mean, std, config.discount, config.gae_lambda)
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
    """Generalised advantage estimates and the values they are of, `[tasks, trials, time]`, in units of the reward.

    V_t = mean_t + std_t · v_t, with v_t what the value head said. The end of an episode is a step like any other: what
    the agent knows by then goes on to pay. Beyond the end of the trial there is nothing.
    """
    value = mean + std * trials.value
    nothing, never = torch.zeros_like(value[..., 0]), torch.zeros_like(trials.valid)
    return gae(trials.reward, value, nothing, never, trials.valid, discount, gae_lambda), value


def explained_variance(value: Tensor, target: Tensor, valid: Tensor) -> float:
    """1 − E(target − value)² / Var(target) over valid steps: 1 is perfect, 0 no better than a constant."""
    variance = masked_mean((target - masked_mean(target, valid)).square(), valid)
    return float(1 - masked_mean((target - value).square(), valid) / variance.clamp_min(1e-12))


def between(steps: Steps, piece: slice) -> Steps:
    """Some time."""
    return _map(steps, lambda leaf: leaf[:, piece])


def minibatches(steps: Steps, count: int) -> list[list[Steps]]:
    """The trials in `count` shares of nearly the same size, each in parts for one thread.

    A part has as many trials as the caches like, fewer if they are long. Parts lie in memory with time first, as
    recurrent networks go through them. Trials are in the order of their sampling, in which none is like its neighbour.
    """
    rows, time = steps.valid.shape
    size = max(1, min(_SHARD_ROWS, _SHARD_STEPS // time))
    bounds = [rows * share // count for share in range(count + 1)]

    def parts(low: int, high: int) -> list[Steps]:
        number = -(-(high - low) // size)
        cuts = [low + (high - low) * part // number for part in range(number + 1)]
        return [_map(steps, lambda leaf, i=i, j=j: _time_first(leaf[i:j])) for i, j in itertools.pairwise(cuts)]  # type: ignore[misc]

    return [parts(low, high) for low, high in itertools.pairwise(bounds)]


def _time_first(leaf: Tensor) -> Tensor:
    return leaf.transpose(0, 1).contiguous().transpose(0, 1)


def _map(steps: Steps, function: Callable[[Tensor], Tensor]) -> Steps:
    return Steps(steps.inputs.map(function), *(function(leaf) for leaf in steps[1:]))


def _describe(trials: Trials, num_episodes: int) -> dict[str, Any]:
    """The metrics of the sampling."""
    earned = trials.episode_sums(trials.reward, num_episodes)
    return {
        "return_pre": float(earned[0].mean()),
        "return_post": float(earned[-1].mean()),
        "return_trial": float(earned.sum(0).mean()),
        "env_steps": float(trials.valid.sum()),
        "diverged_episodes": float(trials.diverged.sum()),
    }
