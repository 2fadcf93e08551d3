"""The learner of a Q-network after a change of its settings: target network, optimiser and slow weights."""

from __future__ import annotations

from torch import Tensor

from research.algorithms.adoption import carried_optimizer
from research.algorithms.value.config import TDConfig
from research.algorithms.value.learner import LearnerState
from research.optim.flat import flatten, unflatten
from research.policies.changes import Change
from research.types import Params

MUTABLE = frozenset(
    {
        "batch_size",
        "discount",
        "double",
        "exploration",
        "gradient_steps",
        "inner_lr",
        "lookahead_alpha",
        "lookahead_inner_state",
        "lookahead_k",
        "max_grad_norm",
        "n_step",
        "network.activation",
        "network.hidden_sizes",
        "polyak",
        "replay.importance_exponent",
        "target",
        "target_interval",
        "td_loss",
    }
)
"""The settings of a learner and its exploration that may change while it is trained."""


def adopt_learner(
    learner: LearnerState, params: Params, change: Change, before: TDConfig, after: TDConfig
) -> LearnerState:
    """Returns the state of a learner that goes on with other settings.

    Args:
        learner: The state before.
        params: The parameters of the online network before.
        change: The map of the parameters.
        before: The settings before.
        after: The settings of the learner that goes on.

    Raises:
        ValueError: Only one of the settings has Lookahead, whose slow weights the state has or lacks.
    """
    if bool(before.lookahead_k) != bool(after.lookahead_k):
        raise ValueError(
            f"lookahead_k={after.lookahead_k}: the state has lookahead_k={before.lookahead_k}; need both above 0, or "
            "both 0, as slow weights cannot begin or end while a run trains"
        )

    def carry(kind: str, flat: Tensor) -> Tensor:
        """Returns a flat tensor after the change; it has the order of the parameters."""
        named = getattr(change, kind)(unflatten(flat, params))
        return flatten(named.values())

    settings = {
        "lr": after.inner_lr,
        "lookahead_k": after.lookahead_k,
        # Syncs stay in phase with the copies to the target, which count all steps.
        "lookahead_steps": learner.steps % after.lookahead_k if after.lookahead_k else 0,
        "lookahead_alpha": after.lookahead_alpha,
        "lookahead_inner_state": after.lookahead_inner_state,
    }
    optimizer = carried_optimizer(learner.optimizer, carry, settings)
    return LearnerState(learner.steps, change.params(learner.target), optimizer)
