"""On a real Slurm: arrays that are preempted, cancelled, killed and requeued end as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
import torch
import toy_experiment

from research import checkpoint
from research.tracking import lock, records

RUNS = {"num_iterations": 60, "checkpoint_interval": 7, "eval_interval": 20, "pause": 0.1}


def reference(directory, seed):
    """(metrics without times, final state) of a run that nobody disturbs."""
    settings = {**RUNS, "pause": 0.0, "seed": seed, "runs_dir": str(directory / "reference")}
    run = toy_experiment.make().run(config_updates=settings)
    return outcome(directory / "reference" / str(run._id))


def outcome(directory):
    rows = [(row["step"], {name: value for name, value in row["values"].items() if not name.startswith("time/")})
            for row in records.read_rows(directory)]  # fmt: skip
    return rows, checkpoint.load(directory / "checkpoints" / "latest.pt").state


def call(*words):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def task(desk, run, name="toy"):
    return next(state["slurm"].split()[0] for state in desk.status(name) if state["run"] == run)


def iterations(desk):
    return {state["run"]: state["iteration"] for state in desk.status()}


@pytest.mark.slow
def test_an_array_that_everything_happens_to_ends_as_if_nothing_had(desk, cluster):
    desk.slurm("submit", desk.sweep(fixed=RUNS, seeds=[1, 2, 3, 4]))
    desk.wait(lambda: min(iterations(desk).values()) >= 5, what="all at work")

    for run in range(1, 5):
        call("scancel", "--signal=USR1", task(desk, run))
    desk.wait(lambda: set(desk.states().values()) == {"requeued"}, 30, "saved, and put back into the queue")
    before = iterations(desk)
    assert all(desk.record(run)["status"] == "INTERRUPTED" for run in range(1, 5))
    assert all(5 <= iteration < 60 for iteration in before.values())
    desk.wait(lambda: all(iterations(desk)[run] > before[run] + 3 for run in before), what="going on")

    cancelled, killed, requeued = 1, 2, 3
    call("scancel", task(desk, cancelled))
    os.kill(lock.holder(desk.directory / "runs" / str(killed)).pid, signal.SIGKILL)
    call("scontrol", "requeue", task(desk, requeued))
    desk.wait(lambda: desk.states()[cancelled] == "interrupted" and desk.states()[killed] == "stale", 40)
    assert "1 runs to continue" in desk.slurm("retry", "toy", "--failed")
    desk.wait(lambda: all(desk.states()[run] == "completed" for run in (2, 3, 4)), what="all but the cancelled one")
    assert desk.states()[cancelled] == "interrupted", "what was cancelled came back"
    desk.slurm("retry", "toy")
    desk.wait(lambda: set(desk.states().values()) == {"completed"})

    assert sorted(path.name for path in (desk.directory / "runs").glob("[0-9]*")) == ["1", "2", "3", "4"]
    for run in range(1, 5):
        rows, state = outcome(desk.directory / "runs" / str(run))
        expected_rows, expected_state = reference(desk.directory, seed=run)
        assert [step for step, _ in rows] == list(range(1, 61))
        assert rows == expected_rows
        assert torch.equal(state["params"]["x"], expected_state["params"]["x"])
        assert torch.equal(state["velocity"]["value"], expected_state["velocity"]["value"])
        record = desk.record(run)
        assert record["status"] == "COMPLETED"
        assert len(record["resumed"]) == (1 if run == 4 else 2)


def test_a_run_that_is_preempted_makes_room_and_comes_back(desk, cluster):
    desk.slurm("submit", desk.sweep(fixed={**RUNS, "seed": 5}))
    desk.wait(lambda: iterations(desk)[1] >= 3)
    call("sbatch", "--partition=urgent", "--ntasks=8", "--output=/dev/null", "--wrap=sleep 1")
    desk.wait(lambda: desk.states()[1] == "requeued", 15)
    assert "status 85" in desk.slurm("logs", 1)
    desk.wait(lambda: desk.states()[1] == "completed")
    rows, state = outcome(desk.directory / "runs" / "1")
    expected_rows, expected_state = reference(desk.directory, seed=5)
    assert rows == expected_rows and torch.equal(state["params"]["x"], expected_state["params"]["x"])
    assert len(desk.record(1)["resumed"]) == 1


def test_overrides_arrive_as_they_are_and_nothing_runs(desk, cluster):
    trap = desk.directory / "trapped"
    remark = f"""it's "quoted" $(touch {trap}) `touch {trap}` ; touch {trap} %A & \\n\nand a second line | {{}} ünï"""
    desk.slurm("submit", desk.sweep(fixed={"num_iterations": 1, "remark": remark}))
    desk.wait(lambda: desk.states()[1] == "completed")
    assert desk.record(1, "config.json")["remark"] == remark
    assert not trap.exists()


def test_what_follows_a_run_follows_it_if_it_completes(desk, cluster):
    # Without a rate, the toy fails in its first step.
    sweep = desk.sweep(
        grid={"lr": [[], 0.1]},
        fixed={"num_iterations": 3},
        then=[{"command": "evaluate", "fixed": {"num_adapt_steps": 4}}],
    )
    desk.slurm("submit", sweep)
    desk.wait(lambda: desk.states() == {1: "failed", 2: "completed", 3: "missing", 4: "completed"})
    assert desk.record(4)["command"] == "evaluate"
    assert len(desk.record(4)["result"]["score"]) == 5
    failed = desk.status()[0]
    assert "IndexError" in failed["note"]
    assert "IndexError" in desk.slurm("logs", 1)
    # The first does no better, and what follows it is dropped again; nothing else is repeated.
    assert "2 runs to continue" in desk.slurm("retry", "toy", "--failed")
    desk.wait(lambda: desk.states()[1] == "failed" and desk.record(1)["resumed"] != [])
    desk.wait(lambda: desk.states() == {1: "failed", 2: "completed", 3: "missing", 4: "completed"})
