"""Games as an algorithm: its meta-gradient, what it learns, and its plays against an obvious loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from analysis.plots.plays import plot_plays
from research.algorithms.games import LookaheadGames, LookaheadGamesConfig
from research.optim import Lookahead
from research.oracles.games import RockPaperScissors
from research.types import MetaParams

GAME_SETTINGS: dict[str, dict[str, Any]] = {
    "rock_paper_scissors": {"player_lr": 1.0},
    "matching_pennies": {"player_lr": 0.3},
    "bilinear": {"player_lr": 0.3, "task_args": {"singular_values": [1.0, 0.5]}},
}


def made(task: str = "rock_paper_scissors", **settings: Any) -> LookaheadGames:
    return LookaheadGames(LookaheadGamesConfig(task=task, **{**GAME_SETTINGS[task], **settings}))


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.3, "lookahead_inner_state": "pullback"}, {"outer_k": 15}])
def test_the_plays_are_those_of_the_optimiser(settings: dict[str, Any]) -> None:
    """Both players in one `research.optim.Lookahead`, start by start."""
    algorithm = made(num_cycles=2, **settings)
    curve = algorithm.evaluate(algorithm.init(), 3, 4)
    game, plays = RockPaperScissors(), curve.details
    for play in range(3):
        drawn = curve.tasks._asdict().items()
        params = {name: torch.tensor(start[play], requires_grad=True) for name, start in drawn}
        sgd = torch.optim.SGD(params.values(), lr=1.0, momentum=settings.get("momentum", 0.0))
        optimizer = Lookahead(sgd, 5, 0.5, settings.get("lookahead_inner_state", "maintain"))
        if "outer_k" in settings:
            optimizer = Lookahead(optimizer, settings["outer_k"], 0.5)
        for entry in range(5):
            distance = game.distance(params).item()
            assert curve.score[entry, play] == pytest.approx(distance, abs=1e-13)
            assert plays.exploitability[play, 2 * entry] == pytest.approx(game.exploitability(params).item(), abs=1e-13)
            for _ in range(10):
                for name, gradient in game.descent(params).items():
                    params[name].grad = gradient.detach()
                optimizer.step()


def test_plain_steps_are_beside_them() -> None:
    algorithm = made(num_cycles=2)
    plays = algorithm.evaluate(algorithm.init(), 3, 4).details
    plain = made(num_cycles=2, lookahead_alpha=1.0)
    expected = plain.evaluate(plain.init(), 3, 4).details
    np.testing.assert_allclose(plays.plain_distance, expected.distance, rtol=0, atol=1e-14)
    np.testing.assert_allclose(plays.plain_2, expected.path_2, rtol=0, atol=1e-14)
    assert plays.path_1.shape == (3, 9, 3)
    np.testing.assert_allclose(plays.path_1.sum(-1), 1.0)


@pytest.mark.parametrize("task", GAME_SETTINGS)
def test_the_meta_gradient_matches_finite_differences(task: str) -> None:
    """Of the mean log distance per cycle, in α and log γ."""
    algorithm = made(task, num_cycles=4, meta_lr=1.0)
    state = algorithm.init()

    def loss(change: dict[str, float]) -> float:
        update = {name: value + change.get(name, 0.0) for name, value in state.meta.update.items()}
        return algorithm.step(state._replace(meta=MetaParams({}, update))).metrics["log_contraction"]

    slopes = [(loss({name: 1e-5}) - loss({name: -1e-5})) / 2e-5 for name in ("alpha", "log_lr")]
    moments = algorithm.step(state).state.optimizer.exp_avg  # a tenth of the first gradient
    assert [10 * moments[name].item() for name in ("alpha", "log_lr")] == pytest.approx(slopes, rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("task", GAME_SETTINGS)
def test_what_is_learned_brings_held_out_plays_closer(task: str) -> None:
    algorithm = made(task, num_adapt_steps=3)
    state = algorithm.init()
    before = algorithm.evaluate(state, 20, 3)
    for _ in range(60):
        state, metrics = algorithm.step(state)
    after = algorithm.evaluate(state, 20, 3)
    np.testing.assert_array_equal(before.tasks.player_1, after.tasks.player_1)
    assert after.score[-1].max() < 0.1 * before.score[-1].max()
    assert metrics["lookahead_alpha"] == state.meta.update["alpha"].item() != 0.5


def test_without_a_meta_rate_nothing_is_learned() -> None:
    algorithm = made(meta_lr=0.0)
    state = algorithm.init()
    assert algorithm.step(state).state.meta == state.meta


def test_alpha_stays_within_its_bounds() -> None:
    algorithm = made(meta_lr=2.0)
    assert 0.01 <= algorithm.step(algorithm.init()).metrics["lookahead_alpha"] <= 1.0


def test_a_play_that_diverges_is_an_error() -> None:
    algorithm = made("bilinear", player_lr=1e50)
    with pytest.raises(FloatingPointError, match=r"player_lr=1e\+50: the play diverged within 10 cycles; set a"):
        algorithm.step(algorithm.init())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "chess"}, "task='chess': need one of rock_paper_scissors, matching_pennies, bilinear"),
        ({"lookahead_k": 0}, "lookahead_k=0: need at least 1"),
        ({"lookahead_alpha": 2.0}, "lookahead_alpha=2.0: need a value above 0, at most 1"),
        ({"player_lr": 0.0}, "player_lr=0.0: need a value above 0"),
        ({"num_cycles": 0}, "num_cycles=0: need at least 1"),
        ({"outer_k": 4}, "outer_k=4: need 0, or at least lookahead_k=5"),
        ({"task": "bilinear", "task_args": {"singular_values": [-1.0]}}, "singular_values="),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookaheadGamesConfig(**settings)


@pytest.mark.thorough
@pytest.mark.parametrize("task", GAME_SETTINGS)
def test_the_picture_is_drawn(task: str, tmp_path: Any) -> None:
    algorithm = made(task)
    plays = algorithm.evaluate(algorithm.init(), 4, 2).details
    paths, plain = (plays.path_1, plays.path_2), (plays.plain_1, plays.plain_2)
    file = tmp_path / "plays.png"
    plot_plays(paths, plain, plays.distance, plays.plain_distance, file, unit="cycles", label="distance")
    assert file.stat().st_size > 10_000
