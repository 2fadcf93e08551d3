"""Lookahead-minmax: the simultaneous gradient steps of two players inside Lookahead, whose α and rate are meta-learned.

    repeat
        draw initial parameters (x, y) of the players
        num_cycles times:                                                 ω = (x, y), F(ω) = (∇ₓL₁(ω), ∇ᵧL₂(ω))
            φ ← ω;  k times: ω ← ω − γ F(ω)                               both players at once
            ω ← φ + α (ω − φ)                                             both players at once
        (α, log γ) ← Adam(∇ of the mean log distance to the equilibrium), differentiating through the play

Chavdarova, Pagliardini, Stich, Fleuret & Jaggi 2021, arXiv:2006.14567, algorithm 1; nested, with slow weights of the
slow weights (`outer_k`), as in its appendix. `meta_lr=0` plays with α and γ as they are set.

Differs from the paper: the games and their gradients are exact; the paper trains GANs. The paper chooses α and γ by
hand; here they can also be learned, on games whose equilibrium is known, and are measured on held-out plays.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research import rng
from research.algorithms.config import AlgorithmConfig
from research.evaluation import AdaptationCurve, check_num_adapt_steps
from research.optim.differentiable import AdamState, UpdateRule, adam, adam_start, sgd
from research.optim.differentiable_lookahead import lookahead
from research.optim.flat import norm
from research.optim.lookahead_settings import LookaheadConfig
from research.oracles.games import Game, make_game, starts
from research.tasks.splits import Evaluated, SplitName, evaluation_stream
from research.types import MetaParams, Params, StepResult
from research.validation import at_least, in_unit_interval, positive, positive_fraction

_LEAST_ALPHA = 0.01
_LEAST_DISTANCE = 1e-12
"""Added to every distance before its logarithm is taken, so that the meta-loss is finite at the equilibrium."""


@dataclass(frozen=True)
class LookaheadGamesConfig(AlgorithmConfig, LookaheadConfig):
    """Settings of the players and of the meta-learning, besides those of every algorithm and of Lookahead.

    A task is a pair of initial parameters, one for each player.

    Attributes:
        task: The game, one of `research.oracles.games.GAMES`.
        start_scale: Standard deviation of the initial logits or coordinates.
        player_lr: Learning rate γ of the players; its initial value if it is learned.
        momentum: Momentum of the players' steps, from 0 to 1.
        lookahead_k: Steps k between two syncs, at least 1; 1 with `lookahead_alpha` 1 is plain simultaneous descent.
        outer_k: Steps between the syncs of a second Lookahead around the first; 0 for none.
        outer_alpha: Step size α of the second Lookahead, which is not learned.
        num_cycles: Cycles of k steps in a play of training, and between two entries of an evaluation.
        num_adapt_steps: Entries of an evaluation after the first.
        meta_lr: Step size of Adam on (α, log γ); 0 keeps both constant.
    """

    task: str = "rock_paper_scissors"
    start_scale: float = 1.0
    player_lr: float = 1.0
    momentum: float = 0.0
    lookahead_k: int = 5
    outer_k: int = 0
    outer_alpha: float = 0.5
    num_cycles: int = 10
    num_adapt_steps: int = 20
    meta_lr: float = 0.02
    num_iterations: int = 50
    dtype: Literal["float32", "float64"] = "float64"

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        LookaheadConfig.__post_init__(self)
        positive(self, "start_scale", "player_lr")
        in_unit_interval(self, "momentum")
        at_least(self, 0, "outer_k", "meta_lr")
        at_least(self, 1, "num_cycles", "lookahead_k")
        positive_fraction(self, "outer_alpha")
        if 0 < self.outer_k < self.lookahead_k:
            raise ValueError(
                f"outer_k={self.outer_k}: need 0, or at least lookahead_k={self.lookahead_k}; an earlier sync of the "
                "second Lookahead restarts the cycle of the first, which then never ends"
            )
        make_game(self.task, **self.task_args)  # checks the settings of its own


class Starts(NamedTuple):
    """A task batch: the initial parameters of player 1, `[plays, m]`, and of player 2, `[plays, n]`."""

    player_1: NDArray[np.float64]
    player_2: NDArray[np.float64]


class Plays(NamedTuple):
    """Plays from held-out initial parameters, with Lookahead and by the same number of plain simultaneous steps.

    Attributes:
        path_1: Strategies of player 1 with Lookahead, before the first cycle and after each, `[plays, cycles + 1, m]`.
        path_2: Strategies of player 2 with Lookahead, `[plays, cycles + 1, n]`.
        plain_1: Strategies of player 1 by plain steps, `[plays, cycles + 1, m]`.
        plain_2: Strategies of player 2 by plain steps, `[plays, cycles + 1, n]`.
        distance: Distance to the equilibrium with Lookahead, `[plays, cycles + 1]`.
        plain_distance: Distance to the equilibrium by plain steps, `[plays, cycles + 1]`.
        exploitability: Exploitability with Lookahead, `[plays, cycles + 1]`.
    """

    path_1: NDArray[np.float64]
    path_2: NDArray[np.float64]
    plain_1: NDArray[np.float64]
    plain_2: NDArray[np.float64]
    distance: NDArray[np.float64]
    plain_distance: NDArray[np.float64]
    exploitability: NDArray[np.float64]


class LookaheadGamesState(NamedTuple):
    """The state of the training between two iterations.

    Attributes:
        iteration: Number of finished iterations.
        meta: The learned scalars `alpha` and `log_lr` in `update`; `model` is empty.
        optimizer: Adam's moments of both.
    """

    iteration: int
    meta: MetaParams
    optimizer: AdamState


class LookaheadGames:
    """Lookahead-minmax, see the module."""

    Config: ClassVar[type] = LookaheadGamesConfig

    def __init__(self, config: LookaheadGamesConfig):
        self.config = config
        self.game: Game = make_game(config.task, **config.task_args)
        self.dtype: torch.dtype = getattr(torch, config.dtype)

    def init(self) -> LookaheadGamesState:
        """Returns the state before the first iteration."""
        scalar = functools.partial(torch.tensor, dtype=self.dtype, device=self.config.device)
        update = {"alpha": scalar(self.config.lookahead_alpha), "log_lr": scalar(self.config.player_lr).log()}
        return LookaheadGamesState(0, MetaParams({}, update), adam_start(update))

    def step(self, state: LookaheadGamesState) -> StepResult:
        """Plays from `meta_batch_size` new initial parameters, and makes a step of Adam on α and log γ.

        Raises:
            FloatingPointError: The play diverged, so that its meta-gradient is not finite.
        """
        begin, config = time.perf_counter(), self.config
        start = self._starts("starts", config.meta_batch_size, state.iteration)
        update = {name: value.detach().requires_grad_() for name, value in state.meta.update.items()}
        end = list(self._play(start, config.num_cycles, self._rule(update), update["log_lr"].exp()))[-1]
        rate = (self._log_distance(end) - self._log_distance(start)).mean() / config.num_cycles
        gradient = dict(zip(update, torch.autograd.grad(rate, list(update.values())), strict=True))
        if not all(value.isfinite() for value in gradient.values()):
            lr = state.meta.update["log_lr"].exp().item()
            raise FloatingPointError(
                f"player_lr={lr:.3g}: the play diverged within {config.num_cycles} cycles; set a lower player_lr, "
                "or a lower meta_lr"
            )
        moved, optimizer = adam(state.meta.update, gradient, state.optimizer, config.meta_lr)
        end = {name: value.detach() for name, value in end.items()}  # without the graph, for metrics
        learned = {**moved, "alpha": moved["alpha"].clamp(_LEAST_ALPHA, 1.0)}
        metrics = {
            "distance_pre": float(self.game.distance(start).mean()),
            "distance_post": float(self.game.distance(end).mean()),
            "exploitability_post": float(self.game.exploitability(end).mean()),
            "log_contraction": rate.item(),
            "gradient_norm": norm(gradient),
            "lookahead_alpha": float(learned["alpha"]),
            "player_lr": float(learned["log_lr"].exp()),
            "time/update_seconds": time.perf_counter() - begin,
        }
        return StepResult(LookaheadGamesState(state.iteration + 1, MetaParams({}, learned), optimizer), metrics)

    @torch.no_grad()
    def evaluate(
        self, state: LookaheadGamesState, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
    ) -> AdaptationCurve:
        """The distance to the equilibrium every `num_cycles` cycles of plays; `details` are the `Plays`."""
        check_num_adapt_steps(num_adapt_steps)
        start, update = self._starts(evaluation_stream(split), num_tasks), state.meta.update
        lr = update["log_lr"].exp()
        num_cycles = num_adapt_steps * self.config.num_cycles
        ours = list(self._play(start, num_cycles, self._rule(update), lr))
        plain = list(self._play(start, num_cycles, self._players(), lr))
        path, plain_path = self._strategies(ours), self._strategies(plain)
        plays = Plays(
            path_1=path["player_1"],
            path_2=path["player_2"],
            plain_1=plain_path["player_1"],
            plain_2=plain_path["player_2"],
            distance=_over_time(self.game.distance, ours),
            plain_distance=_over_time(self.game.distance, plain),
            exploitability=_over_time(self.game.exploitability, ours),
        )
        return AdaptationCurve(
            "distance to the equilibrium",
            plays.distance.T[:: self.config.num_cycles],
            Starts(_array(start["player_1"]), _array(start["player_2"])),
            unit=f"times {self.config.num_cycles} cycles of {self.config.lookahead_k} steps",
            lower_is_better=True,
            details=plays,
            evaluated=Evaluated(split, split != "train", "the starts of a play are a new draw"),
        )

    def _players(self) -> UpdateRule:
        return functools.partial(sgd, momentum=self.config.momentum)

    def _rule(self, update: Params) -> UpdateRule:
        """The players' update rule inside one or two Lookaheads."""
        config = self.config
        settings: dict[str, Any] = {"k": config.lookahead_k, "inner_state": config.lookahead_inner_state}
        rule: UpdateRule = functools.partial(lookahead, rule=self._players(), alpha=update["alpha"], **settings)
        if not config.outer_k:
            return rule
        return functools.partial(lookahead, rule=rule, k=config.outer_k, alpha=config.outer_alpha)

    def _play(self, params: Params, num_cycles: int, rule: UpdateRule, lr: Tensor) -> Iterator[Params]:
        """Yields the players' parameters before the first cycle and after each."""
        rule_state: Any = None
        yield params
        for _ in range(num_cycles):
            for _ in range(self.config.lookahead_k):
                params, rule_state = rule(params, self.game.descent(params), rule_state, lr)
            yield params

    def _starts(self, stream: str, num_plays: int, *index: int) -> Params:
        generator = rng.generator(self.config.seed, stream, *index)
        drawn = starts(self.game, num_plays, self.config.start_scale, generator)
        return {name: value.to(self.config.device, self.dtype) for name, value in drawn.items()}

    def _strategies(self, points: list[Params]) -> dict[str, NDArray[np.float64]]:
        strategies = [self.game.strategies(point) for point in points]
        return {name: np.stack([_array(each[name]) for each in strategies], 1) for name in strategies[0]}

    def _log_distance(self, params: Params) -> Tensor:
        return (self.game.distance(params) + _LEAST_DISTANCE).log()


def _array(value: Tensor) -> NDArray[np.float64]:
    return value.double().cpu().numpy()


def _over_time(measure: Callable[[Params], Tensor], points: list[Params]) -> NDArray[np.float64]:
    """A measure of the players' parameters at each point of the plays, `[plays, time]`."""
    return np.stack([_array(measure(point)) for point in points], 1)
