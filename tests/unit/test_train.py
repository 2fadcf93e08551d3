"""The order of events in the training loop is what makes a run resumable."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from research.train import train
from research.types import StepResult


class State(NamedTuple):
    iteration: int
    value: float


class Doubling:
    """Each step doubles the value and adds the iteration."""

    def step(self, state: State) -> StepResult:
        value = 2 * state.value + state.iteration
        return StepResult(State(state.iteration + 1, value), {"value": value})


def run(num_iterations, *, state=None, evaluate_every=0, save_every=0, stop_after=None, fail_at=None):
    events = []

    def on_metrics(iteration, metrics):
        events.append(("metrics", iteration, metrics["value"]))
        if iteration == fail_at:
            raise KeyboardInterrupt

    def evaluate(state):
        events.append(("evaluate", state.iteration))
        return -state.value

    def should_stop():
        return stop_after is not None and sum(event[0] == "metrics" for event in events) >= stop_after

    trained = train(
        Doubling(),
        state or State(0, 1.0),
        num_iterations,
        on_metrics=on_metrics,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        flush=lambda: events.append(("flush",)),
        save=lambda state, score: events.append(("save", state.iteration, score)),
        save_every=save_every,
        should_stop=should_stop,
    )
    return trained, events


def test_everything_of_an_iteration_is_flushed_before_its_checkpoint():
    trained, events = run(4, evaluate_every=2, save_every=3)
    assert trained == (State(4, 1 * 16 + 0 + 4 + 4 + 3), "completed")
    assert events == [
        ("metrics", 1, 2.0),
        ("metrics", 2, 5.0),
        ("evaluate", 2),
        ("flush",),
        ("save", 2, -5.0),
        ("metrics", 3, 12.0),
        ("flush",),
        ("save", 3, None),
        ("metrics", 4, 27.0),
        ("evaluate", 4),
        ("flush",),
        ("save", 4, -27.0),
    ]


def test_intervals_of_0_leave_the_checkpoint_at_the_end():
    _, events = run(3)
    assert [event for event in events if event[0] in ("save", "evaluate")] == [("save", 3, None)]


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_stop_finishes_the_iteration_and_saves_it(stop_after):
    trained, events = run(5, stop_after=stop_after)
    assert trained.status == "interrupted"
    assert trained.state.iteration == stop_after
    assert events[-2:] == [("flush",), ("save", stop_after, None)]


def test_a_state_that_is_at_the_end_is_not_touched():
    start = State(7, 3.0)
    assert run(7, state=start) == ((start, "completed"), [])


def test_going_on_from_any_checkpoint_repeats_the_same_events():
    _, whole = run(6, evaluate_every=2, save_every=1)
    for stop_after in range(1, 6):
        stopped, before = run(6, evaluate_every=2, save_every=1, stop_after=stop_after)
        resumed, after = run(6, evaluate_every=2, save_every=1, state=stopped.state)
        assert before + after == whole
        assert resumed.status == "completed"


def test_an_iteration_that_fails_saves_nothing():
    with pytest.raises(KeyboardInterrupt):
        run(5, fail_at=2, save_every=1)
