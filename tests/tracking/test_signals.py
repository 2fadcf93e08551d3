from __future__ import annotations

import signal
import threading

import pytest

from research.tracking.signals import Stopped, StopSignals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_flag(signum):
    before = {number: signal.getsignal(number) for number in StopSignals.HANDLED}
    with StopSignals() as stop:
        assert not stop.requested()
        signal.raise_signal(signum)
        assert stop.requested()
        assert stop.signum == signum
    assert {number: signal.getsignal(number) for number in StopSignals.HANDLED} == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_after_that_stops_at_once(first):
    with StopSignals() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.signum == first


def test_the_exit_code_tells_the_signal():
    assert Stopped("", signal.SIGINT).exit_code == 130
    assert Stopped("", signal.SIGTERM).exit_code == 143


def test_outside_the_main_thread_nothing_happens():
    entered = []

    def work():
        with StopSignals() as stop:
            entered.append(stop.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [False]
