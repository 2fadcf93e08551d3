"""The training loop: step → log → evaluate → save. Knows no file, no printing and no tracker: callbacks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from research.types import Metrics

if TYPE_CHECKING:
    from research.algorithms import Algorithm


class Trained(NamedTuple):
    """Where training ended.

    Attributes:
        state: The state after the last finished iteration.
        status: `"completed"`, or `"interrupted"` if it was asked to stop.
    """

    state: Any
    status: Literal["completed", "interrupted"]


def train(
    algorithm: Algorithm,
    state: Any,
    num_iterations: int,
    *,
    on_metrics: Callable[[int, Metrics], None],
    evaluate: Callable[[Any], float],
    evaluate_every: int,
    flush: Callable[[], None],
    save: Callable[[Any, float | None], None],
    save_every: int,
    should_stop: Callable[[], bool],
) -> Trained:
    """Trains until `num_iterations` are finished or a stop is asked for.

    Everything that iteration i reports, its evaluation included, is flushed before the checkpoint of iteration i is
    written. So a run that is killed at any moment goes on from a checkpoint whose records are complete: cut at its
    iteration, they are those of a run that was never stopped.

    An error loses no finished iteration: the checkpoint of the last one is written, due or not, before it goes on.

    Args:
        algorithm: What is trained; its `step` must be a pure function of the state.
        state: Where to start: the initial state, or a restored one.
        num_iterations: Finished iterations at the end, those before `state` included.
        on_metrics: Receives (finished iterations, metrics) after every iteration.
        evaluate: State → score, more is better. It hands whatever else it finds to the record itself.
        evaluate_every: Iterations between evaluations; 0 for none.
        flush: Makes durable what was handed to the record.
        save: Writes a checkpoint of (state, its score or None).
        save_every: Iterations between checkpoints; 0 for none but those at the end, at a stop and at evaluations.
        should_stop: Asked after every iteration; the iteration's checkpoint is written before the loop ends.
    """
    stopped = False
    finished, saved = state, state.iteration
    try:
        while finished.iteration < num_iterations and not stopped:
            state, metrics = algorithm.step(finished)
            on_metrics(state.iteration, metrics)
            score = evaluate(state) if is_due(state.iteration, evaluate_every) else None
            finished = state
            stopped = should_stop()
            is_last = stopped or state.iteration >= num_iterations
            if is_last or score is not None or is_due(state.iteration, save_every):
                flush()
                save(state, score)
                saved = state.iteration
    except Exception:
        if finished.iteration > saved:
            flush()
            save(finished, None)
        raise
    return Trained(finished, "interrupted" if stopped else "completed")


def is_due(iteration: int, interval: int) -> bool:
    """Whether something happens after this iteration that happens every `interval` iterations; if 0, never."""
    return interval > 0 and iteration % interval == 0
