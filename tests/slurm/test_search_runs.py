"""Searches that train: every trial is a run, whatever happens to its worker."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import search_lives
import torch
import toy_experiment
import yaml

from analysis.__main__ import main as analyse
from research.tracking.records import read_rows
from slurm import guard
from slurm.cli import _parser
from slurm.folder import Array
from slurm.profile import load_profile
from slurm.search import begin as beginning
from slurm.search import worker
from slurm.search.file import load_search
from slurm.search.folder import StudyFolder, find_study
from slurm.search.studies import open_study
from slurm.task import ROOT

TOY = "tests/support/array_experiment.py"
FILE = {
    "experiment": TOY,
    "fixed": {"num_iterations": 9, "eval_interval": 1, "checkpoint_interval": 2},
    "space": {
        "lr": {"log": [1e-3, 0.5]},
        "surface.size": {"int": [1, 4]},
        "optimizer": {"choice": ["sgd", "momentum"]},
    },
    "objective": {"metric": "eval/score_after_0"},
    "budget": {"trials": 9},
    "method": {"asha": {"min_iterations": 1}},
}


def write(directory, name="toy", **sections):
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**FILE, **sections}))
    return path


def begin(path):
    """The folder of a new study."""
    arguments = _parser().parse_args(["search", str(path), "--no-snapshot", "--local"])
    return beginning._new(arguments, load_search(path), load_profile("local"))


def state(run, name="latest"):
    return torch.load(Path("runs") / str(run) / "checkpoints" / f"{name}.pt", weights_only=True)["state"]


def same(left, right):
    pairs = zip(torch.utils._pytree.tree_leaves(left), torch.utils._pytree.tree_leaves(right), strict=True)
    return all(torch.equal(torch.as_tensor(one), torch.as_tensor(other)) for one, other in pairs)


def rows(run):
    return [(row["step"], {key: value for key, value in row["values"].items() if not key.startswith("time/")})
            for row in read_rows(Path("runs") / str(run))]  # fmt: skip


def facts(folder):
    return [trial._replace(run=0, seconds=0) for trial in open_study(folder).trials()]


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr("slurm.search.slices._execute", search_lives.execute)


def test_a_promoted_trial_is_the_run_that_never_stopped(desk, in_this_process):
    folder = begin(write(desk.directory))
    assert worker.work(folder.path / "search.yaml", 0) == 0
    trials = open_study(folder).trials()
    assert len(trials) == 9 and [trial.state for trial in trials].count("completed") == 1
    for trial in trials:
        found = desk.record(trial.run)
        assert found["meta"]["comment"] == f"search toy-1, trial {trial.number}"
        assert found["status"] == ("COMPLETED" if trial.state == "completed" else "INTERRUPTED")
        assert [step for step, _ in rows(trial.run)] == list(range(1, trial.reached + 1))
    best = next(trial for trial in trials if trial.state == "completed")
    assert len(desk.record(best.run)["resumed"]) == 2
    shown = desk.slurm("search", "toy", "--best")
    assert f"# trial {best.number}, run {best.run}: eval/score_after_0 = {best.value:.6g}" in shown
    command = shlex.split(shown.splitlines()[-1])
    assert command[:3] == ["python", TOY, "with"]
    again = toy_experiment.make().run_commandline(command[1:])
    assert again.result == desk.record(best.run)["result"]
    assert rows(again._id) == rows(best.run) and same(state(again._id), state(best.run))
    assert same(state(again._id, "best"), state(best.run, "best"))
    assert "9 of 9 trials" in desk.slurm("search", "toy.yaml", "--status")
    assert json.loads(desk.slurm("search", "toy-1", "--status", "--json"))[best.number]["state"] == "completed"
    assert "9 of 9 trials" in desk.slurm("status", "toy")
    assert not list((folder.path / "workers").iterdir())


def test_the_best_member_of_a_population_is_evaluated_and_no_training_is_named(desk, in_this_process, capsys):
    space, budget = {"lr": {"log": [1e-3, 0.5]}}, {"until": "2100-01-01"}
    folder = begin(write(desk.directory, space=space, budget=budget, method={"pbt": {"members": 2, "interval": 3}}))
    assert worker.work(folder.path / "search.yaml", 0) == 0
    trials = open_study(folder).trials()
    best = max(trials, key=lambda trial: trial.value)
    shown = desk.slurm("search", "toy", "--best").splitlines()
    assert shown[0] == f"# trial {best.number}, run {best.run}: eval/score_after_0 = {best.value:.6g} at iteration 9"
    assert f"runs/{best.run}/lineage.json" in shown[2]
    assert shown[3] == f"# Its last settings: lr={best.settings['lr']!r}"
    command = shlex.split(shown[-1])
    assert command[:4] == ["python", TOY, "evaluate", "with"]
    assert toy_experiment.make().run_commandline(command[1:]).config["lr"] == best.settings["lr"]
    assert analyse(["search", "toy"]) == 2
    assert "is the journal of a population" in capsys.readouterr().err


def test_a_search_that_another_machine_runs_is_not_cancelled_here(desk, no_slurm, monkeypatch):
    """Its lock may be seen here, and the id in it is that of another process."""
    folder = StudyFolder(desk.directory / "runs" / "_searches" / "toy-1")
    folder.path.mkdir(parents=True)
    write(folder.path, "search")
    sent = []
    monkeypatch.setattr(os, "kill", lambda *to: sent.append(to))
    with guard.hold(folder.working, "runs it"):
        folder.add(Array(0, 0, [0], host="elsewhere"))
        assert "error: toy-1 runs on elsewhere; cancel it there" in desk.slurm("search", "toy", "--cancel", status=2)
        assert not sent
        folder.add(Array(0, 0, [0], host=socket.gethostname()))
        assert f"Sent a stop signal to process {os.getpid()}" in desk.slurm("search", "toy", "--cancel")
    assert sent == [(os.getpid(), signal.SIGTERM)]


@pytest.mark.thorough
@pytest.mark.slow
def test_killed_at_any_moment_a_search_comes_to_the_same_end(desk):
    found = {}
    for name, moments in (("whole", []), ("killed", [1, 4, 9, 2, 6])):
        folder = begin(write(desk.directory, name))
        command = [
            sys.executable,
            "-W",
            "ignore",
            search_lives.__file__,
            folder.path / "search.yaml",
            json.dumps(moments),
        ]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1].split() == ["-9"] * len(moments) + ["0"], done.stdout + done.stderr
        found[name] = folder
    assert facts(found["killed"]) == facts(found["whole"])
    for one, other in zip(*(open_study(folder).trials() for folder in found.values()), strict=True):
        assert rows(one.run) == rows(other.run) and same(state(one.run), state(other.run))
        assert desk.record(one.run)["result"] == desk.record(other.run)["result"]


@pytest.mark.thorough
def test_workers_of_this_machine_share_a_search_that_can_grow(desk, no_slurm):
    path = write(desk.directory, method="random", budget={"trials": 2})
    shown = desk.slurm("search", path, "--local", "-j", 2, "--no-snapshot")
    assert "toy-1: random, 2 of 2 trials" in shown and "2 completed" in shown
    path = write(desk.directory, method="random", budget={"trials": 3})
    shown = desk.slurm("search", path, "--local", "--no-snapshot")
    assert "toy-1: continues with 2 trials." in shown and "3 completed" in shown
    assert {trial.state for trial in open_study(find_study(desk.directory / "runs", "toy")).trials()} == {"completed"}
    assert all(desk.record(run)["status"] == "COMPLETED" for run in (1, 2, 3))
    assert "score" in desk.slurm("logs", 3)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"space": {"surface.sizee": {"int": [1, 4]}}},
            "space: surface.sizee=1: no such key; did you mean surface.size?",
        ),
        ({"space": {"surface.size": {"int": [0, 4]}}}, "space: surface.size=0: need at least 1"),
        ({"space": {"lr": {"choice": ["fast"]}}}, "space: lr='fast': need"),
        ({"fixed": {"num_iterations": 9}}, "with eval_interval=0; set fixed.eval_interval"),
        ({"fixed": {"num_iterations": 9, "eval_interval": 2}}, "is asked for at iteration 1, and the first evaluation"),
        ({"objective": {"metric": "loss", "at": 20}}, "objective.at=20: a trial has 9 iterations"),
        ({"experiment": "nothing"}, "experiment='nothing'"),
        (
            {"method": {"pbt": {"members": 9, "interval": 3}}},
            "space.optimizer: cannot change while a run trains, as method pbt does; those that can are lr",
        ),
        (
            {"method": {"pbt": {"members": 9, "interval": 3, "initial": {"lrr": 0.1}}}},
            "method.pbt.initial.lrr: no such key in space",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_it_begins(desk, no_slurm, sections, message):
    shown = desk.slurm("search", write(desk.directory, **sections), "--local", "--no-snapshot", status=2)
    assert f"error: {desk.directory / 'toy.yaml'}: " in shown and message in shown
    assert not (desk.directory / "runs").exists()


def test_a_dry_run_says_what_it_would_do(desk, no_slurm):
    path = write(desk.directory)
    shown = desk.slurm("search", path, "--dry-run", "-j", 4, "--no-snapshot")
    assert "surface.size: an integer from 1 to 4" in shown
    assert "sbatch" in shown and "--array=0-3" in shown and "_searches/toy-N/search.yaml 0" in shown
    assert "this machine has no Slurm" in desk.slurm("search", path, "--no-snapshot", status=2)
    assert "error: toy: no such search in" in desk.slurm("search", path, "--status", status=2)
    (desk.directory / "ranks.yaml").write_text("ntasks: 2")
    shown = desk.slurm("search", path, "--profile", "ranks.yaml", "--local", status=2)
    assert "ntasks=2: a search trains each trial in one process" in shown
    assert not (desk.directory / "runs").exists()
