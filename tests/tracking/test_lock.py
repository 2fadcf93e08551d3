from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from research.tracking import lock as lock_module
from research.tracking.lock import FILE, STALE_SECONDS, BusyError, Lock, holder


def foreign(directory, age, **changes):
    """What a process of another machine left behind."""
    entry = {"host": "elsewhere", "pid": 1, "token": "theirs", "slurm_job": "77"} | changes
    (directory / FILE).write_text(json.dumps(entry))
    then = time.time() - age
    os.utime(directory / FILE, (then, then))


@pytest.fixture
def without_kernel_locks(monkeypatch):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(lock_module, "_SETTLE_SECONDS", 0.01)


def test_one_process_holds_it_and_says_who_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    held = Lock(tmp_path)
    found = holder(tmp_path)
    assert (found.host, found.pid, found.slurm_job) == (socket.gethostname(), os.getpid(), "12")
    assert not found.is_stale and held.is_mine()
    with pytest.raises(BusyError, match=f"another process writes .* \\(process {os.getpid()} on .*, Slurm job 12"):
        Lock(tmp_path)
    held.release()
    held.release()
    assert holder(tmp_path) is None
    Lock(tmp_path).release()


def test_that_of_a_killed_process_is_taken_over_at_once(tmp_path):
    code = f"from research.tracking.lock import Lock; from pathlib import Path; import time\n\
Lock(Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match=f"process {process.pid}"):
        Lock(tmp_path)
    process.kill()
    process.communicate()
    assert holder(tmp_path).pid == process.pid  # it still stands there
    Lock(tmp_path).release()


@pytest.mark.parametrize("age", [0, STALE_SECONDS - 20])
def test_another_machine_is_believed_while_it_was_seen_alive(tmp_path, age):
    foreign(tmp_path, age)
    with pytest.raises(BusyError, match="process 1 on elsewhere, Slurm job 77"):
        Lock(tmp_path)
    assert holder(tmp_path).token == "theirs"


@pytest.mark.parametrize("age", [STALE_SECONDS + 20, -STALE_SECONDS - 20])
def test_another_machine_that_fell_silent_is_taken_over(tmp_path, age, monkeypatch):
    """Also if its clock was ahead, or that of the file system jumped back."""
    monkeypatch.setattr(lock_module, "_SETTLE_SECONDS", 0.01)
    foreign(tmp_path, age)
    assert holder(tmp_path).is_stale
    held = Lock(tmp_path)
    assert held.is_mine()
    held.release()


def test_who_lost_it_knows(tmp_path):
    held = Lock(tmp_path)
    foreign(tmp_path, 0)
    assert not held.is_mine()
    held.release()
    assert holder(tmp_path).token == "theirs"  # and does not take the name of the other away


def test_without_locks_of_the_file_system_the_name_decides(tmp_path, without_kernel_locks):
    held = Lock(tmp_path)
    with pytest.raises(BusyError, match=f"process {os.getpid()}"):
        Lock(tmp_path)
    held.release()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    foreign(tmp_path, 0, host=socket.gethostname(), pid=ended.pid)
    Lock(tmp_path).release()


def test_of_two_that_take_over_one_gives_way(tmp_path, without_kernel_locks, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: foreign(tmp_path, 0))  # the other writes its name meanwhile
    with pytest.raises(BusyError, match="on elsewhere"):
        Lock(tmp_path)


def test_it_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "TOUCH_SECONDS", 0.01)
    held = Lock(tmp_path)
    os.utime(tmp_path / FILE, (0, 0))
    until = time.monotonic() + 20
    while holder(tmp_path).is_stale and time.monotonic() < until:
        time.sleep(0.01)
    assert holder(tmp_path).age < 20
    held.release()


@pytest.mark.parametrize("content", ["", "{", '{"host": "h"}', "[]"])
def test_a_torn_name_is_nobodys(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert holder(tmp_path) is None
    Lock(tmp_path).release()
