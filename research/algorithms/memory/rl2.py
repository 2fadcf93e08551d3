"""RL²: meta-learn a recurrent policy whose state learns the task, by PPO or TRPO on whole trials.

    repeat
        sample tasks, and in each trials of n consecutive episodes: the state of π_θ starts anew with a trial and is
            carried through the ends of its episodes; its input is s_t, a_{t−1}, r_{t−1} and whether an episode ended
        m_t, σ_t ← running moments of the trials' returns from step t on;  V_t = m_t + σ_t v_θ
        A ← GAE with V over the trial as one stretch: the end of an episode bootstraps, the end of the trial does not
        num_epochs times, for each minibatch of whole trials:                                             (update="ppo")
            f = −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − c_H mean H(π_θ) + c_v ½ mean (v_θ − (A + V − m)/σ)²
            θ ← Adam(θ, ∇f),  the gradient clipped to max_grad_norm, back through the whole trial or chunk_length steps
        or the trust-region step on −mean ρ A with mean KL ≤ max_kl, and such epochs for v alone         (update="trpo")
        Adam's step size falls linearly to final_lr_share, c_H to 0 after the share entropy_until of the training

Duan et al. 2016, arXiv:1611.02779 (RL²), and Wang et al. 2016, arXiv:1611.05763, with the PPO of Schulman et al. 2017,
arXiv:1707.06347. With `chunk_length` the state is carried from chunk to chunk as a constant, computed by the parameters
of the very step: no state is stored that could go stale.

Differs from the papers: PPO is the default; Duan et al. use TRPO with a GRU for the baseline too, Wang et al. advantage
actor-critic with an LSTM. The value is standardised by the moments of each time of the trial, which takes most of the
return's variance that no policy can change, and the entropy bonus is gone in the end. Minibatches are of whole trials.
"""

from __future__ import annotations

import time
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import trial_curve
from research.algorithms.memory.losses import Coefficients, gradient_of
from research.algorithms.memory.recurrent import RecurrentAgent, Steps, ValueScale, minibatches
from research.algorithms.memory.trpo import make_objective
from research.algorithms.outer import clip_norm
from research.algorithms.trust_region import trust_region_update
from research.evaluation import AdaptationCurve
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import distance
from research.parallel import parallel_map
from research.types import Metrics, Params, StepResult


class State(NamedTuple):
    """Everything that training carries from one iteration to the next.

    Attributes:
        iteration: Finished iterations.
        meta: The parameters of the network.
        optimizer: Adam's moments, of what Adam moves.
        scale: Moments of the returns at each step of a trial.
    """

    iteration: int
    meta: Params
    optimizer: AdamState
    scale: ValueScale


class RL2:
    """The algorithm. See the module."""

    Config: ClassVar[type] = RL2Config

    def __init__(self, config: RL2Config):
        self.config = config
        self.agent = RecurrentAgent(config)

    def init(self) -> State:
        """The state before the first iteration."""
        meta = self.agent.init()
        return State(0, meta, adam_start(self._moved_by_adam(meta)), ValueScale.start(self.agent.longest))

    def step(self, state: State) -> StepResult:
        """One iteration: trials of new tasks, then epochs of minibatches."""
        config, iteration = self.config, state.iteration
        steps, scale, metrics = self.agent.sample(state.meta, state.scale, iteration)
        start = time.perf_counter()
        params = state.meta
        if config.update == "trpo":
            objective = make_objective(self.agent, params, steps)
            moved, measured = trust_region_update(objective, config)
            params = params | moved
            metrics |= measured | {"entropy": objective.entropy()}
        params, optimizer, measured = self._epochs(params, state.optimizer, steps, iteration)
        metrics |= measured
        metrics["step_norm"] = distance(params, state.meta)
        metrics["learning_rate"] = config.lr_at(iteration)
        metrics["entropy_coef"] = config.entropy_coef_at(iteration)
        metrics["time/update_seconds"] = time.perf_counter() - start
        return StepResult(State(iteration + 1, params, optimizer, scale), metrics)

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int | None) -> AdaptationCurve:
        """Returns of the first, second, ... episode of a trial on held-out tasks."""
        return trial_curve(self.agent, state.meta, num_tasks, num_adapt_steps)

    def _epochs(
        self, params: Params, optimizer: AdamState, steps: Steps, iteration: int
    ) -> tuple[Params, AdamState, Metrics]:
        """Epochs of Adam; the metrics are means over the last one, the norms over all."""
        config = self.config
        with_policy = config.update == "ppo"
        coefficients = Coefficients(with_policy, config.clip_eps, config.entropy_coef_at(iteration), config.value_coef)
        batches = minibatches(steps, config.num_minibatches)
        norms: list[float] = []
        for _ in range(config.num_epochs):
            seen: list[Tensor] = []
            for minibatch in batches:
                gradient, measured = self._gradient(params, minibatch, coefficients)
                gradient, length = clip_norm(gradient, config.max_grad_norm)
                moved, optimizer = adam(self._moved_by_adam(params), gradient, optimizer, config.lr_at(iteration))
                params = params | moved
                norms.append(length)
                seen.append(measured)
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
        metrics = dict(zip(names, torch.stack(seen).mean(0).tolist(), strict=True))
        if not with_policy:
            return params, optimizer, {"value_loss": metrics["value_loss"]}
        return params, optimizer, metrics | {"gradient_norm": sum(norms) / len(norms)}

    def _gradient(self, params: Params, minibatch: list[Steps], coefficients: Coefficients) -> tuple[Params, Tensor]:
        """The gradient of a minibatch's loss, and what is measured on the way: sums over its parts, in their order."""
        total = sum(int(part.valid.sum()) for part in minibatch)
        learned = tuple(self._moved_by_adam(params))

        def of_part(part: Steps) -> tuple[Params, Tensor]:
            return gradient_of(self.agent.policy, params, learned, part, coefficients, total, self.config.chunk_length)

        results = parallel_map(of_part, minibatch, self.agent.num_threads)
        gradient = {name: torch.stack([gradient[name] for gradient, _ in results]).sum(0) for name in learned}
        return gradient, torch.stack([measured for _, measured in results]).sum(0)

    def _moved_by_adam(self, params: Params) -> Params:
        """All parameters with PPO; with TRPO those of the value."""
        return params if self.config.update == "ppo" else {k: v for k, v in params.items() if k.startswith("value_")}
