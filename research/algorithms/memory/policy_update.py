"""The update of policy and value on whole trials, by epochs of PPO or a trust-region step; `rl2.py` has the loss."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from research.algorithms.memory.losses import rl2_gradient
from research.algorithms.memory.recurrent import RecurrentAgent, Steps, minibatches
from research.algorithms.memory.trpo import make_objective
from research.algorithms.outer import clip_norm
from research.algorithms.trust_region import trust_region_update
from research.optim.differentiable import AdamState, adam, adam_start
from research.optim.flat import distance
from research.parallel import parallel_map
from research.sampling.trials import bind
from research.types import Metrics, Params


class PolicyUpdate:
    """The update by PPO or TRPO. It holds no state of the training.

    Args:
        agent: The policy and its settings.
        by_adam: Whether Adam changes the parameter of a name in epochs of PPO; with TRPO it changes those of the value.
    """

    def __init__(self, agent: RecurrentAgent, by_adam: Callable[[str], bool] = lambda name: True):
        self.agent, self.config = agent, agent.config
        self._is_learned = by_adam if self.config.update == "ppo" else lambda name: name.startswith("value_")

    def start(self, params: Params) -> AdamState:
        """Returns Adam's state before the first iteration."""
        return adam_start(self._learned(params))

    def __call__(
        self, params: Params, optimizer: AdamState, steps: Steps, iteration: int
    ) -> tuple[Params, AdamState, Metrics]:
        """Returns parameters and Adam's state after an update on the steps of an iteration, and metrics."""
        config, start, before = self.config, time.perf_counter(), params
        metrics: Metrics = {}
        if config.update == "trpo":
            objective = make_objective(self.agent, params, steps)
            moved, measured = trust_region_update(objective, config)
            params = params | moved
            metrics |= measured | {"entropy": objective.entropy()}
        params, optimizer, measured = self._epochs(params, optimizer, steps, iteration)
        metrics |= measured
        metrics["step_norm"] = distance(params, before)
        metrics["learning_rate"] = config.lr_at(iteration)
        metrics["entropy_coef"] = config.entropy_coef_at(iteration)
        metrics["time/update_seconds"] = time.perf_counter() - start
        return params, optimizer, metrics

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
            moved, optimizer = adam(self._learned(params), gradient, optimizer, config.lr_at(iteration))
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
        learned, policy = tuple(self._learned(params)), bind(self.agent.policy, params, requires_grad=True)
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(name in learned)  # no graph of a memory that another loss trains

        def of_part(part: Steps) -> tuple[Params, Tensor]:
            return rl2_gradient(policy, learned, part, self.config, entropy_coef, total)

        results = parallel_map(of_part, minibatch, self.agent.num_threads)
        gradient = {name: torch.stack([gradient[name] for gradient, _ in results]).sum(0) for name in learned}
        return gradient, torch.stack([terms for _, terms in results]).sum(0)

    def _learned(self, params: Params) -> Params:
        """Returns the parameters that Adam changes."""
        return {name: value for name, value in params.items() if self._is_learned(name)}
