"""The trust-region step of RL² on whole trials: parameters of the policy → action distributions at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from research.algorithms.memory.recurrent import RecurrentAgent, Steps, minibatches
from research.algorithms.trust_region import LinearizedPart, TrustRegionObjective
from research.losses import PolicyBatch
from research.optim.linear_map import linearize
from research.parallel import parallel_map
from research.sampling.trials import bind
from research.types import Params


def make_objective(agent: RecurrentAgent, params: Params, steps: Steps) -> TrustRegionObjective:
    """Returns the objective on these steps, in the flat vector of the policy's parameters, without the value's."""
    learned = {name: value for name, value in params.items() if not name.startswith("value_")}
    total = max(1, int(steps.valid.sum()))  # every trial may diverge in its first step

    def part(own: Steps) -> LinearizedPart:
        policy = _FromStart(bind(agent.policy, params))
        weight = int(own.valid.sum()) / total

        def respond(moved: Params) -> Any:
            return functional_call(policy, {f"policy.{name}": value for name, value in moved.items()}, own)

        def add_up(function: Any, *trees: Any) -> Tensor:
            return weight * function(*trees)

        batch = PolicyBatch(own.inputs.features, own.action, own.advantage, own.log_prob, own.valid)
        weights = own.valid.to(own.log_prob.dtype) / total  # a quotient of integers would be float32
        return LinearizedPart(batch, weights, linearize(respond, learned), respond, add_up)

    parts = parallel_map(part, minibatches(steps, 1, agent.policy.reads_steps_at_once)[0], agent.num_threads)
    return TrustRegionObjective(learned, parts, num_threads=agent.num_threads)


class _FromStart(torch.nn.Module):
    """A policy as the distributions of whole trials, a learned start included."""

    def __init__(self, policy: torch.nn.Module):
        super().__init__()
        self.policy = policy

    def forward(self, inputs: Any, *_others: Tensor) -> Any:
        return self.policy(inputs, self.policy.initial_state(len(inputs.features))).distribution  # type: ignore[operator]
