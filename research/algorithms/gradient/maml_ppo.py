"""MAML-PPO: meta-learn initial policy parameters by clipped steps through the adaptation. ProMP is one of its settings.

    repeat
        sample tasks T_1..T_B
        for each task: θ_i ← θ
            for k = 1..K: D_ik ← episodes of π_θi;  θ_i ← θ_i − α ∇L(θ_i; D_ik)              L: the estimator's loss
            D_i ← episodes of π_θi
        num_epochs times, for each minibatch of tasks:                          the episodes stay as they were sampled
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
from torch.func import functional_call

from research.algorithms.gradient.agent import Agent, AgentConfig, Sampled, respond
from research.algorithms.gradient.evaluation import adaptation_curve
from research.algorithms.outer import clip_norm, learned, replaced
from research.distributed import ALONE, Ranks
from research.estimators import ESTIMATORS
from research.evaluation import AdaptationCurve
from research.inner_loops.supported import vmappable
from research.losses import PolicyBatch, clip_fraction, clipped_surrogate, mean_entropy, mean_kl
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import norm
from research.parallel import parallel_map
from research.per_task import expand, per_task, take
from research.types import MetaParams, Metrics, Params, StepResult
from research.validation import at_least, in_open_unit_interval, one_of, positive


@dataclass(frozen=True)
class MAMLPPOConfig(AgentConfig):
    """Settings of MAML-PPO, beside those of the agent.

    Attributes:
        estimator: Of the meta-gradient, see `research.estimators`: `"maml"`, `"e_maml"`, `"dice"` or `"lvc"`.
        sampling_coef: Weight of E-MAML's sampling term; 1 is the unbiased gradient.
        meta_lr: Step size of Adam.
        num_epochs: Passes over the tasks of an iteration.
        num_minibatches: Adam's steps in a pass, each on its share of the tasks.
        clip_eps: ε: beyond a probability ratio of 1 ± ε there is nothing to gain.
        max_grad_norm: Longer meta-gradients are scaled down to this norm; 0 for no limit.
        kl_coef: Weight of the KL divergence of the policies that the inner steps start from; 0 for none.
        adaptive_kl: Whether the weight is doubled and halved to keep that divergence near `target_kl`.
        target_kl: In nats; read with `adaptive_kl` only.
    """

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
        one_of(self, "estimator", tuple(ESTIMATORS))
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


class State(NamedTuple):
    """Everything that training carries from one iteration to the next.

    Attributes:
        iteration: Finished iterations.
        meta: What is meta-learned, and the constants of the inner update rule.
        optimizer: Adam's moments.
        kl_coef: `[inner steps]`, float64, the weight of each inner step's KL divergence.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    kl_coef: Tensor


class MAMLPPO:
    """The algorithm. See the module."""

    Config: ClassVar[type] = MAMLPPOConfig

    def __init__(self, config: MAMLPPOConfig, ranks: Ranks = ALONE):
        self.config = config
        self.agent = Agent(config, ranks)

    def with_ranks(self, ranks: Ranks) -> MAMLPPO:
        """The same algorithm as one of several processes that share its tasks."""
        return MAMLPPO(self.config, ranks)

    def init(self) -> State:
        """The state before the first iteration."""
        meta = self.agent.init()
        kl_coef = torch.full((self.config.num_inner_steps,), self.config.kl_coef, dtype=torch.float64)
        return State(0, meta, adam_start(learned(meta, self.config)), kl_coef)

    def step(self, state: State) -> StepResult:
        """One meta-iteration: sample, then epochs of clipped steps through the adaptation."""
        config = self.config
        sampled = self.agent.sample(state.meta, state.iteration)
        start = time.perf_counter()
        objective = Objective(self.agent, config, state.meta, sampled)
        before = params = learned(state.meta, config)
        optimizer, norms = state.optimizer, []
        for _ in range(config.num_epochs):
            for minibatch in objective.minibatches:
                gradient = objective.gradient(params, minibatch, state.kl_coef)
                gradient, length = clip_norm(gradient, config.max_grad_norm)
                params, optimizer = adam(params, gradient, optimizer, config.meta_lr)
                norms.append(length)
        measured, inner_kl = objective.measure(params)
        kl_coef = adapted_coef(state.kl_coef, inner_kl, config.target_kl) if config.adaptive_kl else state.kl_coef
        metrics = sampled.metrics | measured
        metrics["gradient_norm"] = sum(norms) / len(norms)
        metrics["step_norm"] = norm({name: params[name] - value for name, value in before.items()})
        metrics["kl_coef"] = float(state.kl_coef.mean())
        metrics["time/update_seconds"] = time.perf_counter() - start
        return StepResult(State(state.iteration + 1, replaced(state.meta, params), optimizer, kl_coef), metrics)

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        """Returns on held-out tasks after 0, 1, ... gradient steps."""
        return adaptation_curve(self.agent, state.meta, num_tasks, num_adapt_steps)


def adapted_coef(coef: Tensor, kl: Tensor, target: float) -> Tensor:
    """Twice the coefficient where KL > 1.5 · target, half of it where KL < target / 1.5, within [1e-8, 1e4].

    Schulman et al. 2017, arXiv:1707.06347, section 4. The bounds keep it from vanishing while the policy hardly moves.
    """
    factor = torch.where(kl > 1.5 * target, 2.0, torch.where(kl < target / 1.5, 0.5, 1.0))
    return (coef * factor).clamp(1e-8, 1e4)


class _Chunk(NamedTuple):
    """Some tasks and what was sampled for them. Every leaf leads with `[tasks]`.

    Attributes:
        batches: Of each inner step.
        query: The episodes after the last one.
        outcome: Minus the return after adaptation, as `Estimator.sampling_loss` wants it.
        old: The action distributions that sampled each of the batches and the query.
    """

    batches: list[PolicyBatch]
    query: PolicyBatch
    outcome: Tensor
    old: list[Any]


class Objective:
    """The clipped objective of an iteration, as a function of what is meta-learned.

    Tasks are independent given θ: each chunk of them is treated on a thread of its own, and sums go in task order. A
    rank has the chunks of its share of each minibatch, and sums go over all ranks.
    """

    def __init__(self, agent: Agent, config: MAMLPPOConfig, meta: MetaParams, sampled: Sampled):
        self.agent = agent
        self.config = config
        self.meta = meta
        self.estimator = ESTIMATORS[config.estimator]
        credit = _outcome(agent, sampled) if self.estimator.sampling_loss else torch.zeros(len(sampled.query.valid))
        everything = [*sampled.batches, sampled.query]
        parts = config.num_minibatches
        bounds = [config.meta_batch_size * part // parts for part in range(parts + 1)]
        shares = [agent.share.within(*pair)[0] for pair in itertools.pairwise(bounds)]
        self.minibatches = [self._chunks(take(everything, share), credit[share]) for share in shares]

    def gradient(self, params: Params, minibatch: list[_Chunk], kl_coef: Tensor) -> Params:
        """∇ mean_i f_i over the tasks of a minibatch, at `params` (named as by `learned`)."""
        weights = [coef / len(kl_coef) for coef in kl_coef.tolist()]
        gradients = self._map(functools.partial(self._gradient, params, weights), minibatch)
        parts = [(gradient, len(chunk.outcome)) for gradient, chunk in zip(gradients, minibatch, strict=True)]
        nothing = [({name: torch.zeros_like(value) for name, value in params.items()}, 0)]
        total, tasks = self.agent.ranks.sum(parts or nothing)
        return {name: value / tasks for name, value in total.items()}

    @torch.no_grad()
    def measure(self, params: Params) -> tuple[Metrics, Tensor]:
        """How the episodes look to other parameters, and the mean KL of each inner step's policy, `[inner steps]`."""
        chunks = [chunk for minibatch in self.minibatches for chunk in minibatch]
        rows = torch.cat(self._map(functools.partial(self._measure, replaced(self.meta, params)), chunks))
        means = self.agent.ranks.mean(rows, self.agent.share.total)
        loss_before, loss_after, kl, clipped, entropy, *inner_kl = means.tolist()
        metrics = {
            "loss_before": loss_before,
            "loss_after": loss_after,
            "kl": kl,
            "clip_fraction": clipped,
            "entropy_post": entropy,
            "kl_inner": sum(inner_kl) / len(inner_kl),
        }
        return metrics, torch.tensor(inner_kl, dtype=torch.float64)

    @torch.no_grad()
    def _chunks(self, batches: list[PolicyBatch], outcome: Tensor) -> list[_Chunk]:
        if len(outcome) == 0:  # a rank may have no task of a minibatch
            return []
        parts = self.agent.cut(batches, keep_episodes=self.estimator.reads_episodes)
        outcomes = outcome.split([len(part[0].valid) for part in parts])

        def chunk(part: tuple[list[PolicyBatch], Tensor]) -> _Chunk:
            (*inner, query), credit = part
            bare = _Chunk(inner, query, credit, [])
            return bare._replace(old=self._respond(self.agent.replica(), self._stages(self.meta, bare), bare))

        return self._map(chunk, list(zip(parts, outcomes, strict=True)))

    def _stages(self, meta: MetaParams, chunk: _Chunk) -> list[Params]:
        """The parameters `[tasks, ...]` before, between and after the inner steps.

        An inner loop returns the last ones only, so that each stage is made from the start: K steps cost K (K + 1) / 2.
        """
        adapt = functools.partial(self.agent.inner_loop.adapt, self.agent.replica(), *meta, self.estimator.inner_loss)
        later = [adapt(chunk.batches[:steps]) for steps in range(1, len(chunk.batches) + 1)]
        return [expand(meta.model, len(chunk.outcome)), *later]

    def _respond(self, policy: nn.Module, stages: list[Params], chunk: _Chunk) -> list[Any]:
        """The action distributions of each stage on the episodes that were sampled with it."""
        batches = [*chunk.batches, chunk.query]
        return [respond(policy, stage, batch.observation) for stage, batch in zip(stages, batches, strict=True)]

    def _gradient(self, params: Params, weights: list[float], chunk: _Chunk) -> Params:
        """∇ Σ_i f_i over the tasks of a chunk."""
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}  # a graph for each thread
        with torch.enable_grad():
            loss = self._loss(replaced(self.meta, leaves), weights, chunk)
        gradient = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, gradient, strict=True))

    def _loss(self, meta: MetaParams, weights: list[float], chunk: _Chunk) -> Tensor:
        """Σ_i f_i over the tasks of a chunk."""
        policy = self.agent.replica()
        stages = self._stages(meta, chunk)
        *inner, query = self._respond(policy, stages, chunk)
        clipped = functools.partial(clipped_surrogate, clip_eps=self.config.clip_eps)
        loss = _per_task(clipped, query, chunk.query).sum()
        for weight, old, new, batch in zip(weights, chunk.old, inner, chunk.batches, strict=False):
            loss = loss + weight * _per_task(mean_kl, old, new, batch.valid).sum()
        if self.estimator.sampling_loss is not None:
            credit = functools.partial(_credit, self.estimator.sampling_loss, policy)
            for stage, batch in zip(stages, chunk.batches, strict=False):
                terms = per_task(credit, stage, batch, chunk.outcome, vmapped=vmappable(policy))
                loss = loss + self.config.sampling_coef * terms.sum()
        return loss

    def _measure(self, meta: MetaParams, chunk: _Chunk) -> Tensor:
        """What `measure` averages over tasks: `[tasks, quantities]`."""
        clip_eps = self.config.clip_eps
        *inner, new = self._respond(self.agent.replica(), self._stages(meta, chunk), chunk)
        loss = functools.partial(clipped_surrogate, clip_eps=clip_eps)
        columns = [
            _per_task(loss, chunk.old[-1], chunk.query),
            _per_task(loss, new, chunk.query),
            _per_task(mean_kl, chunk.old[-1], new, chunk.query.valid),
            _per_task(functools.partial(clip_fraction, clip_eps=clip_eps), new, chunk.query),
            _per_task(mean_entropy, new, chunk.query.valid),
        ]
        pairs = zip(chunk.old, inner, chunk.batches, strict=False)
        columns += [_per_task(mean_kl, old, ours, batch.valid) for old, ours, batch in pairs]
        return torch.stack(columns, 1)

    def _map(self, function: Callable[[Any], Any], chunks: list[Any]) -> list[Any]:
        return parallel_map(function, chunks, self.agent.num_threads)


def _per_task(function: Callable[..., Tensor], *trees: Any) -> Tensor:
    return per_task(function, *trees, vmapped=True)


def _credit(
    loss: Callable[..., Tensor], policy: nn.Module, params: Params, batch: PolicyBatch, outcome: Tensor
) -> Tensor:
    return loss(functools.partial(functional_call, policy, params), batch, outcome)


def _outcome(agent: Agent, sampled: Sampled) -> Tensor:
    """Minus the return after adaptation, less the mean of the other tasks, in the units of the clipped loss: `[tasks]`.

    That loss is a mean over steps, so the return of an episode is divided by its steps, and by the deviation that the
    task's advantages were divided by.
    """
    episodes = sampled.query_episodes
    returns = episodes.returns().mean(1)
    others = (agent.ranks.sum([returns.sum()]) - returns) / (agent.share.total - 1)
    steps = episodes.valid.sum(-1).to(returns.dtype).mean(1)
    outcome = (others - returns) / steps
    if not agent.config.normalize_advantages:
        return outcome
    raw = agent.advantages(episodes)
    deviation = torch.stack(
        [values[valid].std(correction=0) for values, valid in zip(raw, episodes.valid, strict=True)]
    )
    return outcome / (deviation + 1e-8)
