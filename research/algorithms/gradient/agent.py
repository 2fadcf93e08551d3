"""What every gradient-adaptation algorithm shares: an agent that samples a task, adapts, and is evaluated.

The algorithms differ in how they update the meta-parameters; this file is everything before that.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from research import rng
from research.algorithms.config import MetaLearningConfig
from research.distributed import ALONE, Ranks
from research.inner_loops import make_inner_loop
from research.inner_loops.base import adapted_names
from research.inner_loops.supported import twice_differentiable, vmappable
from research.losses import PolicyBatch, reinforce
from research.parallel import available_cores, chunks, parallel_map
from research.per_task import expand, per_task, take
from research.policies import PolicyConfig, make_policy
from research.policies.baseline import fit_values
from research.returns import gae, normalize
from research.sampling.collect import collect
from research.tasks import make_tasks
from research.types import Forward, MetaParams, Metrics, Params, Trajectories
from research.validation import at_least, in_unit_interval


@dataclass(frozen=True)
class AgentConfig(MetaLearningConfig):
    """Settings of an agent that adapts by gradient steps, beside those of every meta-learner.

    Attributes:
        task: Name of the task distribution, see `research.tasks.TASKS`.
        episodes_per_task: Episodes sampled for each task before and after each inner step.
        horizon: Steps of an episode.
        policy: The network.
        discount: γ.
        gae_lambda: λ of generalised advantage estimation.
        normalize_advantages: Whether each task's advantages are scaled to mean 0 and deviation 1.
        eval_episodes: Episodes per held-out task and step.
        num_threads: Threads over tasks on the CPU, and over simulations; 0 for one per core. The numbers do not depend
            on it.
    """

    evaluation_settings = MetaLearningConfig.evaluation_settings | {"horizon", "eval_episodes", "num_threads"}
    resume_settings = MetaLearningConfig.resume_settings | {"num_threads"}

    task: str = "navigation_2d"
    episodes_per_task: int = 20
    horizon: int = 100
    policy: PolicyConfig = PolicyConfig()
    discount: float = 0.99
    gae_lambda: float = 1.0
    normalize_advantages: bool = True
    eval_episodes: int = 20
    num_threads: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "num_threads")
        at_least(self, 1, "episodes_per_task", "horizon", "num_inner_steps", "eval_episodes")
        in_unit_interval(self, "discount", "gae_lambda")
        tasks = make_tasks(self.task, horizon=self.horizon, **self.task_args)  # checks the settings of its own
        tasks.test_tasks(self.num_eval_tasks)  # there may be fewer


class Sampled(NamedTuple):
    """What one iteration sampled.

    Attributes:
        batches: Of each inner step.
        query: The episodes after the last one.
        metrics: Of the sampling.
        query_episodes: What `query` was made of.
    """

    batches: list[PolicyBatch]
    query: PolicyBatch
    metrics: Metrics
    query_episodes: Trajectories


class Agent:
    """A policy with its inner loop and its tasks. Holds no state of the training: parameters are passed in.

    Args:
        config: The settings.
        ranks: Processes among which the tasks of a meta-batch are shared out: this one samples and adapts its own.

    Raises:
        ValueError: There are more ranks than tasks.
    """

    def __init__(self, config: AgentConfig, ranks: Ranks = ALONE):
        if ranks.size > config.meta_batch_size:
            raise ValueError(
                f"meta_batch_size={config.meta_batch_size}: need a task for each of the {ranks.size} ranks, "
                "or fewer ranks"
            )
        self.config = config
        self.ranks = ranks
        self.share = ranks.share(config.meta_batch_size)
        self.device = ranks.device(config.device)
        self.num_threads = 1 if self.device.type != "cpu" else config.num_threads or available_cores()
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.inner_loop = make_inner_loop(config.inner_loop, config)
        initial = rng.torch_generator(config.seed, "policy")
        policy = make_policy(config.policy, self.tasks.observation_space, self.tasks.action_space, initial)
        self.policy = policy.to(self.device, getattr(torch, config.dtype))
        adapted_names(config, dict(policy.named_parameters()))  # refuses patterns without a match now

    def init(self) -> MetaParams:
        """The meta-parameters at the start of training."""
        params = {name: value.detach().clone() for name, value in self.policy.named_parameters()}
        return MetaParams(params, self.inner_loop.init_update(self.policy, params, self.config.num_inner_steps))

    def replica(self) -> torch.nn.Module:
        """A policy for one thread: `functional_call` swaps a module's parameters in place while it runs."""
        return copy.deepcopy(self.policy)

    def advantages(self, trajectories: Trajectories) -> torch.Tensor:
        """Advantages from a baseline fitted to each task, in the units of the reward: `[tasks, episodes, time]`."""
        config = self.config
        value, last_value = fit_values(trajectories, config.discount)
        return gae(
            trajectories.reward,
            value,
            last_value,
            trajectories.terminated,
            trajectories.valid,
            config.discount,
            config.gae_lambda,
        )

    def process(self, trajectories: Trajectories) -> PolicyBatch:
        """Episodes with their advantages, from a baseline fitted to each task."""
        advantage = self.advantages(trajectories)
        if self.config.normalize_advantages:
            advantage = normalize(advantage, trajectories.valid)
        return PolicyBatch(
            trajectories.observation, trajectories.action, advantage, trajectories.log_prob, trajectories.valid
        )

    def cut(self, batches: list[PolicyBatch], keep_episodes: bool = False) -> list[list[PolicyBatch]]:
        """The same batches for some tasks at a time, as many as the inner loop likes to treat at once.

        A task on its own loses its invalid steps, and with them the bounds of its episodes, unless they are to be kept.
        """
        size = self.inner_loop.tasks_per_chunk(self.policy, batches)
        parts = [take(batches, chunk) for chunk in chunks(batches[0].valid.shape[0], size)]
        return [[drop_invalid(batch) for batch in part] for part in parts] if size == 1 and not keep_episodes else parts

    @torch.no_grad()
    def adapt(self, meta: MetaParams, batches: list[PolicyBatch], num_tasks: int) -> Params:
        """Parameters of each task after one inner step for each batch, `[tasks, ...]`, without a graph."""
        if not batches:
            return expand(meta.model, num_tasks)

        def adapt_part(part: list[PolicyBatch]) -> Params:
            return self.inner_loop.adapt(self.replica(), meta.model, meta.update, inner_loss, part)

        parts = parallel_map(adapt_part, self.cut(batches), self.num_threads)
        return {name: torch.cat([part[name] for part in parts]) for name in meta.model}

    def sample(self, meta: MetaParams, iteration: int) -> Sampled:
        """Samples tasks, and episodes of each task before, between and after the inner steps.

        The tasks are this rank's share of the meta-batch, the metrics those of all of it.
        """
        config = self.config
        self.ranks.require_equal(meta, f"iteration {iteration}: the parameters")
        start = time.perf_counter()
        everything = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", iteration))
        envs = self.tasks.make_envs(take(everything, self.share.tasks), config.episodes_per_task)
        batches: list[PolicyBatch] = []
        sampled: list[Trajectories] = []
        collecting = 0.0
        for step in range(config.num_inner_steps + 1):
            adapted = self.adapt(meta, batches, self.share.size)
            generator = rng.torch_generator(config.seed, "actions", iteration, step, device=self.device)
            collect_start = time.perf_counter()
            trajectories = collect(
                self.policy,
                adapted,
                envs,
                self.share.size,
                self.tasks.horizon,
                generator,
                config.num_threads,
                self.share,
            )
            sampled.append(trajectories)
            collecting += time.perf_counter() - collect_start
            batches.append(self.process(sampled[-1]))
        envs.close()
        metrics = self._metrics(sampled, collecting) | {"time/sample_seconds": time.perf_counter() - start}
        return Sampled(batches[:-1], batches[-1], metrics, sampled[-1])

    def _metrics(self, sampled: list[Trajectories], seconds: float) -> Metrics:
        """Of the tasks of all ranks; a step of each took `seconds` in all."""
        before, after = sampled[0], sampled[-1]
        columns = [before.returns(), after.returns(), after.valid.sum(-1)]
        means = self.ranks.mean(torch.stack([column.double().mean(1) for column in columns], 1), self.share.total)
        return_pre, return_post, length = means.tolist()
        counts = [(float(part.valid.sum()), float(part.diverged.sum())) for part in sampled]
        steps, diverged = self.ranks.sum(counts)
        return {
            "return_pre": return_pre,
            "return_post": return_post,
            "episode_length_post": length,
            "env_steps": steps,
            "diverged_episodes": diverged,
            "time/env_steps_per_second": steps / seconds,
        }


def drop_invalid(batch: PolicyBatch) -> PolicyBatch:
    """The valid steps of a single task, `[1, steps, ...]`: all that a memoryless policy's losses read."""
    valid = batch.valid[0]
    return PolicyBatch(*(leaf[0][valid].unsqueeze(0) for leaf in batch))


def respond(policy: nn.Module, params: Params, observation: Tensor) -> Any:
    """The action distributions of each task of a chunk at its own observations, under its own `params [tasks, ...]`."""

    def one(own: Params, seen: Tensor) -> Any:
        return functional_call(policy, own, (seen,))

    with twice_differentiable(policy):
        return per_task(one, params, observation, vmapped=vmappable(policy))


def inner_loss(policy: Forward, batch: PolicyBatch) -> torch.Tensor:
    """The loss that adaptation descends: REINFORCE with advantages."""
    return reinforce(policy, batch)
