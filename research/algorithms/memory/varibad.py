"""VariBAD and task inference: RL² whose memory learns to infer the task, by a loss of its own.

    repeat
        sample tasks and trials as RL² does; policy π_θ and value read the belief q_φ(m | τ_:t) = N(μ_t, σ_t²), a
            function of the memory of what the trial has shown before action t, by its mean and log-variance
        θ ← PPO on the trials, as RL²; its gradient ends at the belief                    (policy.belief_gradient=False)
        num_inference_epochs times, for each minibatch of whole trials, with times t drawn for each and m ~ q_t:
            L = mean_t −Σ_i [c_r log p_ψ(r_i | m, s_i, a_i, s_{i+1}) + c_s log p_ψ(s_{i+1} | m, s_i, a_i)]
                + c_KL KL(q_t ‖ q_{t−1}),   i over all steps of the trial, q_{−1} = N(0, 1)        (inference="varibad")
            L = mean_t −log p_ψ(parameters of the task | m) + c_KL KL(q_t ‖ N(0, 1))                  (inference="task")
            φ, ψ ← Adam(φ, ψ; ∇L),  with φ memory and belief, ψ the decoders

Zintgraf et al. 2020, arXiv:1910.08348 (VariBAD); Humplik et al. 2019, arXiv:1905.06424 (task inference).

Differs from the papers: the trials of the iteration train the belief, which are thousands; there is no buffer of older
trials, whose actions the policy would no longer take. The prior at the first time is that of VariBAD, and its q_0 has
read the first observation. The decoders decode the change of a continuous observation, and one-hot observations as
categorical. The belief of task inference is a Gaussian bottleneck whose decoder predicts the parameters; in the paper
the policy reads a layer of the network that predicts them. Both step sizes fall linearly.
"""

from __future__ import annotations

import time
from typing import ClassVar, NamedTuple

import torch
from torch.nn.functional import one_hot

from research import rng
from research.algorithms.memory.evaluation import trial_curve
from research.algorithms.memory.inference import Decoded, Model
from research.algorithms.memory.inference_config import InferenceConfig, inferred_tasks
from research.algorithms.memory.inference_update import InferenceUpdate, InferredTrials
from research.algorithms.memory.policy_update import PolicyUpdate
from research.algorithms.memory.recurrent import RecurrentAgent, Steps, TrialSamples, ValueScale
from research.algorithms.outer import initial_params
from research.evaluation import AdaptationCurve
from research.optim.differentiable import AdamState
from research.optim.flat import distance
from research.policies.decoders import Decoders, make_step_decoders, make_task_decoder
from research.spaces import OneHot
from research.tasks.splits import SplitName
from research.types import MetaParams, Params, StepResult, Trials


class VariBADState(NamedTuple):
    """The state of a training run.

    Attributes:
        iteration: Finished iterations.
        meta: The parameters of network and decoders; `update` is empty.
        optimizer: Adam's moments of the parameters that PPO changes.
        inference_optimizer: Adam's moments of memory, belief and decoders.
        scale: Moments of the return from each step of a trial on.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState
    inference_optimizer: AdamState
    scale: ValueScale


class VariBAD:
    """VariBAD and task inference, see the module."""

    Config: ClassVar[type] = InferenceConfig

    def __init__(self, config: InferenceConfig):
        self.config = config
        self.agent = RecurrentAgent(config, keep_next=config.inference == "varibad")
        self.decoders = self._make_decoders()
        model = Model(
            config.decoder.reward,
            config.decoder.reward_std,
            config.decoder.transition_std,
            isinstance(self.agent.tasks.observation_space, OneHot),
        )
        self.inference = InferenceUpdate(self.agent, self.decoders, model, config)
        by_adam = (lambda name: True) if config.policy.belief_gradient else self.inference.is_of_policy_alone
        self.update = PolicyUpdate(self.agent, by_adam)

    def init(self) -> VariBADState:
        """Returns the state before the first iteration."""
        params, decoders = initial_params(self.agent.policy), initial_params(self.decoders)
        optimizer, inference_optimizer = self.update.start(params), self.inference.start(params | decoders)
        scale = ValueScale.start(self.agent.longest)
        return VariBADState(0, MetaParams(params | decoders, {}), optimizer, inference_optimizer, scale)

    def step(self, state: VariBADState) -> StepResult:
        """Returns the state after trials of new tasks, an update of the policy and one of the belief, and metrics."""
        iteration, params = state.iteration, state.meta.model
        samples = self.agent.sample(params, state.scale, iteration)
        decoders = {name: value for name, value in params.items() if name.startswith("decoder_")}
        policy = {name: value for name, value in params.items() if name not in decoders}
        policy, optimizer, metrics = self.update(policy, state.optimizer, self._read(policy, samples.steps), iteration)
        start = time.perf_counter()
        trials = self._inferred_trials(samples)
        params, inference_optimizer, measured = self.inference(
            policy | decoders, state.inference_optimizer, trials, iteration
        )
        metrics |= samples.metrics | measured | {"step_norm": distance(params, state.meta.model)}
        metrics["time/inference_seconds"] = time.perf_counter() - start
        meta = MetaParams(params, {})
        return StepResult(VariBADState(iteration + 1, meta, optimizer, inference_optimizer, samples.scale), metrics)

    def evaluate(
        self, state: VariBADState, num_tasks: int, num_adapt_steps: int | None, split: SplitName = "test"
    ) -> AdaptationCurve:
        """Returns the mean return of the first, second, ... episode of a trial on tasks of a split."""
        return trial_curve(self.agent, state.meta.model, num_tasks, num_adapt_steps, split)

    def _read(self, params: Params, steps: Steps) -> Steps:
        """Returns the steps with their beliefs, where no step of PPO changes these: they are computed once."""
        policy = self.config.policy
        if policy.belief_gradient or policy.separate_value:
            return steps
        return steps._replace(inputs=steps.inputs._replace(belief=self.inference.beliefs(params, steps.inputs)))

    def _make_decoders(self) -> Decoders:
        config, tasks = self.config, self.agent.tasks
        generator = rng.torch_generator(config.seed, "decoders")
        size = config.policy.belief_size
        if config.inference == "task":
            space = inferred_tasks(tasks, config.task).inference_space
            decoders = make_task_decoder(config.decoder, size, space, generator)
        else:
            decoders = make_step_decoders(
                config.decoder,
                size,
                tasks.observation_space,
                self.agent.policy.encoder.num_actions,
                config.reward_coef > 0,
                config.decodes_transitions(tasks),
                generator,
            )
        return decoders.to(self.agent.device, getattr(torch, config.dtype))

    def _inferred_trials(self, samples: TrialSamples) -> InferredTrials:
        """Returns the trials of an iteration as the loss of the belief reads them."""
        inputs, valid = samples.steps.inputs, samples.steps.valid
        if self.config.inference == "varibad":
            return InferredTrials(inputs, valid, self._decoded(samples.trials), None)
        distribution = inferred_tasks(self.agent.tasks, self.config.task)
        target = torch.as_tensor(distribution.inference_targets(samples.tasks), device=valid.device)
        if target.is_floating_point():
            target = target.to(inputs.features.dtype)
        return InferredTrials(inputs, valid, None, target.repeat_interleave(len(valid) // len(target), 0))

    def _decoded(self, trials: Trials) -> Decoded:
        """Returns the steps of trials as decoders read them, `[tasks × trials, time, ...]`."""
        encoder, action = self.agent.policy.encoder, trials.action
        if encoder.is_discrete:
            action = one_hot(action, encoder.num_actions).to(trials.reward.dtype)
        fields = (trials.observation, action, trials.reward, trials.next_observation, trials.valid)
        return Decoded(*(field.flatten(0, 1) for field in fields))
