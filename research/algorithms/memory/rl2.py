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

from typing import ClassVar, NamedTuple

from research.algorithms.adoption import carried_moments, grown
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.evaluation import trial_curve
from research.algorithms.memory.policy_update import PolicyUpdate
from research.algorithms.memory.recurrent import RecurrentAgent, ValueScale
from research.algorithms.outer import initial_params
from research.evaluation import AdaptationCurve
from research.optim.differentiable import AdamState
from research.tasks.splits import SplitName
from research.types import MetaParams, StepResult


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
        self.update = PolicyUpdate(self.agent)

    def init(self) -> RL2State:
        """Returns the state before the first iteration."""
        params = initial_params(self.agent.policy)
        return RL2State(0, MetaParams(params, {}), self.update.start(params), ValueScale.start(self.agent.longest))

    def step(self, state: RL2State) -> StepResult:
        """Returns the state after trials of new tasks and an update on them, and metrics."""
        samples = self.agent.sample(state.meta.model, state.scale, state.iteration)
        params, optimizer, metrics = self.update(state.meta.model, state.optimizer, samples.steps, state.iteration)
        state = RL2State(state.iteration + 1, MetaParams(params, {}), optimizer, samples.scale)
        return StepResult(state, samples.metrics | metrics)

    def adopt(self, state: RL2State, before: RL2Config, own: RL2State) -> RL2State:
        """Returns a state that goes on with what was learned in a state of other settings."""
        config, params = self.config, state.meta.model
        change = grown(before.policy, config.policy, self.agent.make_policy, params, config.seed, own.iteration)
        meta, optimizer = MetaParams(change.params(params), {}), carried_moments(state.optimizer, change)
        return RL2State(own.iteration, meta, optimizer, state.scale)

    def evaluate(
        self, state: RL2State, num_tasks: int, num_adapt_steps: int | None, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the mean return of the first, second, ... episode of a trial on tasks of a split."""
        return trial_curve(self.agent, state.meta.model, num_tasks, num_adapt_steps, split)
