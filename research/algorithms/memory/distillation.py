"""Algorithm Distillation: a policy with memory imitates a learner through its whole learning history.

    for each of num_histories training tasks: a source algorithm learns it from nothing; its history is
        h = (s_0, a_0, r_0, s_1, a_1, r_1, ...), all its episodes in their order
    repeat
        for each row of a minibatch: draw a history and j < k, keep its episodes j, j + k, j + 2k, ... (k = keep_every)
        L(θ) = −mean_t log π_θ(a_t | s_0, a_0, r_0, ..., s_{t−1}, a_{t−1}, r_{t−1}, s_t),   t through all kept episodes
        θ ← Adam(θ, ∇L),  the gradient clipped to max_grad_norm
    at test time π_θ acts in a trial of a task that no source has learned, from an empty memory, with θ fixed

Laskin et al. 2022, arXiv:2210.14215 (equation 4 and algorithm 1). A history shows a policy that gets better, so π_θ has
to infer from the history how far the learner is, and what it would do next: it learns in its memory. With k > 1 it
is meant to learn faster than the source did, as k episodes of the source lie between two of its own.

Differs from the paper: the source is tabular Q-learning or a classical policy of bandits (`sources.py`), or whatever
wrote a file of histories; theirs are actor-critics and DQN. A minibatch has the kept episodes of whole histories, so
that the context is the whole trial; theirs has pieces of histories, and acts with a window of its last steps. The first
kept episode is one of the first k. The network is that of RL², whose input has the last action, the last reward and
whether an episode ended. There is no label smoothing. The step size falls linearly.
"""

from __future__ import annotations

import functools
import time
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research import rng
from research.algorithms.memory.agent import MemoryAgent
from research.algorithms.memory.distillation_config import DistillationConfig
from research.algorithms.memory.evaluation import expected_total, known_mean_optimum, trial_curve
from research.algorithms.memory.recurrent import num_parts, split_rows
from research.algorithms.memory.sources import play
from research.algorithms.outer import clip_norm, initial_params
from research.evaluation import AdaptationCurve
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import distance
from research.parallel import parallel_map
from research.policies.memory import Inputs, MemoryPolicy
from research.sampling.histories import Histories, read_histories, state_table
from research.sampling.trials import bind, fill, trial_inputs
from research.tasks import SolvedTasks
from research.tasks.splits import SplitName, evaluation_stream, evaluation_tasks
from research.types import MetaParams, Metrics, Params, StepResult, Trials


class DistillationState(NamedTuple):
    """The state of a training run.

    Attributes:
        iteration: Finished iterations.
        meta: The parameters of the network; `update` is empty.
        optimizer: Adam's moments of the parameters that the loss depends on.
        checksum: Checksum of the histories, see `Histories.checksum`; 0 before the first iteration.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    checksum: int


class Imitated(NamedTuple):
    """The steps of some histories; every tensor is `[rows, time, ...]`.

    Attributes:
        inputs: Inputs of the network.
        action: The actions of the source.
        valid: Whether the step belongs to the history, bool.
    """

    inputs: Inputs
    action: Tensor
    valid: Tensor

    def rows(self, rows: slice) -> Imitated:
        """Returns some of the histories."""
        return Imitated(self.inputs.map(lambda leaf: leaf[rows]), self.action[rows], self.valid[rows])


class Distillation:
    """Algorithm Distillation, see the module."""

    Config: ClassVar[type] = DistillationConfig

    def __init__(self, config: DistillationConfig):
        self.config = config
        self.agent: MemoryAgent[DistillationConfig] = MemoryAgent(config)
        self.table = state_table(self.agent.tasks.observation_space)
        self._source_returns = functools.lru_cache(maxsize=4)(self._play_source)

    @functools.cached_property
    def histories(self) -> Histories:
        """The learning histories, read or made when they are asked for: a function of the settings."""
        config, tasks = self.config, self.agent.tasks
        if config.histories:
            histories = read_histories(config.histories, config.task, tasks)
            config.check_episodes(histories.length.shape[1], f"histories={config.histories!r}: its episodes")
            return histories
        batch = tasks.sample(config.num_histories, rng.generator(config.seed, "source/tasks"))
        draws = rng.generator(config.seed, "source")
        return play(config.source, tasks, batch, 1, config.source.num_episodes, draws)

    @functools.cached_property
    def checksum(self) -> int:
        """The checksum of the histories."""
        return self.histories.checksum()

    def init(self) -> DistillationState:
        """Returns the state before the first iteration."""
        params = initial_params(self.agent.policy)
        return DistillationState(0, MetaParams(params, {}), adam_start(_learned(params)), 0)

    def check(self, state: DistillationState) -> None:
        """Raises ValueError if the file of histories does not fit, or `state` was trained on other histories.

        A state that has all its iterations needs no histories.
        """
        if not self.config.is_trained_at(state.iteration) and (state.checksum or self.config.histories):
            self._check_histories(state.checksum)

    def step(self, state: DistillationState) -> StepResult:
        """Returns the state after the updates of an iteration, and metrics: means over its minibatches.

        Raises:
            ValueError: The state was trained on other histories.
        """
        self._check_histories(state.checksum)
        config, start, params, optimizer = self.config, time.perf_counter(), state.meta.model, state.optimizer
        policy = bind(self.agent.policy, params, requires_grad=True)
        learned = _learned(params)
        norms: list[float] = []
        found: list[Tensor] = []
        drawing = 0.0
        for update in range(config.updates_per_iteration):
            drawn = time.perf_counter()
            batch = self.minibatch(state.iteration, update)
            drawing += time.perf_counter() - drawn
            gradient, sums = self._gradient(policy, batch)
            clipped, length = clip_norm(gradient, config.max_grad_norm)
            learned, optimizer = adam(learned, clipped, optimizer, config.lr_at(state.iteration))
            fill(policy, params | learned)
            norms.append(length)
            found.append(sums)
        params = params | learned
        metrics = self._metrics(torch.stack(found).sum(0)) | {"gradient_norm": sum(norms) / len(norms)}
        metrics |= {"step_norm": distance(params, state.meta.model), "learning_rate": config.lr_at(state.iteration)}
        metrics |= {"time/sample_seconds": drawing, "time/update_seconds": time.perf_counter() - start - drawing}
        after = DistillationState(state.iteration + 1, MetaParams(params, {}), optimizer, self.checksum)
        return StepResult(after, metrics)

    def evaluate(
        self, state: DistillationState, num_tasks: int, num_adapt_steps: int | None, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the mean return of the first, second, ... episode of a trial on tasks of a split.

        The extra `source` is the return of the source in its first, second, ... episode on the same tasks, and with
        `keep_every` above 1 `source_kept` its mean return in the first k, next k, ... episodes. For `SolvedTasks` there
        is the regret of the source, too. `total_source` is its total return in as many episodes as a trial has, and
        `total` that of the policy. A run with a file of histories does not know its source, so nothing of it is there.
        """
        curve = trial_curve(self.agent, state.meta.model, num_tasks, num_adapt_steps, split)
        if self.config.histories:
            return curve
        returns, regret = self._source_returns(num_tasks, len(curve.score), split)
        every, episodes = self.config.keep_every, len(curve.score)
        extras = {**curve.extras, "source": returns[:episodes]}
        total = returns[:episodes].sum(0)
        if every > 1:
            extras["source_kept"] = returns.reshape(episodes, every, -1).mean(1)
        if regret is not None:
            extras["source_regret"] = regret[:episodes]
            optimal = self.agent.tasks.optimal_return(curve.tasks)  # type: ignore[attr-defined]
            total = expected_total(regret[:episodes], optimal, known_mean_optimum(curve))
        totals = {"total": curve.score.sum(0), **curve.totals, "total_source": total}
        return curve._replace(extras=extras, totals=totals)

    def minibatch(self, iteration: int, update: int) -> Imitated:
        """Returns the histories of a minibatch: a function of the seed, the iteration and the update."""
        config, draws = self.config, rng.generator(self.config.seed, "minibatches", iteration, update)
        history = draws.integers(len(self.histories.length), size=config.meta_batch_size)
        first = draws.integers(config.keep_every, size=config.meta_batch_size)
        kept = self.histories.keep(history, first, config.keep_every, config.episodes_per_trial)
        trials = as_trials(kept, self.table, next(self.agent.policy.parameters()))
        inputs = trial_inputs(self.agent.policy, trials).map(lambda leaf: leaf.flatten(0, 1))
        return Imitated(inputs, trials.action.flatten(0, 1), trials.valid.flatten(0, 1))

    def _gradient(self, policy: MemoryPolicy, batch: Imitated) -> tuple[Params, Tensor]:
        """Returns the gradient of a minibatch's loss, and its sums of terms, over the parts in their order."""
        rows, steps = batch.valid.shape
        total = int(batch.valid.sum())
        leaves = _learned(dict(policy.named_parameters()))

        def of_part(part: slice) -> tuple[list[Tensor], Tensor]:
            own = batch.rows(part)
            with torch.enable_grad():
                distribution = policy(own.inputs, policy.initial_state(len(own.valid))).distribution
                log_prob, entropy = distribution.log_prob_and_entropy(own.action)
                gradient = torch.autograd.grad(-(log_prob * own.valid).sum() / total, list(leaves.values()))
            return list(gradient), _sums(distribution, own, log_prob.detach(), entropy.detach())

        parts = split_rows(slice(0, rows), min(rows, num_parts(rows, steps, policy.has_cheap_parts)))
        results = parallel_map(of_part, parts, self.agent.num_threads)
        gradients = zip(*(gradient for gradient, _ in results), strict=True)
        gradient = {name: torch.stack(own).sum(0) for name, own in zip(leaves, gradients, strict=True)}
        return gradient, torch.stack([sums for _, sums in results]).sum(0)

    def _metrics(self, sums: Tensor) -> Metrics:
        loss, entropy, equal, steps = sums.tolist()
        metrics = {"imitation_loss": loss / steps, "entropy": entropy / steps, "imitated_steps": steps}
        if self.agent.policy.encoder.is_discrete:
            metrics["imitation_accuracy"] = equal / steps
        return metrics

    def _check_histories(self, trained: int) -> None:
        if trained not in (0, self.checksum):
            given = self.config.histories or "those of the source"
            raise ValueError(
                f"histories={self.config.histories!r}: the checkpoint was trained on histories with checksum "
                f"{trained:012x}, {given} have {self.checksum:012x}; need the same histories, e.g. the file that it "
                "was trained with"
            )

    def _play_source(
        self, num_tasks: int, episodes: int, split: SplitName
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Returns return and, where it is known, regret of the source in its episodes, `[episodes × k, tasks]`."""
        config, distribution = self.config, self.agent.tasks
        tasks, _ = evaluation_tasks(distribution, split, num_tasks)
        draws = rng.generator(config.seed, f"source/{evaluation_stream(split)}")
        played = play(config.source, distribution, tasks, config.eval_trials, episodes * config.keep_every, draws)

        def by_episode(values: NDArray[np.float64]) -> NDArray[np.float64]:
            means: NDArray[np.float64] = values.reshape(num_tasks, config.eval_trials, -1).mean(1).T
            return means

        if not isinstance(distribution, SolvedTasks):
            return by_episode(played.returns()), None
        steps = num_tasks, config.eval_trials, -1
        seen = observations(played, self.table)
        regret = distribution.action_regret(
            tasks, seen.reshape(*steps, seen.shape[-1]), played.action.astype(np.int64).reshape(steps)
        )
        lost = (regret.reshape(played.reward.shape) * played.valid()).sum(-1)
        return by_episode(played.returns()), by_episode(lost)


def observations(histories: Histories, table: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Returns the observations of histories, `[..., obs]`, by the table of their indices if there is one."""
    return histories.observation if table is None else table[histories.observation]


def as_trials(histories: Histories, table: NDArray[np.float32] | None, like: Tensor) -> Trials:
    """Returns histories as trials, `[histories, 1, time, ...]`, valid steps first, with device and dtype of `like`.

    Log-probabilities and values, which histories do not have, are 0.

    Args:
        histories: The histories.
        table: Observations by index, see `state_table`; None if the histories have observations.
        like: A tensor.
    """
    rows, episodes, time = histories.reward.shape
    valid = histories.valid()
    order = np.argsort(~valid.reshape(rows, -1), 1, kind="stable")

    def by_time(values: Any) -> Tensor:
        flat = np.reshape(values, (rows, episodes * time, *np.shape(values)[3:]))[np.arange(rows)[:, None], order]
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(flat, 1, 0))).to(like.device)
        return tensor.unsqueeze(2).movedim(0, 2)

    def numbers(values: Any) -> Tensor:
        return by_time(values).to(like.dtype)

    reward = numbers(histories.reward)
    is_index = np.issubdtype(histories.action.dtype, np.integer)
    ended = np.arange(time) == histories.length[..., None] - 1
    return Trials(
        observation=numbers(observations(histories, table)),
        action=by_time(histories.action).long() if is_index else numbers(histories.action),
        reward=reward,
        log_prob=torch.zeros_like(reward),
        value=torch.zeros_like(reward),
        episode=by_time(np.broadcast_to(np.arange(episodes)[:, None], valid.shape)),
        ended=by_time(ended),
        valid=by_time(valid),
        diverged=torch.zeros(rows, 1, dtype=torch.bool, device=like.device),
        next_observation=reward.new_zeros(rows, 1, episodes * time, 0),
    )


def _learned(params: Params) -> Params:
    """Returns the parameters that the loss depends on: all but those of the value."""
    return {name: value for name, value in params.items() if not name.startswith("value_")}


def _sums(distribution: Any, part: Imitated, log_prob: Tensor, entropy: Tensor) -> Tensor:
    """Returns sums over valid steps: −log π(a), entropy, whether the most probable action is the source's, and 1."""
    is_equal = torch.zeros_like(part.valid)
    if not part.action.is_floating_point():
        is_equal = distribution.mode() == part.action
    leaves = (-log_prob, entropy, is_equal, torch.ones_like(log_prob))
    return torch.stack([(leaf * part.valid).sum(dtype=torch.float64) for leaf in leaves])
