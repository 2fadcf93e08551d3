"""Two-player games whose equilibrium is known: payoffs, each player's gradient, distance and exploitability, exactly.

The players' parameters are `{"player_1": [*plays, m], "player_2": [*plays, n]}`, any number of independent plays at
once. Following both gradients at the same time circles the equilibrium of these games and drifts away from it: in the
bilinear game every step multiplies the distance by |1 + iησ| > 1. With Lookahead on both players together, a cycle of k
steps multiplies it by |1 − α + α (1 + iησ)ᵏ| (Chavdarova et al. 2021, arXiv:2006.14567, theorem 3 and section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from research.conversion import make_task
from research.types import Params

Rows = tuple[tuple[float, ...], ...]


class Game(Protocol):
    """A two-player game: losses of the players, their strategies, and how far they are from an equilibrium."""

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of parameters of each player."""

    def descent(self, params: Params) -> Params:
        """Returns the gradient of each player's own loss in its own parameters."""

    def strategies(self, params: Params) -> Params:
        """Returns the strategies of the players, e.g. the probabilities of their actions."""

    def distance(self, params: Params) -> Tensor:
        """Returns the distance of the strategies from the equilibrium, `[*plays]`."""

    def exploitability(self, params: Params) -> Tensor:
        """Returns the sum of both players' gains from a best response to the other, `[*plays]`; 0 at an equilibrium."""


class MatrixGame:
    """A game in normal form, played with softmax policies over the actions.

    The distance is ‖p − p*‖₁ + ‖q − q*‖₁: 0 at the equilibrium (p*, q*), and 4 at most.
    """

    first: ClassVar[Rows]
    """Payoffs A of player 1, `[m, n]`."""
    second: ClassVar[Rows]
    """Payoffs B of player 2, `[m, n]`."""
    equilibrium: ClassVar[Rows]
    """The policies p* and q*."""

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.first), len(self.first[0])

    def strategies(self, params: Params) -> Params:
        return {name: logits.softmax(-1) for name, logits in params.items()}

    def payoffs(self, params: Params) -> Params:
        """Returns the expected payoff of each player, pᵀAq and pᵀBq, `[*plays]`."""
        p, q, a, b = self._all(params)
        return {"player_1": _bilinear(p, a, q), "player_2": _bilinear(p, b, q)}

    def descent(self, params: Params) -> Params:
        """Returns −∂(pᵀAq)/∂x = −p ∘ (Aq − pᵀAq) for the logits x of p, and likewise for player 2."""
        p, q, a, b = self._all(params)
        gains = {"player_1": (p, q @ a.mT), "player_2": (q, p @ b)}
        return {name: -own * (gain - (own * gain).sum(-1, keepdim=True)) for name, (own, gain) in gains.items()}

    def distance(self, params: Params) -> Tensor:
        p, q, *_ = self._all(params)
        best = [p.new_tensor(policy) for policy in self.equilibrium]
        return (p - best[0]).abs().sum(-1) + (q - best[1]).abs().sum(-1)

    def exploitability(self, params: Params) -> Tensor:
        """Returns max_a (Aq)_a − pᵀAq + max_b (pᵀB)_b − pᵀBq."""
        p, q, a, b = self._all(params)
        payoffs = self.payoffs(params)
        return (q @ a.mT).amax(-1) - payoffs["player_1"] + (p @ b).amax(-1) - payoffs["player_2"]

    def _all(self, params: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the policies and the payoff matrices."""
        p, q = (params[name].softmax(-1) for name in ("player_1", "player_2"))
        return p, q, p.new_tensor(self.first), p.new_tensor(self.second)


@dataclass(frozen=True)
class RockPaperScissors(MatrixGame):
    """Rock beats scissors, scissors beat paper, paper beats rock; the equilibrium is uniformly random."""

    first = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))
    second = ((0.0, 1.0, -1.0), (-1.0, 0.0, 1.0), (1.0, -1.0, 0.0))
    equilibrium = ((1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3))


@dataclass(frozen=True)
class MatchingPennies(MatrixGame):
    """Player 1 wins when the pennies match, player 2 when they do not; the equilibrium is uniformly random."""

    first = ((1.0, -1.0), (-1.0, 1.0))
    second = ((-1.0, 1.0), (1.0, -1.0))
    equilibrium = ((0.5, 0.5), (0.5, 0.5))


@dataclass(frozen=True)
class BilinearGame:
    """min over x, max over y of xᵀ diag(σ) y, without bounds; the equilibrium is 0 and the distance ‖(x, y)‖₂.

    The exploitability is the gain that is possible within the unit ball: ‖σ ∘ x‖₂ + ‖σ ∘ y‖₂.

    Attributes:
        singular_values: σ, above 0.
    """

    singular_values: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.singular_values or any(not value > 0 for value in self.singular_values):
            raise ValueError(f"singular_values={self.singular_values}: need at least one, all above 0")

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.singular_values), len(self.singular_values)

    def strategies(self, params: Params) -> Params:
        return dict(params)

    def descent(self, params: Params) -> Params:
        """Returns σ ∘ y for x, which descends, and −σ ∘ x for y, which ascends."""
        x, y = params["player_1"], params["player_2"]
        sigma = x.new_tensor(self.singular_values)
        return {"player_1": sigma * y, "player_2": -sigma * x}

    def distance(self, params: Params) -> Tensor:
        return torch.cat([params["player_1"], params["player_2"]], -1).norm(dim=-1)

    def exploitability(self, params: Params) -> Tensor:
        return sum((gradient.norm(dim=-1) for gradient in self.descent(params).values()), torch.zeros(()))


GAMES: dict[str, type[Game]] = {
    "rock_paper_scissors": RockPaperScissors,
    "matching_pennies": MatchingPennies,
    "bilinear": BilinearGame,
}


def make_game(name: str, **settings: Any) -> Game:
    """Returns the game of that name with these settings.

    Raises:
        ValueError: The name is unknown, the game has no such setting, or a setting is out of range.
    """
    return make_task(GAMES, name, settings)


def starts(game: Game, num_plays: int, scale: float, rng: np.random.Generator) -> Params:
    """Draws initial parameters from N(0, scale²), `[num_plays, size]` for each player, in float64."""
    names = ("player_1", "player_2")
    # The start of a play does not depend on the number of plays.
    drawn = rng.normal(0.0, scale, (num_plays, sum(game.sizes)))
    return dict(zip(names, torch.from_numpy(drawn).split(game.sizes, -1), strict=True))


def _bilinear(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("...m,mn,...n->...", left, matrix, right)
