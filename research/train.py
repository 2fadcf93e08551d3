"""The training loop: step → log → evaluate → save. Files, printing and tracking are left to callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from research.types import Metrics

if TYPE_CHECKING:
    from research.algorithms import Algorithm


class Trained(NamedTuple):
    """The end of a training.

    Attributes:
        state: The state after the last finished iteration.
        status: `"completed"`, or `"interrupted"` if `should_stop` ended it.
    """

    state: Any
    status: Literal["completed", "interrupted"]


def train(
    algorithm: Algorithm,
    state: Any,
    num_iterations: int,
    *,
    on_metrics: Callable[[int, Metrics], None] = lambda iteration, metrics: None,
    evaluate: Callable[[Any], float],
    evaluate_every: int,
    flush: Callable[[], None] = lambda: None,
    save: Callable[[Any, float | None], None] = lambda state, score: None,
    save_every: int = 0,
    save_seconds: float = 0.0,
    should_stop: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains until `num_iterations` are finished or `should_stop` returns True.

    Everything that iteration i reports, its evaluation included, is flushed before the checkpoint of iteration i is
    written. A run that is killed at any moment can therefore be resumed from a checkpoint whose records are complete:
    cut at its iteration, they are those of a run that was never stopped.

    If an iteration raises an error, the checkpoint of the last finished iteration is written before the error leaves.

    Args:
        algorithm: The algorithm; its `step` must be a pure function of the state.
        state: The first state: the initial or a restored one.
        num_iterations: Number of finished iterations at the end, including those before `state`.
        on_metrics: Receives (finished iterations, metrics) after every iteration.
        evaluate: Function of a state that returns its score, higher is better. It records other results itself.
        evaluate_every: Iterations between evaluations; 0 for none.
        flush: Writes to disk everything that was recorded.
        save: Writes a checkpoint of (state, its score or None).
        save_every: Iterations between checkpoints; 0 for only those at the end, at a stop and at evaluations.
        save_seconds: Seconds without a checkpoint after which the next iteration writes one, too; 0 for no limit.
        should_stop: Called after every iteration; the checkpoint of the iteration is written before the loop ends.
        clock: Returns the time in seconds.
    """
    stopped = False
    finished, saved, saved_at = state, state.iteration, clock()
    try:
        while finished.iteration < num_iterations and not stopped:
            state, metrics = algorithm.step(finished)
            on_metrics(state.iteration, metrics)
            score = evaluate(state) if is_due(state.iteration, evaluate_every) else None
            finished = state
            stopped = should_stop()
            is_last = stopped or state.iteration >= num_iterations
            is_late = 0 < save_seconds <= clock() - saved_at
            if is_last or is_late or score is not None or is_due(state.iteration, save_every):
                flush()
                save(state, score)
                saved, saved_at = state.iteration, clock()
    except Exception:
        if finished.iteration > saved:
            flush()
            save(finished, None)
        raise
    return Trained(finished, "interrupted" if stopped else "completed")


def is_due(iteration: int, interval: int) -> bool:
    """Returns whether an action that happens every `interval` iterations is due after this one; 0 means never."""
    return interval > 0 and iteration % interval == 0
