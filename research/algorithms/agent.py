"""What every gradient-adaptation algorithm shares: an agent that samples a task, adapts, and is evaluated.

The algorithms differ in how they update the meta-parameters; this file is everything before that.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from research import rng
from research.evaluation import AdaptationCurve, adaptation_curve
from research.inner_loops import InnerLoopConfig, make_inner_loop
from research.inner_loops.base import LearnedRate, Transform, adapted_names
from research.inner_loops.func import expand, take
from research.losses import PolicyBatch, reinforce
from research.parallel import chunks, parallel_map
from research.policies import PolicyConfig, make_policy
from research.policies.baseline import fit_values
from research.returns import gae, normalize
from research.sampling.collect import collect
from research.tasks import make_tasks
from research.types import Forward, MetaParams, Metrics, Params, Trajectories
from research.validation import at_least, in_unit_interval, one_of


@dataclass(frozen=True)
class AgentConfig:
    """Settings of an agent that adapts by gradient steps.

    Attributes:
        task: Name of the task distribution, see `research.tasks.TASKS`.
        task_args: Its settings.
        seed: Every random draw of the run follows from it.
        num_iterations: Meta-iterations of training.
        meta_batch_size: Tasks in one meta-iteration.
        episodes_per_task: Episodes sampled for each task before and after each inner step.
        horizon: Steps of an episode.
        policy: The network.
        inner_loop: Backend of the inner loop: `"func"`, `"higher"` or `"learn2learn"`.
        inner_optimizer: See `InnerLoopConfig`.
        inner_lr: See `InnerLoopConfig`.
        learn_inner_lr: See `InnerLoopConfig`.
        num_inner_steps: Gradient steps of adaptation during training.
        first_order: See `InnerLoopConfig`.
        adapt_only: See `InnerLoopConfig`.
        transform: See `InnerLoopConfig`.
        discount: γ.
        gae_lambda: λ of generalised advantage estimation.
        normalize_advantages: Whether each task's advantages are scaled to mean 0 and deviation 1.
        num_eval_tasks: Held-out tasks of an evaluation.
        eval_episodes: Episodes per held-out task and step.
        num_adapt_steps: Gradient steps of an evaluation; may exceed `num_inner_steps`.
        eval_interval: Iterations between evaluations during training; 0 for none.
        checkpoint_interval: Iterations between checkpoints; 0 for one at the end only.
        device: `"cpu"` or `"cuda"` (or `"cuda:1"`).
        dtype: Of parameters and trajectories.
        num_threads: Threads over tasks on the CPU; 0 for one per core. The numbers do not depend on it.
    """

    task: str = "navigation_2d"
    task_args: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    num_iterations: int = 100
    meta_batch_size: int = 20
    episodes_per_task: int = 20
    horizon: int = 100
    policy: PolicyConfig = PolicyConfig()
    inner_loop: Literal["func", "higher", "learn2learn"] = "func"
    inner_optimizer: str = "sgd"
    inner_lr: float | tuple[float, ...] = 0.1
    learn_inner_lr: LearnedRate = "none"
    num_inner_steps: int = 1
    first_order: bool = False
    adapt_only: tuple[str, ...] = ()
    transform: Transform = "none"
    discount: float = 0.99
    gae_lambda: float = 1.0
    normalize_advantages: bool = True
    num_eval_tasks: int = 40
    eval_episodes: int = 20
    num_adapt_steps: int = 3
    eval_interval: int = 0
    checkpoint_interval: int = 10
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    num_threads: int = 0

    def __post_init__(self) -> None:
        at_least(self, 0, "seed", "eval_interval", "checkpoint_interval", "num_threads", "num_adapt_steps")
        at_least(self, 1, "num_iterations", "meta_batch_size", "episodes_per_task", "horizon", "num_inner_steps")
        at_least(self, 1, "num_eval_tasks", "eval_episodes")
        in_unit_interval(self, "discount", "gae_lambda")
        one_of(self, "inner_loop", ("func", "higher", "learn2learn"))
        one_of(self, "dtype", ("float32", "float64"))
        # The parts check their own settings; building them here stops a run before it has begun.
        make_inner_loop(self.inner_loop, self.inner_loop_config)
        make_tasks(self.task, horizon=self.horizon, **self.task_args)

    @property
    def inner_loop_config(self) -> InnerLoopConfig:
        return InnerLoopConfig(
            self.inner_optimizer,
            self.inner_lr,
            self.learn_inner_lr,
            self.first_order,
            self.adapt_only,
            self.transform,
        )


class Sampled(NamedTuple):
    """What one iteration sampled: the batch of each inner step, and the episodes after the last one."""

    batches: list[PolicyBatch]
    query: PolicyBatch
    metrics: Metrics


class Agent:
    """A policy with its inner loop and its tasks. Holds no state of the training: parameters are passed in."""

    def __init__(self, config: AgentConfig):
        self.config = config
        self.device = torch.device(config.device)
        self.num_threads = 1 if self.device.type != "cpu" else config.num_threads or os.cpu_count() or 1
        self.tasks = make_tasks(config.task, horizon=config.horizon, **config.task_args)
        self.inner_loop = make_inner_loop(config.inner_loop, config.inner_loop_config)
        initial = rng.torch_generator(config.seed, "policy")
        policy = make_policy(config.policy, self.tasks.observation_space, self.tasks.action_space, initial)
        self.policy = policy.to(self.device, getattr(torch, config.dtype))
        adapted_names(config.inner_loop_config, dict(policy.named_parameters()))  # refuses patterns without a match now

    def init(self) -> MetaParams:
        """The meta-parameters at the start of training."""
        params = {name: value.detach().clone() for name, value in self.policy.named_parameters()}
        return MetaParams(params, self.inner_loop.init_update(self.policy, params, self.config.num_inner_steps))

    def replica(self) -> torch.nn.Module:
        """A policy for one thread: `functional_call` swaps a module's parameters in place while it runs."""
        return copy.deepcopy(self.policy)

    def process(self, trajectories: Trajectories) -> PolicyBatch:
        """Episodes with their advantages, from a baseline fitted to each task."""
        config = self.config
        value, last_value = fit_values(trajectories, config.discount)
        advantage = gae(
            trajectories.reward,
            value,
            last_value,
            trajectories.terminated,
            trajectories.valid,
            config.discount,
            config.gae_lambda,
        )
        if config.normalize_advantages:
            advantage = normalize(advantage, trajectories.valid)
        return PolicyBatch(
            trajectories.observation, trajectories.action, advantage, trajectories.log_prob, trajectories.valid
        )

    def cut(self, batches: list[PolicyBatch]) -> list[list[PolicyBatch]]:
        """The same batches for some tasks at a time, as many as the inner loop likes to treat at once."""
        size = self.inner_loop.tasks_per_chunk(self.policy, batches)
        parts = [take(batches, chunk) for chunk in chunks(batches[0].valid.shape[0], size)]
        return [[drop_invalid(batch) for batch in part] for part in parts] if size == 1 else parts

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
        """Samples tasks, and episodes of each task before, between and after the inner steps."""
        config = self.config
        start = time.perf_counter()
        tasks = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", iteration))
        envs = self.tasks.make_envs(tasks, config.episodes_per_task)
        batches: list[PolicyBatch] = []
        sampled: list[Trajectories] = []
        collecting = 0.0
        for step in range(config.num_inner_steps + 1):
            adapted = self.adapt(meta, batches, config.meta_batch_size)
            generator = rng.torch_generator(config.seed, "actions", iteration, step, device=self.device)
            collect_start = time.perf_counter()
            sampled.append(collect(self.policy, adapted, envs, config.meta_batch_size, self.tasks.horizon, generator))
            collecting += time.perf_counter() - collect_start
            batches.append(self.process(sampled[-1]))
        envs.close()
        env_steps = sum(int(trajectories.valid.sum()) for trajectories in sampled)
        metrics = {
            "return_pre": float(sampled[0].returns().mean()),
            "return_post": float(sampled[-1].returns().mean()),
            "episode_length_post": float(sampled[-1].valid.sum(-1).double().mean()),
            "env_steps": float(env_steps),
            "time/env_steps_per_second": env_steps / collecting,
            "time/sample_seconds": time.perf_counter() - start,
        }
        return Sampled(batches[:-1], batches[-1], metrics)

    def evaluate(self, meta: MetaParams, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """The adaptation curve on the first `num_tasks` held-out tasks; a pure function of its arguments."""
        return adaptation_curve(
            self.policy,
            lambda batches: self.adapt(meta, batches, num_tasks),
            self.process,
            self.tasks,
            self.tasks.test_tasks(num_tasks),
            num_tasks=num_tasks,
            num_adapt_steps=num_adapt_steps,
            episodes=self.config.eval_episodes,
            seed=self.config.seed,
        )


def drop_invalid(batch: PolicyBatch) -> PolicyBatch:
    """The valid steps of a single task, `[1, steps, ...]`: all that a memoryless policy's losses read."""
    valid = batch.valid[0]
    return PolicyBatch(*(leaf[0][valid].unsqueeze(0) for leaf in batch))


def inner_loss(policy: Forward, batch: PolicyBatch) -> torch.Tensor:
    """The loss that adaptation descends: REINFORCE with advantages."""
    return reinforce(policy, batch)
