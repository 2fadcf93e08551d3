"""Games against autograd, hand-computed values and closed forms; Lookahead on them against plain simultaneous steps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from research import rng
from research.optim import Lookahead
from research.optim.differentiable import sgd
from research.optim.differentiable_lookahead import lookahead
from research.oracles.games import (
    GAMES,
    BilinearGame,
    MatchingPennies,
    MatrixGame,
    RockPaperScissors,
    starts,
)

MATRIX_GAMES = {name: kind() for name, kind in GAMES.items() if issubclass(kind, MatrixGame)}


def bilinear_contraction(singular_values: Tensor, lr: float, k: int, alpha: float) -> Tensor:
    """The factor by which a cycle contracts each pair (x_j, y_j) of the bilinear game: |1 − α + α (1 + iησ)ᵏ|."""
    step = torch.complex(torch.ones_like(singular_values), lr * singular_values)
    return (1 - alpha + alpha * step**k).abs()


def some_plays(game: Any, plays: int = 5) -> dict[str, Tensor]:
    return starts(game, plays, 1.0, rng.generator(0, "games"))


def play(game: Any, params: dict[str, Tensor], steps: int, lr: float, **settings: Any) -> Tensor:
    """The distance before the first step and after each, `[steps + 1, plays]`."""
    rule = functools.partial(lookahead, **settings) if settings else sgd
    state, distance = None, [game.distance(params)]
    for _ in range(steps):
        params, state = rule(params, game.descent(params), state, lr)
        distance.append(game.distance(params))
    return torch.stack(distance)


@pytest.mark.parametrize("game", MATRIX_GAMES.values(), ids=MATRIX_GAMES)
def test_each_player_descends_its_own_loss(game: MatrixGame) -> None:
    params = {name: value.requires_grad_() for name, value in some_plays(game).items()}
    descent = game.descent(params)
    for name, value in params.items():
        (gradient,) = torch.autograd.grad(-game.payoffs(params)[name].sum(), value)
        torch.testing.assert_close(descent[name], gradient, rtol=0, atol=1e-15)


def test_payoffs_and_exploitability_by_hand() -> None:
    """Player 1 plays rock; player 2 plays rock, paper and scissors with 1/2, 1/4 and 1/4."""
    game = RockPaperScissors()
    params = {
        "player_1": torch.tensor([50.0, 0.0, 0.0], dtype=torch.float64),
        "player_2": torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log(),
    }
    assert game.payoffs(params)["player_1"].item() == pytest.approx(0.0, abs=1e-15)
    # Paper would win 1/2 − 1/4 for player 1, and 1 for player 2 against rock.
    assert game.exploitability(params).item() == pytest.approx(0.25 + 1.0, abs=1e-15)
    assert game.distance(params).item() == pytest.approx(4 / 3 + 1 / 3, abs=1e-15)


@pytest.mark.parametrize("game", MATRIX_GAMES.values(), ids=MATRIX_GAMES)
def test_the_equilibrium_is_one(game: MatrixGame) -> None:
    names = ("player_1", "player_2")
    params = {n: torch.tensor(p, dtype=torch.float64).log() for n, p in zip(names, game.equilibrium, strict=True)}
    assert game.distance(params).item() == pytest.approx(0, abs=1e-15)
    assert game.exploitability(params).item() == pytest.approx(0, abs=1e-15)
    assert all(value.abs().max() < 1e-16 for value in game.descent(params).values())
    assert (game.exploitability(some_plays(game)) > 0.01).all()
    assert all(torch.equal(-a, b) for a, b in [torch.tensor([game.first, game.second])])


@pytest.mark.thorough
@pytest.mark.parametrize("k", [5, 10])
@pytest.mark.parametrize(("game", "lr"), [(RockPaperScissors(), 1.0), (MatchingPennies(), 0.3)])
def test_lookahead_arrives_where_simultaneous_steps_stay_away(game: MatrixGame, lr: float, k: int) -> None:
    """From normal logits, by the distance ‖p − p*‖₁ + ‖q − q*‖₁, of which 8/3 and 2 are the largest in these games.

    Plain steps circle farther and farther out. A circle is none in this distance, so it falls on the way round: only
    plays that start far away stay above 0.9 throughout, all of them do in the end.
    """
    params = some_plays(game, plays=200)
    far = game.distance(params) >= 1.6
    assert far.sum() >= 3
    plain = play(game, params, 4000, lr)
    ours = play(game, params, 4000, lr, k=k)
    assert plain[:, far].min() > 0.9
    assert plain[-2000:].min() > 0.9
    assert ours[-1].max() < 1e-6


@pytest.mark.parametrize(
    ("k", "alpha", "lr"),
    [(5, 0.5, 0.1), (5, 0.5, 0.58), (5, 0.5, 0.60), (10, 0.5, 0.2), (10, 0.9, 0.3), (2, 0.5, 0.5), (1, 0.5, 0.1)],
)
def test_the_bilinear_game_contracts_as_the_closed_form_says(k: int, alpha: float, lr: float) -> None:
    """Cycle by cycle, on both sides of the border."""
    game = BilinearGame((1.0,))
    rate = bilinear_contraction(torch.ones(1, dtype=torch.float64), lr, k, alpha)
    distance = play(game, some_plays(game), 20 * k, lr, k=k, alpha=alpha)
    for cycle in range(21):
        torch.testing.assert_close(distance[cycle * k], rate**cycle * distance[0], rtol=1e-12, atol=1e-12)


def border(k: int, alpha: float) -> float:
    """The largest rate with a contraction below 1, by bisection of the closed form, which is below 1 near 0."""
    low, high = 1e-3, 3.0
    one = torch.ones((), dtype=torch.float64)
    assert bilinear_contraction(one, low, k, alpha) < 1 < bilinear_contraction(one, high, k, alpha)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if bilinear_contraction(one, middle, k, alpha) < 1 else (low, middle)
    return low


@pytest.mark.thorough
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (5, 0.2), (10, 0.5)])
def test_it_converges_below_the_border_and_diverges_above(k: int, alpha: float) -> None:
    game = BilinearGame((1.0,))
    for share, converges in ((0.98, True), (1.02, False)):
        distance = play(game, some_plays(game), 300 * k, share * border(k, alpha), k=k, alpha=alpha)
        assert (distance[-1] < distance[0]).all() == converges
        assert (distance[-1] < 0.5 * distance[0] if converges else distance[-1] > 2 * distance[0]).all()


def test_every_direction_of_a_bilinear_game_has_its_own_border() -> None:
    game = BilinearGame((1.0, 0.25))
    lr = 1.05 * border(5, 0.5)
    rates = bilinear_contraction(torch.tensor(game.singular_values, dtype=torch.float64), lr, 5, 0.5)
    assert rates[1] < 1 < rates[0]
    params, state = some_plays(game), None
    first = params
    for _ in range(500):
        params, state = lookahead(params, game.descent(params), state, lr)
    for name, value in params.items():
        assert (value[:, 1].abs() < first[name].abs().max()).all()
    assert game.distance(params).min() > game.distance(first).max()


def test_one_optimiser_of_both_players_backtracks_jointly() -> None:
    """Backtracking is joint: it is that of one optimiser which has the parameters of both players."""
    game = MatchingPennies()
    params = {name: value.requires_grad_() for name, value in some_plays(game).items()}
    optimizer = Lookahead(torch.optim.SGD(params.values(), lr=0.3), k=5)
    for _ in range(200):
        with torch.no_grad():
            for name, gradient in game.descent(params).items():
                params[name].grad = gradient
        optimizer.step()
    expected = play(game, some_plays(game), 200, 0.3, k=5)[-1]
    torch.testing.assert_close(game.distance(params).detach(), expected, rtol=0, atol=1e-13)


def test_starts_do_not_depend_on_how_many_there_are() -> None:
    few, many = (starts(RockPaperScissors(), n, 1.0, rng.generator(1, "starts")) for n in (3, 7))
    assert all(torch.equal(few[name], many[name][:3]) for name in few)


def test_the_bilinear_game_by_hand() -> None:
    game = BilinearGame((1.0, 2.0))
    params = {"player_1": torch.tensor([3.0, 0.0]), "player_2": torch.tensor([0.0, 4.0])}
    assert game.descent(params)["player_1"].tolist() == [0.0, 8.0]
    assert game.descent(params)["player_2"].tolist() == [-3.0, 0.0]
    assert game.distance(params).item() == 5.0
    assert game.exploitability(params).item() == 11.0
    with pytest.raises(ValueError, match=r"singular_values=\(1.0, 0.0\): need at least one, all above 0"):
        BilinearGame((1.0, 0.0))
    assert np.shape(starts(game, 4, 1.0, rng.generator(0, "x"))["player_2"]) == (4, 2)
