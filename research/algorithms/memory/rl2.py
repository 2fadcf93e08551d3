"""RL²: meta-learn a recurrent policy whose state learns the task, by PPO or TRPO on whole trials.

    repeat
        sample tasks, and trials of n consecutive episodes of each: the state of π_θ is reset at the start of a trial
            and kept through the ends of its episodes; its input is s_t, a_{t−1}, r_{t−1} and whether an episode ended
        m_t, σ_t ← running moments of the trials' returns from step t on;  V_t = m_t + σ_t v_θ
        A ← GAE with V over the whole trial: the end of an episode bootstraps, the end of the trial does not
        num_epochs times, for each minibatch of whole trials:                                             (update="ppo")
            f = −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − c_H mean H(π_θ) + c_v ½ mean (v_θ − (A + V − m)/σ)²
            θ ← Adam(θ, ∇f),  the gradient clipped to max_grad_norm, back through the whole trial or chunk_length steps
        or the trust-region step on −mean ρ A with mean KL ≤ max_kl, and such epochs for v alone         (update="trpo")
        Adam's step size falls linearly to final_lr_fraction of it, c_H to 0 at the fraction entropy_until of training

Duan et al. 2016, arXiv:1611.02779 (RL²), and Wang et al. 2016, arXiv:1611.05763, with the PPO of Schulman et al. 2017,
arXiv:1707.06347. With `chunk_length` the state passes from chunk to chunk as a constant. It is computed with the
current parameters in each step of Adam, never stored.

Differs from the papers: PPO is the default; Duan et al. use TRPO with a GRU for the baseline too, Wang et al. advantage
actor-critic with an LSTM. The value is standardised by the moments of the return from each step on, which removes most
of the variance that no policy can change. The entropy bonus vanishes during training. A minibatch has whole trials.
"""

from __future__ import annotations

import time
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import trial_curve
from research.algorithms.memory.losses import rl2_gradient
from research.algorithms.memory.recurrent import RecurrentAgent, Steps, ValueScale, minibatches
from research.algorithms.memory.trpo import make_objective
from research.algorithms.outer import clip_norm, initial_params
from research.algorithms.trust_region import trust_region_update
from research.evaluation import AdaptationCurve
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import distance
from research.parallel import parallel_map
from research.sampling.trials import bind
from research.tasks.splits import SplitName
from research.types import MetaParams, Metrics, Params, StepResult


class RL2State(NamedTuple):
    """The state of a training run.

    Attributes:
        iteration: Finished iterations.
        meta: The parameters of the network; `update` is empty.
        optimizer: Adam's moments of the parameters that Adam changes.
        scale: Moments of the return from each step of a trial on.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    scale: ValueScale


class RL2:
    """RL², see the module."""

    Config: ClassVar[type] = RL2Config

    def __init__(self, config: RL2Config):
        self.config = config
        self.agent = RecurrentAgent(config)

    def init(self) -> RL2State:
        """Returns the state before the first iteration."""
        params = initial_params(self.agent.policy)
        optimizer, scale = adam_start(self._by_adam(params)), ValueScale.start(self.agent.longest)
        return RL2State(0, MetaParams(params, {}), optimizer, scale)

    def step(self, state: RL2State) -> StepResult:
        """Returns the state after trials of new tasks and an update on them, and metrics."""
        config, iteration = self.config, state.iteration
        steps, scale, metrics = self.agent.sample(state.meta.model, state.scale, iteration)
        start = time.perf_counter()
        params = state.meta.model
        if config.update == "trpo":
            objective = make_objective(self.agent, params, steps)
            moved, measured = trust_region_update(objective, config)
            params = params | moved
            metrics |= measured | {"entropy": objective.entropy()}
        params, optimizer, measured = self._epochs(params, state.optimizer, steps, iteration)
        metrics |= measured
        metrics["step_norm"] = distance(params, state.meta.model)
        metrics["learning_rate"] = config.lr_at(iteration)
        metrics["entropy_coef"] = config.entropy_coef_at(iteration)
        metrics["time/update_seconds"] = time.perf_counter() - start
        return StepResult(RL2State(iteration + 1, MetaParams(params, {}), optimizer, scale), metrics)

    def evaluate(
        self, state: RL2State, num_tasks: int, num_adapt_steps: int | None, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the mean return of the first, second, ... episode of a trial on tasks of a split."""
        return trial_curve(self.agent, state.meta.model, num_tasks, num_adapt_steps, split)

    def _epochs(
        self, params: Params, optimizer: AdamState, steps: Steps, iteration: int
    ) -> tuple[Params, AdamState, Metrics]:
        """Returns the result of epochs of Adam; metrics are means over the last epoch, gradient norms over all."""
        config = self.config
        batches = minibatches(steps, config.num_minibatches, self.agent.policy.is_compiled)
        norms: list[float] = []
        terms: list[Tensor] = []
        for minibatch in batches * config.num_epochs:
            gradient, own = self._gradient(params, minibatch, config.entropy_coef_at(iteration))
            gradient, length = clip_norm(gradient, config.max_grad_norm)
            moved, optimizer = adam(self._by_adam(params), gradient, optimizer, config.lr_at(iteration))
            params = params | moved
            norms.append(length)
            terms.append(own)
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
        metrics = dict(zip(names, torch.stack(terms[-len(batches) :]).mean(0).tolist(), strict=True))
        if config.update == "trpo":
            return params, optimizer, {"value_loss": metrics["value_loss"]}
        return params, optimizer, metrics | {"gradient_norm": sum(norms) / len(norms)}

    def _gradient(self, params: Params, minibatch: list[Steps], entropy_coef: float) -> tuple[Params, Tensor]:
        """Returns the gradient of a minibatch's loss, and its terms: sums over the parts, in their order."""
        total = max(1, sum(int(part.valid.sum()) for part in minibatch))  # every trial may diverge in its first step
        learned, policy = tuple(self._by_adam(params)), bind(self.agent.policy, params, requires_grad=True)

        def of_part(part: Steps) -> tuple[Params, Tensor]:
            return rl2_gradient(policy, learned, part, self.config, entropy_coef, total)

        results = parallel_map(of_part, minibatch, self.agent.num_threads)
        gradient = {name: torch.stack([gradient[name] for gradient, _ in results]).sum(0) for name in learned}
        return gradient, torch.stack([terms for _, terms in results]).sum(0)

    def _by_adam(self, params: Params) -> Params:
        """Returns the parameters that Adam changes: all with PPO, those of the value with TRPO."""
        return params if self.config.update == "ppo" else {k: v for k, v in params.items() if k.startswith("value_")}
