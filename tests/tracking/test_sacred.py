"""What Sacred can do still works."""

from __future__ import annotations

import logging
import re
import shlex

import pytest
import toy_experiment
from sacred import Ingredient

from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment
from research.tracking.progress import Lines


@pytest.fixture
def with_data(lab):
    """The toy with an ingredient."""
    data = Ingredient("data")
    data.add_config(path="here", scale=2)

    @data.capture
    def load(path, scale):
        return f"{path} x{scale}"

    class Toy(toy_experiment.Toy):
        def init(self):
            print("data:", load())  # noqa: T201
            return super().init()

    def run(line):
        experiment = make_experiment("toy", toy_experiment.Config, script=toy_experiment.__file__, ingredients=[data])
        add_commands(experiment, Toy, columns={}, report=toy_experiment.report)
        try:
            return experiment.run_commandline([toy_experiment.__file__, *shlex.split(line)])
        except SystemExit as exit_:
            return exit_.code

    return run


def test_ingredients_keep_their_settings_when_a_run_goes_on(lab, with_data, capsys):
    with_data("with data.scale=5 num_iterations=2 seed=4")
    config = lab.record(1, "config.json")
    assert config["data"] == {"path": "here", "scale": 5}
    assert "data: here x5" in capsys.readouterr().out
    with_data("resume with run=1 num_iterations=4")
    assert "data: here x5" in capsys.readouterr().out
    assert lab.record(1, "config.json")["data"] == config["data"]
    with_data("evaluate with run=1 data.scale=7")
    assert "data: here x7" in capsys.readouterr().out
    for _ in range(2):
        with_data("ensure with run=9 data.scale=3 num_iterations=2")
    assert lab.record(9, "config.json")["data"]["scale"] == 3
    (lab.directory / "runs/9/config.json").unlink()  # a checkpoint does not have them
    for line in ("ensure with run=9 data.scale=3 num_iterations=2", "resume with run=9"):
        assert with_data(line) == 2
        assert "config.json: missing, and only it has the settings of data; restore it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("with data.scal=5", "data.scal=5: no such key; did you mean data.scale?"),
        ("resume with run=1 data.scale=6", "data.scale=6: runs/1 has 2 and keeps to it"),
        ("with dat.scale=5", "no such key"),
    ],
)
def test_settings_of_ingredients_are_checked(lab, with_data, capsys, line, message):
    with_data("with num_iterations=2")
    assert with_data(line) == 2
    assert message in capsys.readouterr().err
    assert lab.runs() == ["1"]


def test_artifacts_scalars_info_and_resources_of_a_command_of_ones_own(lab, capsys):
    experiment = make_experiment("toy", toy_experiment.Config, script=toy_experiment.__file__)
    (lab.directory / "made.txt").write_text("made")
    (lab.directory / "read.txt").write_text("read")

    @experiment.main
    def work(_run, seed):
        for value in (0.5, float("inf"), 0.25):
            experiment.log_scalar("loss", value)
        _run.log_scalar("other", seed, 7)
        experiment.add_artifact("made.txt", name="named.txt")
        experiment.info["note"] = [1, 2]
        with experiment.open_resource("read.txt") as file:
            return file.read()

    run = experiment.run_commandline(["toy.py", "with", "seed=3", "-n", "another name"])
    assert run.result == "read"
    metrics = lab.record(1, "metrics.json")
    assert (metrics["loss"]["steps"], metrics["loss"]["values"]) == ([0, 1, 2], [0.5, None, 0.25])
    assert (metrics["nonfinite_values"]["steps"], metrics["nonfinite_values"]["values"]) == ([1], [1])
    assert (metrics["other"]["steps"], metrics["other"]["values"]) == ([7], [3])
    record = lab.record(1)
    assert record["experiment"]["name"] == "another name"
    assert record["artifacts"] == ["named.txt"]
    assert (lab.directory / "runs/1/named.txt").read_text() == "made"
    assert record["resources"][0][0] == str(lab.directory / "read.txt")
    assert lab.record(1, "info.json") == {"note": [1, 2]}


def test_under_slurm_the_record_says_which_job(lab, monkeypatch):
    lab.run("with num_iterations=2")
    assert "slurm" not in lab.record(1)
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "10", "ARRAY_TASK_ID": "2", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    lab.run("with num_iterations=2")
    ids = {"job_id": "12", "array_job_id": "10", "array_task_id": "2", "restart_count": "1"}
    assert lab.record(2)["slurm"] == ids
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    lab.run("resume with run=2 num_iterations=3")
    assert lab.record(2)["slurm"]["restart_count"] == "2"
    assert lab.record(2)["resumed"][0]["slurm"]["restart_count"] == "2"


def test_output_is_appended_in_whole_lines(lab, monkeypatch):
    """What a terminal would show, with the same bytes however it was cut into beats."""
    step = toy_experiment.Toy.step

    def talk(self, state):
        print(f"\rdone  {state.iteration}")  # noqa: T201
        result = step(self, state)
        print(f"begun {state.iteration + 1}", end="")  # noqa: T201
        return result

    monkeypatch.setattr(toy_experiment.Toy, "step", talk)
    monkeypatch.setattr("research.tracking.session.make_progress", lambda *_: Lines(0, 7, {}, interval=1000))
    monkeypatch.setattr(Lines, "update", lambda *_: None)
    lab.run("-b 0 with num_iterations=7")
    lab.run("-b 1000 with num_iterations=7")
    first, second = (lab.output(run).replace(f"runs/{run}", "runs") for run in (1, 2))
    assert first == second
    first = re.sub(r"^No commit of the code is recorded: .*\n", "", first)  # where the project is not in git
    assert first.startswith("done  0\ndone  1\n") and first.count("begun") == 1  # the last stays


@pytest.mark.parametrize("level", ["ERROR", "DEBUG"])
def test_the_log_level_of_a_run_ends_with_it(lab, level):
    """A run of a notebook must not hide the warnings of the next one, nor keep its handlers."""
    before = (logging.root.level, logging.root.handlers[:])
    toy_experiment.make().run("train", {"num_iterations": 1}, options={"--loglevel": level})
    assert (logging.root.level, logging.root.handlers) == before
    lab.run(f"-l {level} with num_iterations=1 lr=-1")
    assert (logging.root.level, logging.root.handlers) == before
