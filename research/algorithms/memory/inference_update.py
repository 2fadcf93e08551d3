"""The update of memory, belief and decoders by the loss of task inference, on the trials of an iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from research import rng
from research.algorithms.memory.inference import Decoded, Model, Terms, draw_times, inference_terms
from research.algorithms.memory.inference_config import InferenceConfig
from research.algorithms.memory.recurrent import RecurrentAgent, num_parts, split_rows
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import norm
from research.parallel import parallel_map
from research.policies.decoders import Decoders
from research.policies.memory import Inputs, MemoryPolicy
from research.sampling.trials import bind, fill
from research.types import Metrics, Params

_PART_DECODED = 60_000
"""Most decoded steps of a part, over its trials and times: their hidden units fit into the caches."""


class InferredTrials(NamedTuple):
    """Trials as the loss of the belief reads them; every tensor is `[rows, ...]`.

    Attributes:
        inputs: Inputs of the network, `[rows, time, ...]`.
        valid: Whether the step belongs to the trial, `[rows, time]`, bool.
        decoded: The steps to be predicted; None for task inference.
        target: Parameters of the trial's task; None for VariBAD.
    """

    inputs: Inputs
    valid: Tensor
    decoded: Decoded | None
    target: Tensor | None


class _Part(NamedTuple):
    """Trials, the times at which their beliefs are decoded, which times count, and draws from N(0, 1) for them."""

    trials: InferredTrials
    times: Tensor
    counted: Tensor
    noise: Tensor

    def rows(self, rows: slice) -> _Part:
        """Returns some of the trials; the inputs have time first in memory, the order in which a GRU reads them."""
        inputs, valid, decoded, target = self.trials
        return _Part(
            InferredTrials(
                inputs.map(lambda leaf: leaf[rows].transpose(0, 1).contiguous().transpose(0, 1)),
                valid[rows],
                None if decoded is None else Decoded(*(leaf[rows] for leaf in decoded)),
                None if target is None else target[rows],
            ),
            *(leaf[rows] for leaf in self[1:]),
        )


class InferenceUpdate:
    """The update by the loss of task inference. It holds no state of the training.

    Args:
        agent: The policy with the memory and the belief.
        decoders: The decoders.
        model: The distributions that they decode.
        config: The settings.
    """

    def __init__(self, agent: RecurrentAgent, decoders: Decoders, model: Model, config: InferenceConfig):
        self.agent, self.decoders, self.model, self.config = agent, decoders, model, config
        self._of_belief = belief_parameters(agent.policy)

    def is_of_policy_alone(self, name: str) -> bool:
        """Returns whether a parameter of the policy belongs neither to the memory that the belief reads nor to it."""
        return name not in self._of_belief

    @torch.no_grad()
    def beliefs(self, params: Params, inputs: Inputs) -> Tensor:
        """Returns mean and log-variance of the belief at every step, `[rows, time, 2 · belief]`."""
        policy = bind(self.agent.policy, params)
        rows, time = inputs.features.shape[:2]

        def of_part(part: slice) -> Tensor:
            return torch.cat(policy.believe(inputs.map(lambda leaf: leaf[part])), -1)

        parts = split_rows(slice(0, rows), num_parts(rows, time, policy.has_cheap_parts))
        return torch.cat(parallel_map(of_part, parts, self.agent.num_threads))

    def start(self, params: Params) -> AdamState:
        """Returns Adam's state before the first iteration."""
        return adam_start(self._learned(params))

    def __call__(
        self, params: Params, optimizer: AdamState, trials: InferredTrials, iteration: int
    ) -> tuple[Params, AdamState, Metrics]:
        """Returns parameters and Adam's state after passes over the trials, and metrics: means over the last pass."""
        config, rate = self.config, self.config.inference_lr_at(iteration)
        norms: list[float] = []
        policy = bind(self.agent.policy, params, requires_grad=True)
        decoders = bind(self.decoders, params, requires_grad=True)
        sums = torch.zeros(())
        for epoch in range(config.num_inference_epochs):
            batches = self._minibatches(trials, iteration, epoch)
            found = []
            for minibatch in batches:
                gradient, own = self._gradient(policy, decoders, minibatch)
                norms.append(_finite_norm(gradient))
                moved, optimizer = adam(self._learned(params), gradient, optimizer, rate)
                params = params | moved
                fill(policy, params)
                fill(decoders, params)
                found.append(own)
            sums = torch.stack(found).sum(0)
        return params, optimizer, self._metrics(sums) | {"inference_gradient_norm": sum(norms) / len(norms)}

    def _minibatches(self, trials: InferredTrials, iteration: int, epoch: int) -> list[list[_Part]]:
        """Returns the trials with new times and noise, in minibatches of parts for one thread."""
        config, (rows, time) = self.config, trials.valid.shape
        generator = rng.torch_generator(config.seed, "inference", iteration, epoch, device=self.agent.device)
        if config.inference == "task" or not config.num_elbo_times:
            times = torch.arange(time, device=self.agent.device).expand(rows, -1)
            counted = trials.valid
        else:
            times, counted = draw_times(trials.valid, min(config.num_elbo_times, time), generator)
        size = (*times.shape, config.policy.belief_size)
        like = trials.inputs.features
        noise = torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)
        whole = _Part(trials, times, counted, noise)
        cheap = self.agent.policy.has_cheap_parts

        def parts(own: slice) -> list[_Part]:
            length = own.stop - own.start
            decoded = 1 if trials.decoded is None else times.shape[1]
            count = max(num_parts(length, time, cheap), -(-length * time * decoded // _PART_DECODED))
            return [whole.rows(part) for part in split_rows(own, min(count, length))]

        return [parts(own) for own in split_rows(slice(0, rows), config.num_inference_minibatches)]

    def _gradient(self, policy: MemoryPolicy, decoders: Decoders, minibatch: list[_Part]) -> tuple[Params, Tensor]:
        """Returns the gradient of a minibatch's loss, and sums of its terms, over the parts in their order."""
        total = max(1, sum(int(part.counted.sum()) for part in minibatch))
        leaves = self._learned({**dict(policy.named_parameters()), **dict(decoders.named_parameters())})

        def of_part(part: _Part) -> tuple[list[Tensor], Tensor]:
            with torch.enable_grad():
                belief = policy.believe(part.trials.inputs)
                _, _, decoded, target = part.trials
                terms = inference_terms(decoders, self.model, belief, part.times, part.noise, decoded, target)
                gradient = torch.autograd.grad(self._loss(terms, part.counted) / total, list(leaves.values()))
            return list(gradient), _sums(terms, part)

        results = parallel_map(of_part, minibatch, self.agent.num_threads)
        gradients = zip(*(gradient for gradient, _ in results), strict=True)
        gradient = {name: torch.stack(parts).sum(0) for name, parts in zip(leaves, gradients, strict=True)}
        return gradient, torch.stack([sums for _, sums in results]).sum(0)

    def _loss(self, terms: Terms, counted: Tensor) -> Tensor:
        """Returns minus the weighted bound, summed over the times that count."""
        config = self.config
        bound = config.reward_coef * terms.reward + config.transition_coef * terms.transition + terms.task
        return (counted * (config.kl_coef * terms.kl - bound)).sum()

    def _metrics(self, sums: Tensor) -> Metrics:
        """Returns the metrics by the sums of the terms, and the numbers of times and of decoded steps."""
        reward, transition, task, kl, times, steps = sums.tolist()
        times, steps = max(1.0, times), max(1.0, steps)
        metrics = {"belief_kl": kl / times}
        if self.decoders.decoder_task is not None:
            return metrics | {"task_loss": -task / times}
        metrics["elbo"] = (reward + transition - kl) / times
        if self.decoders.decoder_reward is not None:
            metrics["reward_loss"] = -reward / steps
        if self.decoders.decoder_transition is not None:
            metrics["transition_loss"] = -transition / steps
        return metrics

    def _learned(self, params: Params) -> Params:
        """Returns the parameters of memory, belief and decoders."""
        return {name: value for name, value in params.items() if name in self._of_belief or name.startswith("decoder_")}


def belief_parameters(policy: MemoryPolicy) -> frozenset[str]:
    """Returns the names of the parameters that the belief depends on: its own, and those of the memory it reads."""
    encoder = policy.encoder
    like = next(policy.parameters())
    observation, zero = like.new_zeros(1, 1, encoder.num_observations), like.new_zeros(1, 1)
    action = policy.first_action(1).unsqueeze(1)  # one step: every trial has that many
    with torch.enable_grad():
        belief = policy.believe(policy.encode(observation, observation, action, zero, zero.bool()))
        names, leaves = zip(*policy.named_parameters(), strict=True)
        found: Sequence[Tensor | None] = torch.autograd.grad(
            belief.mean.sum() + belief.log_var.sum(), leaves, allow_unused=True
        )
    return frozenset(name for name, gradient in zip(names, found, strict=True) if gradient is not None)


def _finite_norm(gradient: Params) -> float:
    """Returns the norm of a gradient. Raises FloatingPointError if it is not finite."""
    length = norm(gradient)
    if not math.isfinite(length):
        raise FloatingPointError(
            f"inference_gradient_norm={length}: the gradient of the belief's loss is not finite; lower inference_lr or "
            "num_inference_epochs"
        )
    return length


def _sums(terms: Terms, part: _Part) -> Tensor:
    """Returns the sums of reward, transition, task and KL terms, and the numbers of times and of decoded steps."""
    counted = part.counted.to(terms.kl.dtype)
    steps = (counted.sum(1) * part.trials.valid.sum(1)).sum()
    return torch.stack([*((counted * leaf).sum() for leaf in terms), counted.sum(), steps]).detach()
