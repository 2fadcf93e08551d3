"""Update rules and the trust region: optimisation that knows no reinforcement learning."""

from research.optim.lookahead import Lookahead, lookahead_around

__all__ = ["Lookahead", "lookahead_around"]
