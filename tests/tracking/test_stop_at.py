"""`--stop-at` ends a training early; later commands continue it as if it had never stopped."""

from __future__ import annotations

import signal

import pytest
from toy_experiment import OPTIONS

from research.tracking.signals import Halted, Stopped

ENSURE = f"ensure with run=7 {OPTIONS}"


@pytest.fixture
def reference(lab):
    lab.run(f"with {OPTIONS}")
    return 1


def test_a_run_that_stops_twice_ends_like_one_that_never_stopped(lab, reference, capsys):
    for iteration in (3, 8):
        assert lab.run(f"{ENSURE} --stop-at={iteration}") is None
        assert "Stopped after iteration" in capsys.readouterr().out
        found = lab.record(7)
        assert (lab.exit_code, found["status"], lab.state(7)["iteration"]) == (0, "INTERRUPTED", iteration)
        assert found["result"] is None and [step for step, _ in lab.metrics(7)] == list(range(1, iteration + 1))
    assert lab.record(7, "config.json")["num_iterations"] == 12
    lab.run(ENSURE)
    lab.assert_same(7, reference)
    assert lab.record(7)["status"] == "COMPLETED"
    assert [entry["iteration"] for entry in lab.record(7)["resumed"]] == [3, 8]


def test_the_end_of_a_run_is_its_end_also_if_it_is_to_stop_there_or_later(lab, reference):
    lab.run(f"{ENSURE} --stop-at=12")
    lab.assert_same(7, reference)
    lab.run(f"{ENSURE} --stop-at=4")  # it is complete
    lab.assert_same(7, reference)
    lab.run(f"train with {OPTIONS} --stop-at=100")
    lab.assert_same(8, reference)


def test_a_run_that_is_there_already_trains_nothing(lab, reference):
    lab.run(f"{ENSURE} --stop-at=8")
    lab.run(f"{ENSURE} --stop-at=5")
    assert (lab.exit_code, lab.record(7)["status"], lab.state(7)["iteration"]) == (0, "INTERRUPTED", 8)
    lab.run("resume with run=7 --stop-at=9")
    assert (lab.exit_code, lab.state(7)["iteration"]) == (0, 9)
    lab.run("resume with run=7")
    lab.assert_same(7, reference)


def test_a_signal_before_that_stops_it_as_ever(lab, after_step):
    after_step(4, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(f"{ENSURE} --stop-at=6")
    assert (lab.exit_code, lab.state(7)["iteration"]) == (85, 4)


def test_a_program_receives_an_exception(lab):
    import toy_experiment

    with pytest.raises(Halted, match="Stopped after iteration 2 of 10") as raised:
        toy_experiment.make().run("train", options={"--stop-at": 2})
    assert isinstance(raised.value, Stopped) and raised.value.exit_code == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --stop-at=0", "--stop-at=0: need an iteration, an integer of at least 1"),
        ("train --stop-at=2.5", "--stop-at=2.5: need an iteration"),
        ("evaluate with run=7 --stop-at=2", "--stop-at=2: evaluate does not train; need one of train, resume, ensure"),
    ],
)
def test_what_is_no_stop_is_refused(lab, capsys, line, message):
    lab.run(line)
    assert lab.exit_code == 2 and message in capsys.readouterr().err
    assert not (lab.directory / "runs").exists()
