"""MAML-PPO: meta-learn initial policy parameters by clipped steps through the adaptation. ProMP is one of its settings.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            for k = 1..K: D_ik ← episodes of π_θi;  θ_i ← θ_i − α ∇L(θ_i; D_ik)              L: the estimator's loss
            D_i ← episodes of π_θi
        num_epochs times, for each minibatch of tasks:                                      all on the same episodes
            θ_i(θ) ← K steps from θ as it is now, on D_i1..D_iK
            f_i(θ) = −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A),   ρ = π_θi(θ)(a|s) / π_i,old(a|s)   on D_i
                     + 1/K Σ_k c_k mean KL(π_ik,old ‖ π_ik(θ))  on D_ik                        π_ik: before inner step k
            θ ← Adam(θ, ∇ mean_i f_i),  the gradient clipped to max_grad_norm
        with adaptive_kl, for each k: c_k ← 2 c_k if its KL > 1.5 target_kl,  c_k / 2 if its KL < target_kl / 1.5

Finn, Abbeel & Levine 2017, arXiv:1703.03400, with PPO outside (Schulman et al. 2017, arXiv:1707.06347, eq. 7 and
section 4). `estimator` chooses L, and with it the meta-gradient (research/estimators.py). ProMP (Rothfuss et al. 2019,
arXiv:1810.06784, algorithm 1, eq. 13 and 14) is `estimator="lvc"` with the clip and a fixed small KL penalty. E-MAML
(Stadie et al. 2018, arXiv:1803.01118) adds `sampling_coef` Σ_k Σ_{D_ik} π_ik(θ)/π_ik,old · (minus the return after
adaptation), which credits the episodes before adaptation with what became of them.

Differs from the papers: the minibatches are of whole tasks, the same in every epoch. The KL divergences of the inner
steps are exact for the sampled states and each has a coefficient of its own, as in the ProMP authors' code. E-MAML's
return has the mean of the other tasks as its baseline, and the units of the clipped loss: per step, and divided by the
task's deviation of advantages where those are normalised.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from research.algorithms.gradient.adoption import GROWING, MUTABLE, adopt_meta
from research.algorithms.gradient.agent import Agent, AgentConfig, PolicySamples, respond
from research.algorithms.gradient.compiled_objective import Objective, network_for
from research.algorithms.gradient.evaluation import AgentAlgorithm
from research.algorithms.outer import adapted_coef, clip_norm, learned, replaced
from research.criteria import Kind, closed_form_of
from research.estimators import ESTIMATORS
from research.inner_loops.descent import Stage
from research.losses import (
    PolicyBatch,
    clip_fraction,
    clipped_surrogate,
    kl_criterion,
    mean_entropy,
    mean_kl,
    ratio_rows,
)
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import distance
from research.parallel import parallel_map
from research.per_task import per_task, take
from research.types import Forward, MetaParams, Metrics, Params, StepResult
from research.validation import at_least, in_open_unit_interval, positive


@dataclass(frozen=True)
class MAMLPPOConfig(AgentConfig):
    """Settings of MAML-PPO, in addition to those of the agent.

    Attributes:
        estimator: Estimator of the meta-gradient, see `research.estimators`: `"maml"`, `"e_maml"`, `"dice"` or `"lvc"`.
        sampling_coef: Weight of E-MAML's sampling term; with 1 the gradient is unbiased.
        meta_lr: Step size of Adam.
        num_epochs: Passes over the tasks of an iteration.
        num_minibatches: Minibatches in a pass; each is one step of Adam.
        clip_eps: ε: a probability ratio beyond 1 ± ε does not lower the loss further.
        max_grad_norm: Longer meta-gradients are scaled down to this norm; 0 for no limit.
        kl_coef: Weight of the KL divergence of the policies before each inner step; 0 for none.
        adaptive_kl: Whether the weight is doubled and halved to keep that divergence near `target_kl`.
        target_kl: Target of the divergence in nats; read with `adaptive_kl` only.
    """

    mutable_settings = MUTABLE | {"sampling_coef", "meta_lr", "num_epochs", "num_minibatches", "clip_eps",
                                  "max_grad_norm", "kl_coef", "target_kl"}  # fmt: skip
    growing_settings = deepening_settings = GROWING

    estimator: Literal["maml", "e_maml", "dice", "lvc"] = "maml"
    sampling_coef: float = 1.0
    meta_lr: float = 1e-3
    num_epochs: int = 5
    num_minibatches: int = 1
    clip_eps: float = 0.3
    max_grad_norm: float = 0.0
    kl_coef: float = 5e-4
    adaptive_kl: bool = False
    target_kl: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "meta_lr", "target_kl")
        at_least(self, 1, "num_epochs", "num_minibatches")
        at_least(self, 0, "sampling_coef", "max_grad_norm", "kl_coef")
        in_open_unit_interval(self, "clip_eps")
        if self.num_minibatches > self.meta_batch_size:
            raise ValueError(
                f"num_minibatches={self.num_minibatches}: need at most meta_batch_size={self.meta_batch_size}, "
                "a minibatch is made of whole tasks"
            )
        if self.adaptive_kl and self.kl_coef == 0:
            raise ValueError("kl_coef=0: adaptive_kl=True doubles and halves it, need a value above 0 to start from")
        if self.estimator == "dice" and self.first_order:
            raise ValueError(
                "estimator='dice': first_order=True leaves out the second derivatives, which are all that 'dice' adds; "
                "need 'maml', 'e_maml' or 'lvc', or first_order=False"
            )
        if self.estimator == "e_maml" and self.meta_batch_size == 1:
            raise ValueError("meta_batch_size=1: estimator='e_maml' compares tasks with one another, need at least 2")


class MAMLPPOState(NamedTuple):
    """The state of a training run.

    Attributes:
        iteration: Finished iterations.
        meta: The meta-parameters.
        optimizer: Adam's moments of the meta-learned tensors.
        kl_coef: `[inner steps]`, float64: the weight of each inner step's KL divergence.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    kl_coef: Tensor


class MAMLPPO(AgentAlgorithm[MAMLPPOConfig]):
    """MAML-PPO, see the module. Its `step` samples, then makes epochs of clipped steps through the adaptation."""

    Config: ClassVar[type] = MAMLPPOConfig

    def init(self) -> MAMLPPOState:
        """Returns the state before the first iteration."""
        meta = self.agent.init()
        kl_coef = torch.full((self.config.num_inner_steps,), self.config.kl_coef, dtype=torch.float64)
        return MAMLPPOState(0, meta, adam_start(learned(meta, self.config)), kl_coef)

    def step(self, state: MAMLPPOState) -> StepResult:
        """Returns the state after one iteration, and its metrics."""
        config = self.config
        sampled = self.agent.sample(state.meta, state.iteration)
        start = time.perf_counter()
        objective = ClippedObjective(self.agent, config, state.meta, sampled)
        before = params = learned(state.meta, config)
        optimizer, norms = state.optimizer, []
        for minibatch in objective.minibatches * config.num_epochs:
            gradient = objective.gradient(params, minibatch, state.kl_coef)
            gradient, length = clip_norm(gradient, config.max_grad_norm)
            params, optimizer = adam(params, gradient, optimizer, config.meta_lr)
            norms.append(length)
        measured, inner_kl = objective.measure(params)
        kl_coef = adapted_coef(state.kl_coef, inner_kl, config.target_kl) if config.adaptive_kl else state.kl_coef
        metrics = sampled.metrics | measured
        metrics["gradient_norm"] = sum(norms) / len(norms)
        metrics["step_norm"] = distance(params, before)
        metrics["kl_coef"] = float(state.kl_coef.mean())
        metrics["time/update_seconds"] = time.perf_counter() - start
        after = MAMLPPOState(state.iteration + 1, replaced(state.meta, params), optimizer, kl_coef)
        return StepResult(after, metrics)

    def adopt(self, state: MAMLPPOState, before: MAMLPPOConfig, own: MAMLPPOState) -> MAMLPPOState:
        """Returns a state that goes on with what was learned in a state of other settings.

        With `adaptive_kl` another `kl_coef` scales the coefficients that were adapted.
        """
        meta, optimizer = adopt_meta(self.agent, state.meta, state.optimizer, before, own.iteration)
        kl_coef, start = state.kl_coef, self.config.kl_coef
        if start != before.kl_coef:
            kl_coef = kl_coef * (start / before.kl_coef) if self.config.adaptive_kl else torch.full_like(kl_coef, start)
        return MAMLPPOState(own.iteration, meta, optimizer, kl_coef)


class _Chunk(NamedTuple):
    """The samples of some tasks. Every tensor is `[tasks, ...]`.

    Attributes:
        batches: The batch of each inner step.
        query: The batch after the last inner step.
        outcome: Minus the return after adaptation, see `Estimator.sampling_loss`.
        old: The action distributions that sampled each of the batches, and the query.
        compiled: The clipped loss and the sampling terms, if the policy is compiled; None: autograd computes all.
    """

    batches: list[PolicyBatch]
    query: PolicyBatch
    outcome: Tensor
    old: list[Any]
    compiled: Objective | None = None


class ClippedObjective:
    """The clipped objective of an iteration, as a function of the meta-learned tensors.

    Each chunk of tasks is treated on a thread of its own; sums go over all ranks, in the order of tasks.

    Attributes:
        minibatches: The chunks of each minibatch; a rank has those of its share of the tasks, perhaps none.
    """

    def __init__(self, agent: Agent, config: MAMLPPOConfig, meta: MetaParams, sampled: PolicySamples):
        self.agent, self.config, self.meta = agent, config, meta
        self.estimator = ESTIMATORS[config.estimator]
        outcome = _outcome(agent, sampled) if self.estimator.sampling_loss else torch.zeros(len(sampled.query.valid))
        batches = [*sampled.batches, sampled.query]
        parts = config.num_minibatches
        bounds = [config.meta_batch_size * part // parts for part in range(parts + 1)]
        own = [agent.share.within(*pair)[0] for pair in itertools.pairwise(bounds)]
        self.minibatches = [self._chunks(take(batches, tasks), outcome[tasks]) for tasks in own]

    def gradient(self, params: Params, minibatch: list[_Chunk], kl_coef: Tensor) -> Params:
        """Returns ∇ mean_i f_i over the tasks of a minibatch, at `params` (named as by `learned`)."""
        weights = [coef / len(kl_coef) for coef in kl_coef.tolist()]
        gradients = self._map(functools.partial(self._gradient, params, weights), minibatch)
        parts = [(gradient, len(chunk.outcome)) for gradient, chunk in zip(gradients, minibatch, strict=True)]
        nothing = [({name: torch.zeros_like(value) for name, value in params.items()}, 0)]
        total, tasks = self.agent.ranks.sum(parts or nothing)
        return {name: value / tasks for name, value in total.items()}

    @torch.no_grad()
    def measure(self, params: Params) -> tuple[Metrics, Tensor]:
        """Returns metrics of the episodes at new parameters, and the mean KL of each inner step, `[inner steps]`."""
        chunks = [chunk for minibatch in self.minibatches for chunk in minibatch]
        rows = torch.cat(self._map(functools.partial(self._measure, replaced(self.meta, params)), chunks))
        means = self.agent.ranks.mean(rows, self.agent.share.total).tolist()
        names = ("loss_before", "loss_after", "kl", "clip_fraction", "entropy_post")
        inner_kl = means[len(names) :]
        metrics = dict(zip(names, means, strict=False)) | {"kl_inner": sum(inner_kl) / len(inner_kl)}
        return metrics, torch.tensor(inner_kl, dtype=torch.float64)

    @torch.no_grad()
    def _chunks(self, batches: list[PolicyBatch], outcome: Tensor) -> list[_Chunk]:
        if len(outcome) == 0:
            return []

        def chunk(_policy: nn.Module, own: list[PolicyBatch], outcome: Tensor) -> _Chunk:
            bare = _Chunk(own[:-1], own[-1], outcome, [], self._compiled(own, outcome))
            return bare._replace(old=self._distributions(self.meta, bare))

        return self.agent.map_chunks(chunk, batches, outcome, keep_episodes=self.estimator.reads_episodes)

    def _compiled(self, batches: list[PolicyBatch], outcome: Tensor) -> Objective | None:
        """Returns the objective of a chunk without the KL penalty, or None if a part of it is not compiled."""
        network, form = network_for(self.agent, self.meta), closed_form_of(self.estimator.inner_loss)
        if network is None or form is None:
            return None
        *inner, query = batches
        inputs, ratios = ratio_rows(query)
        clipped = ratios._replace(kind=Kind.CLIPPED, clip_eps=self.config.clip_eps)
        objective = Objective(self.config, network, [Stage(*form(batch)) for batch in inner], inputs, clipped)
        if self.estimator.sampling_loss is None:
            return objective
        weight = -self.config.sampling_coef * outcome.unsqueeze(1)
        return objective.plus(
            [ratio_rows(batch).criterion._replace(weight=weight * batch.valid.flatten(1)) for batch in inner]
        )

    def _distributions(self, meta: MetaParams, chunk: _Chunk) -> list[Any]:
        """Returns the action distributions of the policy before each inner step on its batch, and after on the query.

        Every batch is passed through the policy once: its distributions serve the inner loss, too.
        """
        if chunk.compiled is not None:
            return chunk.compiled.distributions(meta, [batch.valid.shape for batch in (*chunk.batches, chunk.query)])
        policy = self.agent.policy_of_thread()
        stages = self.agent.inner_loop.stages(policy, *meta, self._inner_loss, chunk.batches)
        return [*stages.outputs, respond(policy, stages.params[-1], chunk.query.observation)]

    def _inner_loss(self, policy: Forward, batch: PolicyBatch) -> tuple[Tensor, Any]:
        """Returns the inner loss, and the distributions that it was computed from."""
        distribution = policy(batch.observation)
        return self.estimator.inner_loss(lambda _observation: distribution, batch), distribution

    def _gradient(self, params: Params, weights: list[float], chunk: _Chunk) -> Params:
        """Returns ∇ Σ_i f_i over the tasks of a chunk."""
        if chunk.compiled is not None:
            trios = zip(weights, chunk.old, chunk.batches, strict=False)
            penalties = [kl_criterion(old, batch, weight) for weight, old, batch in trios]
            return chunk.compiled.plus(penalties).gradient(replaced(self.meta, params))
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}  # a graph for each thread
        with torch.enable_grad():
            loss = self._loss(replaced(self.meta, leaves), weights, chunk)
        gradient = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, gradient, strict=True))

    def _loss(self, meta: MetaParams, weights: list[float], chunk: _Chunk) -> Tensor:
        """Returns Σ_i f_i over the tasks of a chunk."""
        *inner, query = self._distributions(meta, chunk)
        clipped = functools.partial(clipped_surrogate, clip_eps=self.config.clip_eps)
        loss = _per_task(clipped, query, chunk.query).sum()
        for weight, old, new, batch in zip(weights, chunk.old, inner, chunk.batches, strict=False):
            loss = loss + weight * _per_task(mean_kl, old, new, batch.valid).sum()
        sampling_loss = self.estimator.sampling_loss
        if sampling_loss is None:
            return loss

        def credit(distribution: Any, batch: PolicyBatch, outcome: Tensor) -> Tensor:
            return sampling_loss(lambda _observation: distribution, batch, outcome)

        for new, batch in zip(inner, chunk.batches, strict=True):
            loss = loss + self.config.sampling_coef * _per_task(credit, new, batch, chunk.outcome).sum()
        return loss

    def _measure(self, meta: MetaParams, chunk: _Chunk) -> Tensor:
        """Returns the quantities that `measure` averages over tasks: `[tasks, quantities]`."""
        *inner, new = self._distributions(meta, chunk)
        clip_eps = self.config.clip_eps
        loss, fraction = (functools.partial(f, clip_eps=clip_eps) for f in (clipped_surrogate, clip_fraction))
        columns = [
            _per_task(loss, chunk.old[-1], chunk.query),
            _per_task(loss, new, chunk.query),
            _per_task(mean_kl, chunk.old[-1], new, chunk.query.valid),
            _per_task(fraction, new, chunk.query),
            _per_task(mean_entropy, new, chunk.query.valid),
        ]
        pairs = zip(chunk.old, inner, chunk.batches, strict=False)
        columns += [_per_task(mean_kl, old, ours, batch.valid) for old, ours, batch in pairs]
        return torch.stack(columns, 1)

    def _map(self, function: Callable[[_Chunk], Any], chunks: list[_Chunk]) -> list[Any]:
        return parallel_map(function, chunks, self.agent.num_threads)


_per_task: Callable[..., Tensor] = functools.partial(per_task, vmapped=True)


def _outcome(agent: Agent, sampled: PolicySamples) -> Tensor:
    """Returns minus the return after adaptation with the mean of the other tasks as baseline, `[tasks]`.

    The unit is that of the clipped loss, a mean over steps: the return is divided by the number of steps of an episode,
    and by the standard deviation by which the task's advantages were divided.
    """
    episodes = sampled.query_episodes
    returns = episodes.returns().mean(1)
    others = (agent.ranks.sum([returns.sum()]) - returns) / (agent.share.total - 1)
    steps = episodes.valid.sum(-1).to(returns.dtype).mean(1)
    outcome = torch.where(steps > 0, (others - returns) / steps, 0)  # without a step there is nothing to learn from
    if not agent.config.normalize_advantages:
        return outcome
    raw = agent.advantages(episodes)
    deviation = torch.stack(
        [values[valid].std(correction=0) for values, valid in zip(raw, episodes.valid, strict=True)]
    )
    return outcome / (deviation.nan_to_num() + 1e-8)
