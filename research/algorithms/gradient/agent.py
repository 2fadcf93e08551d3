"""The agent of the gradient-adaptation algorithms: it samples tasks, adapts a policy to each, and is evaluated.

The algorithms differ in how they update the meta-parameters.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from research import rng
from research.algorithms.config import MetaLearningConfig
from research.algorithms.outer import initial_params
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
from research.tasks.splits import evaluation_tasks
from research.types import MetaParams, Metrics, Params, Trajectories
from research.validation import at_least, in_unit_interval

T = TypeVar("T")


@dataclass(frozen=True)
class AgentConfig(MetaLearningConfig):
    """Settings of an agent that adapts by gradient steps, in addition to those of every meta-learner.

    Attributes:
        task: Name of the task distribution, see `research.tasks.TASKS`.
        episodes_per_task: Episodes sampled for each task before each inner step, and after the last one.
        horizon: Steps of an episode.
        policy: Settings of the network.
        discount: γ.
        gae_lambda: λ of generalised advantage estimation.
        normalize_advantages: Whether each task's advantages are scaled to mean 0 and standard deviation 1.
        eval_episodes: Episodes for each task and step of an evaluation.
        num_threads: Threads over tasks on the CPU, and over simulations; 0 for one per core. The results do not depend
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
        tasks = make_tasks(self.task, horizon=self.horizon, **self.task_args)  # checks its settings
        evaluation_tasks(tasks, self.eval_split, self.num_eval_tasks)  # refuses more tasks than there are


class PolicySamples(NamedTuple):
    """The episodes of one iteration.

    Attributes:
        batches: The batch of each inner step; every tensor is `[tasks, episodes, time, ...]`.
        query: The batch that was sampled after the last inner step.
        metrics: Metrics of the sampling.
        query_episodes: The episodes of `query`.
    """

    batches: list[PolicyBatch]
    query: PolicyBatch
    metrics: Metrics
    query_episodes: Trajectories


class Agent:
    """A policy with its inner loop and its tasks. It holds no state of the training: parameters are arguments.

    Args:
        config: The settings.
        ranks: The processes that share the tasks of a meta-batch; this one samples and adapts to its share.

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
        self.policy = self.make_policy(config.policy)
        self._copies = threading.local()
        adapted_names(config, dict(self.policy.named_parameters()))  # refuses patterns without a match now

    def make_policy(self, settings: PolicyConfig) -> nn.Module:
        """Returns a policy with these settings, and the initial parameters of the run for them."""
        initial = rng.torch_generator(self.config.seed, "policy")
        policy = make_policy(settings, self.tasks.observation_space, self.tasks.action_space, initial)
        return policy.to(self.device, getattr(torch, self.config.dtype))

    def init(self) -> MetaParams:
        """Returns the meta-parameters at the start of training."""
        params = initial_params(self.policy)
        return MetaParams(params, self.inner_loop.init_update(self.policy, params, self.config.num_inner_steps))

    def advantages(self, trajectories: Trajectories) -> Tensor:
        """Returns advantages `[tasks, episodes, time]` in the unit of the reward, with a baseline for each task."""
        discount, (value, last_value) = self.config.discount, fit_values(trajectories, self.config.discount)
        ends = (trajectories.terminated, trajectories.valid)
        return gae(trajectories.reward, value, last_value, *ends, discount, self.config.gae_lambda)

    def process(self, trajectories: Trajectories) -> PolicyBatch:
        """Returns the episodes with their advantages, which are normalised if the settings say so."""
        advantage = self.advantages(trajectories)
        if self.config.normalize_advantages:
            advantage = normalize(advantage, trajectories.valid)
        return PolicyBatch(
            trajectories.observation, trajectories.action, advantage, trajectories.log_prob, trajectories.valid
        )

    def policy_of_thread(self) -> nn.Module:
        """Returns a copy of the policy for the current thread alone, as `functional_call` changes a module meanwhile.

        It is made once: a copy takes half a millisecond, in which no other thread runs Python.
        """
        policy: nn.Module | None = getattr(self._copies, "policy", None)
        if policy is None:
            policy = self._copies.policy = copy.deepcopy(self.policy)
        return policy

    def map_chunks(
        self, function: Callable[..., T], batches: list[PolicyBatch], *trees: Any, keep_episodes: bool = False
    ) -> list[T]:
        """Returns `function(policy, batches, *trees)` for each chunk of tasks, in the order of tasks, on threads.

        Args:
            function: Its arguments belong to one chunk: as many tasks as the inner loop treats at once. Its policy is
                `policy_of_thread()`: if it is to be used after the function has returned, it must be copied.
            batches: Batches of all tasks. A task in a chunk of its own loses its invalid steps, and with them the
                boundaries of its episodes.
            trees: Other tensors `[tasks, ...]`, or trees of them.
            keep_episodes: Whether to keep the invalid steps in any case.
        """
        size = self.inner_loop.tasks_per_chunk(self.policy, batches)

        def run(tasks: slice) -> T:
            own = take(batches, tasks)
            if size == 1 and not keep_episodes:
                own = [drop_invalid(batch) for batch in own]
            return function(self.policy_of_thread(), own, *(take(tree, tasks) for tree in trees))

        return parallel_map(run, chunks(len(batches[0].valid), size), self.num_threads)

    @torch.no_grad()
    def adapt(self, meta: MetaParams, batches: list[PolicyBatch], num_tasks: int) -> Params:
        """Returns the parameters of each task after one inner step for each batch, `[tasks, ...]`, without a graph."""
        if not batches:
            return expand(meta.model, num_tasks)

        def adapt_chunk(policy: nn.Module, own: list[PolicyBatch]) -> Params:
            return self.inner_loop.adapt(policy, meta.model, meta.update, inner_loss, own)

        parts = self.map_chunks(adapt_chunk, batches)
        return {name: torch.cat([part[name] for part in parts]) for name in meta.model}

    def sample(self, meta: MetaParams, iteration: int) -> PolicySamples:
        """Returns episodes of new tasks: one batch before each inner step, and one after the last.

        The tasks are this rank's share of the meta-batch. The metrics are those of the whole meta-batch.
        """
        config, share = self.config, self.share
        self.ranks.require_equal(meta, f"iteration {iteration}: the parameters")
        start = time.perf_counter()
        tasks = self.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", iteration))
        envs = self.tasks.make_envs(take(tasks, share.tasks), config.episodes_per_task)
        batches: list[PolicyBatch] = []
        sampled: list[Trajectories] = []
        collecting = 0.0
        for step in range(config.num_inner_steps + 1):
            params = self.adapt(meta, batches, share.size)
            generator = rng.torch_generator(config.seed, "actions", iteration, step, device=self.device)
            collect_start = time.perf_counter()
            sizes = (share.size, self.tasks.horizon)
            sampled.append(collect(self.policy, params, envs, *sizes, generator, config.num_threads, share))
            collecting += time.perf_counter() - collect_start
            batches.append(self.process(sampled[-1]))
        envs.close()
        metrics = self._metrics(sampled, collecting) | {"time/sample_seconds": time.perf_counter() - start}
        return PolicySamples(batches[:-1], batches[-1], metrics, sampled[-1])

    def _metrics(self, sampled: list[Trajectories], seconds: float) -> Metrics:
        """Returns metrics over the tasks of all ranks; `seconds` is the time that collecting all episodes took."""
        before, after = sampled[0], sampled[-1]
        columns = [before.returns(), after.returns(), after.valid.sum(-1)]
        means = self.ranks.mean(torch.stack([column.double().mean(1) for column in columns], 1), self.share.total)
        return_pre, return_post, length = means.tolist()
        counts = [torch.stack([part.valid.sum(), part.diverged.sum()]).double().tolist() for part in sampled]
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
    """Returns the valid steps of a single task, `[1, steps, ...]`: all that a memoryless policy's losses read."""
    steps = batch.valid[0].flatten().nonzero().squeeze(1)  # once: on a GPU, the host waits for its length
    return PolicyBatch(*(leaf[0].flatten(0, 1)[steps].unsqueeze(0) for leaf in batch))


def respond(policy: nn.Module, params: Params, observation: Tensor) -> Any:
    """Returns the action distributions of each task of a chunk at its own observations.

    Args:
        policy: The module.
        params: The parameters of each task, `[tasks, ...]`.
        observation: The observations of each task, `[tasks, ..., obs]`.
    """

    def one(own: Params, seen: Tensor) -> Any:
        return functional_call(policy, own, (seen,))

    with twice_differentiable(policy):
        return per_task(one, params, observation, vmapped=vmappable(policy))


inner_loss = reinforce
"""The loss that adaptation descends: REINFORCE with advantages."""
