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
from research.optim.flat import distance, flatten, unflatten
from research.parallel import parallel_map
from research.policies.memory import MemoryPolicy
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
        metrics["time/update_seconds"] = time.perf_counter() - start
        return params, optimizer, metrics

    def _epochs(
        self, params: Params, optimizer: AdamState, steps: Steps, iteration: int
    ) -> tuple[Params, AdamState, Metrics]:
        """Returns the result of epochs of Adam; metrics are means over the last epoch, gradient norms over all."""
        config, learned = self.config, self._learned(params)
        batches = minibatches(steps, config.num_minibatches, self.agent.policy.has_cheap_parts)
        policy = bind(self.agent.policy, params, requires_grad=True)
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(name in learned)  # no graph of a memory that another loss trains
        flat = _Flat(learned, optimizer)
        norms: list[float] = []
        terms: list[Tensor] = []
        for minibatch in batches * config.num_epochs:
            gradient, own = self._gradient(policy, tuple(learned), minibatch, config.entropy_coef_at(iteration))
            norms.append(flat.step(gradient, config.max_grad_norm, config.lr_at(iteration)))
            flat.write(policy)
            terms.append(own)
        params, optimizer = params | flat.params(), flat.optimizer()
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
        metrics = dict(zip(names, torch.stack(terms[-len(batches) :]).mean(0).tolist(), strict=True))
        if config.update == "trpo":
            return params, optimizer, {"value_loss": metrics["value_loss"]}
        metrics["entropy_coef"] = config.entropy_coef_at(iteration)
        return params, optimizer, metrics | {"gradient_norm": sum(norms) / len(norms)}

    def _gradient(
        self, policy: MemoryPolicy, learned: tuple[str, ...], minibatch: list[Steps], entropy_coef: float
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradient of a minibatch's loss, flat, and its terms: sums over the parts, in their order."""
        total = max(1, sum(int(part.valid.sum()) for part in minibatch))  # every trial may diverge in its first step

        def of_part(part: Steps) -> tuple[Tensor, Tensor]:
            gradient, terms = rl2_gradient(policy, learned, part, self.config, entropy_coef, total)
            return flatten(gradient.values()), terms

        results = parallel_map(of_part, minibatch, self.agent.num_threads)
        gradient, terms = (torch.stack(parts).sum(0) for parts in zip(*results, strict=True))
        return gradient, terms

    def _learned(self, params: Params) -> Params:
        """Returns the parameters that Adam changes."""
        return {name: value for name, value in params.items() if self._is_learned(name)}


class _Flat:
    """Parameters and Adam's moments as one vector each: a step is then some ten operations, not ten for each tensor.

    Args:
        params: The parameters.
        optimizer: Adam's state of these.
    """

    def __init__(self, params: Params, optimizer: AdamState):
        self._like = params
        self._params = {"": flatten(params.values())}
        moments = ({"": flatten(named[name] for name in params)} for named in optimizer[1:])
        self._optimizer = AdamState(optimizer.step, *moments)

    def step(self, gradient: Tensor, max_norm: float, lr: float) -> float:
        """Takes a step of Adam, and returns the norm of the gradient before it is clipped."""
        clipped, length = clip_norm({"": gradient}, max_norm)
        self._params, self._optimizer = adam(self._params, clipped, self._optimizer, lr)
        return length

    @torch.no_grad()
    def write(self, policy: MemoryPolicy) -> None:
        """Writes the parameters to those of a policy."""
        own = dict(policy.named_parameters())
        for name, value in unflatten(self._params[""], self._like).items():
            own[name].copy_(value)

    def params(self) -> Params:
        """Returns the parameters by name."""
        return self._named(self._params)

    def optimizer(self) -> AdamState:
        """Returns Adam's state."""
        return AdamState(self._optimizer.step, *(self._named(moments) for moments in self._optimizer[1:]))

    def _named(self, flat: Params) -> Params:
        """Returns tensors of their own: a view would keep all others in a checkpoint."""
        return {name: value.clone() for name, value in unflatten(flat[""], self._like).items()}
