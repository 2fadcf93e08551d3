from __future__ import annotations

import signal
import threading

import pytest

from research.tracking.signals import PREEMPT_SIGNAL, Stopped, StopSignals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_a_flag(signum):
    before = {number: signal.getsignal(number) for number in StopSignals().handled}
    with StopSignals() as stop:
        assert not stop.requested()
        signal.raise_signal(signum)
        assert stop.requested()
        assert stop.signum == signum
    assert {number: signal.getsignal(number) for number in StopSignals().handled} == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_ctrl_c_after_that_stops_at_once(first):
    with StopSignals() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.signum == first


def test_the_exit_code_tells_the_signal():
    assert Stopped("", signal.SIGINT).exit_code == 130
    assert Stopped("", signal.SIGTERM).exit_code == 143
    assert Stopped("", signal.SIGUSR1, preempted=True).exit_code == 85


@pytest.mark.parametrize(("signals", "code"), [(("USR1", "TERM"), 85), (("TERM", "USR1"), 143), (("INT",), 130)])
def test_the_first_signal_decides_the_exit_code(signals, code):
    with StopSignals() as stop:
        for name in signals:
            signal.raise_signal(signal.Signals[f"SIG{name}"])
    assert stop.stopped("").exit_code == code


def test_the_preemption_signal_can_be_chosen(monkeypatch):
    monkeypatch.setenv(PREEMPT_SIGNAL, "TERM")
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.stopped("").exit_code == 85
    monkeypatch.setenv(PREEMPT_SIGNAL, "SIGUSR2")
    assert signal.SIGUSR2 in StopSignals().handled
    monkeypatch.setenv(PREEMPT_SIGNAL, "KILL")
    with pytest.raises(ValueError, match="METAPOLICY_PREEMPT_SIGNAL='KILL': need one of USR1"):
        StopSignals()


def test_outside_the_main_thread_nothing_happens():
    entered = []

    def work():
        with StopSignals() as stop:
            entered.append(stop.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [False]


def test_a_hang_up_is_a_stop_unless_it_was_ignored_at_the_start():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.stopped("").exit_code == 129
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested()
    finally:
        signal.signal(signal.SIGHUP, before)
