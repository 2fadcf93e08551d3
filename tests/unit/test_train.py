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


def run(
    num_iterations,
    *,
    state=None,
    events=None,
    evaluate_every=0,
    save_every=0,
    stop_after=None,
    fail_at=None,
    evaluation_fails_at=None,
    error=KeyboardInterrupt,
):
    events = [] if events is None else events

    def on_metrics(iteration, metrics):
        events.append(("metrics", iteration, metrics["value"]))
        if iteration == fail_at:
            raise error

    def evaluate(state):
        if state.iteration == evaluation_fails_at:
            raise error
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


def test_a_program_that_is_stopped_at_once_saves_nothing_more():
    events = []
    with pytest.raises(KeyboardInterrupt):
        run(5, events=events, fail_at=2)
    assert not [event for event in events if event[0] == "save"]


def test_an_error_saves_the_last_finished_iteration_before_it_goes_on():
    events = []
    with pytest.raises(OSError, match="on fire"):
        run(9, events=events, fail_at=7, save_every=5, error=OSError("on fire"))
    assert events[-3:] == [("metrics", 7, 248.0), ("flush",), ("save", 6, None)]
    assert [event[1] for event in events if event[0] == "save"] == [5, 6]


def test_an_iteration_whose_evaluation_fails_is_not_finished():
    events = []
    with pytest.raises(OSError, match="on fire"):
        run(9, events=events, evaluation_fails_at=4, evaluate_every=4, error=OSError("on fire"))
    assert events[-2:] == [("flush",), ("save", 3, None)]


def test_an_error_right_after_a_checkpoint_does_not_write_it_again():
    events = []
    with pytest.raises(OSError, match="on fire"):
        run(9, events=events, fail_at=6, save_every=5, error=OSError("on fire"))
    assert [event for event in events if event[0] == "save"] == [("save", 5, None)]


@pytest.mark.parametrize(
    ("seconds", "save_every", "expected"),
    [
        (0, 0, [9]),
        (3, 0, [3, 6, 9]),
        (4, 0, [4, 8, 9]),
        (4, 3, [3, 6, 9]),
        (3, 4, [3, 4, 7, 8, 9]),
        (0.5, 0, list(range(1, 10))),
    ],
)
def test_a_checkpoint_is_written_when_the_last_one_is_old(seconds, save_every, expected):
    saved, now = [], [0]  # an iteration takes a second
    train(
        Doubling(),
        State(0, 1.0),
        9,
        evaluate=lambda state: 0.0,
        evaluate_every=0,
        save=lambda state, score: saved.append(state.iteration),
        save_every=save_every,
        save_seconds=seconds,
        should_stop=lambda: False,
        on_metrics=lambda iteration, metrics: now.append(iteration),
        clock=lambda: now[-1],
    )
    assert saved == expected
