"""What a person types, what comes of it, and what is refused before anything is done."""

from __future__ import annotations

import pytest
import toy_experiment

from research.conversion import ConfigError
from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment
from research.tracking.settings import Choice


def test_training_is_recorded(lab, capsys):
    result = lab.run("with seed=3 surface.size=2 eval_interval=4 -c remark")
    run = lab.record(1)
    assert run["status"] == "COMPLETED"
    assert run["command"] == "train"
    assert run["result"] == result
    assert run["meta"]["config_updates"] == {"seed": 3, "surface": {"size": 2}, "eval_interval": 4}
    assert run["meta"]["comment"] == "remark"
    assert {"hostname", "os", "python_version", "cpu"} <= run["host"].keys()
    assert any(dependency.startswith("torch==") for dependency in run["experiment"]["dependencies"])
    names = [name for name, _ in run["experiment"]["sources"]]
    assert "research/train.py" in names and run["experiment"]["mainfile"] in names
    config = lab.record(1, "config.json")
    assert (config["seed"], config["surface"]) == (3, {"size": 2, "curvature": [1.0, 2.0]})
    evaluation = lab.record(1, "evaluation.json")
    assert [sum(step) / len(step) for step in evaluation["score"]] == pytest.approx(result["score"], rel=1e-12)
    assert {len(step) for step in evaluation["score"]} == {4} and evaluation["unit"] == result["unit"]
    assert [step for step, _ in lab.metrics(1)] == list(range(1, 11))
    metrics = lab.record(1, "metrics.json")
    assert metrics["loss"]["steps"] == list(range(1, 11))
    assert metrics["eval/score_after_2"]["steps"] == [4, 8]
    assert run["artifacts"] == ["evaluation.json", "curve.txt"]
    shown = capsys.readouterr().out
    assert lab.output(1) == shown
    for place in ("runs/1", "runs/1/checkpoints/latest.pt", "runs/1/curve.txt"):
        assert place in shown


def test_the_best_checkpoint_is_that_of_the_best_evaluation(lab):
    lab.run("with eval_interval=1 num_iterations=6")
    scores = lab.record(1, "metrics.json")["eval/score_after_2"]
    best = scores["steps"][scores["values"].index(max(scores["values"]))]
    assert lab.state(1, "best")["iteration"] == best
    assert lab.state(1)["iteration"] == 6


def test_the_best_checkpoint_is_chosen_on_validation_tasks_and_evaluated_on_test_tasks(lab, capsys):
    result = lab.run("with eval_interval=1 num_iterations=6")
    assert "mean return on held-out validation tasks " in capsys.readouterr().out
    assert (result["split"], result["held_out"]) == ("test", True)
    scores = lab.record(1, "metrics.json")["eval/score_after_2"]["values"]
    again = lab.run("evaluate with checkpoint=runs/1/checkpoints/best eval_split=validation")
    assert again["score"][2] == pytest.approx(max(scores), rel=1e-12) and again["split"] == "validation"
    test = lab.run("evaluate with checkpoint=runs/1/checkpoints/best")
    assert test["split"] == "test" and test["score"][2] not in scores
    assert [lab.record(run, "evaluation.json")["split"] for run in (1, 2, 3)] == ["test", "validation", "test"]
    assert lab.record(1, "info.json")["eval_split"] == "validation"
    lab.run("evaluate with run=1 eval_split=all")
    assert lab.exit_code == 2


def test_nan_is_recorded_as_null(lab):
    lab.run("with nan_at=2 num_iterations=3")
    assert [values["loss"] is None for _, values in lab.metrics(1)] == [False, True, False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("with num_iteratons=3", "num_iteratons=3: no such key; did you mean num_iterations?"),
        ("with chekpoint=x", "did you mean checkpoint?"),
        ("with surface.siz=3", "surface.siz=3: no such key; did you mean surface.size?"),
        ("with num_iterations=ten", "num_iterations='ten': need an integer"),
        ("with lr=0,1", "lr=0,1: a comma outside of brackets; write lr=0.1 for a number or lr=[0,1] for a list"),
        ("with num_iterations=0", "num_iterations=0: need at least 1"),
        ("with surface.size=0", "surface.size=0: need at least 1"),
        ("with seed=-1", "seed=-1: need an integer from 0"),
        ("with seed=abc", "seed='abc': need an integer"),
        ("with lnog", "lnog: no such named config (and no key=value); did you mean long?"),
        ("with run=3", "run=3: train starts a new run; to continue this one: resume with run=3"),
        ("print_config with sed=3", "did you mean seed?"),
        ("resume", "resume needs either run=<id> or checkpoint=<path>"),
        ("evaluate with run=1 checkpoint=x", "evaluate needs either"),
        ("resume with run=7", "run=7: no such run in runs; there is none"),
        ("evaluate with checkpoint=nowhere/latest", "nowhere/latest: no such checkpoint, and no directory nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(lab, capsys, line, message):
    lab.run(line)
    shown = capsys.readouterr()
    assert lab.exit_code == 2
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert lab.runs() == []


def test_an_algorithm_that_refuses_its_settings_leaves_no_record(lab, capsys, monkeypatch):
    def refuse(self, config):
        raise ValueError("lr=0.1: need another")

    monkeypatch.setattr(toy_experiment.Toy, "__init__", refuse)
    lab.run("")
    assert lab.exit_code == 2
    assert "error: lr=0.1: need another" in capsys.readouterr().err
    assert lab.runs() == []


def test_in_a_program_what_is_refused_is_an_exception(lab):
    with pytest.raises(ConfigError, match="did you mean seed"):
        toy_experiment.make().run(config_updates={"sed": 3})


def test_a_named_config_gives_way_to_the_command_line(lab, capsys):
    lab.run("print_config with long surface.size=4")
    shown = capsys.readouterr().out
    assert "num_iterations = 50" in shown and "size = 4" in shown
    assert lab.runs() == []


@pytest.mark.parametrize(
    ("differences", "line", "message"),
    [
        ({"num_iteratons": 3}, "with wrong", "wrong: num_iteratons=3: no such key; did you mean num_iterations?"),
        ({"surface": {"size": 0}}, "with long wrong", "wrong: surface.size=0: need at least 1"),
        ({"num_iterations": 3}, "with wrong sed=3", "error: sed=3: no such key; did you mean seed?"),
        ({"surface": {"size": 0}}, "with wrong surface.size=-1", "error: surface.size=-1: need at least 1"),
        ({"num_iteratons": 3}, "evaluate with wrong run=1", "wrong: num_iteratons=3: no such key"),
    ],
)
def test_a_named_config_that_is_refused_alone_is_named(lab, capsys, monkeypatch, differences, line, message):
    lab.run("with num_iterations=1")
    make = toy_experiment.make

    def with_another():
        experiment = make()
        experiment.add_named_config("wrong", differences)
        return experiment

    monkeypatch.setattr(toy_experiment, "make", with_another)
    capsys.readouterr()
    lab.run(line)
    assert lab.exit_code == 2
    assert message in capsys.readouterr().err
    assert lab.runs() == ["1"]


def test_an_algorithm_that_there_is_not_is_refused_when_the_experiment_is_made():
    with pytest.raises(ValueError, match="config_class='maml_trop': no such algorithm; did you mean maml_trpo"):
        make_experiment("toy", "maml_trop", script=__file__)
    with pytest.raises(ValueError, match="config_class='rl3': no such algorithm; did you mean rl2"):
        make_experiment("toy", Choice("kind", {"a": "maml_trpo", "b": "rl3"}), script=__file__)
    with pytest.raises(ValueError, match="algorithm='rl3': no such algorithm; did you mean rl2"):
        add_commands(make_experiment("toy", "rl2", script=__file__), "rl3", columns={}, report=toy_experiment.report)


def test_numbers_that_a_record_cannot_hold_are_refused_in_a_program(lab):
    with pytest.raises(ConfigError, match=r"extra\.a=inf: need a finite number, a record cannot hold another"):
        toy_experiment.make().run(config_updates={"extra": {"a": float("inf")}})
    assert lab.runs() == []


def test_a_named_config_is_the_same_in_the_next_run(lab):
    experiment = toy_experiment.make()
    for updates, curvature in (({"surface": {"curvature": [3.0]}}, [3.0]), ({}, [1.0, 2.0])):
        run = experiment.run("print_config", config_updates=updates, named_configs=["long"])
        assert run.config["surface"] == {"size": 5, "curvature": curvature}


def test_sacreds_own_options_work(lab, capsys):
    lab.run("-F elsewhere -i chosen -n other -p with num_iterations=1")
    assert [path.name for path in (lab.directory / "elsewhere").iterdir() if path.name != "_sources"] == ["chosen"]
    assert lab.runs() == []
    lab.run("-u with num_iterations=1")
    assert lab.runs() == []
    lab.run("-q with num_iterations=1")
    assert lab.record(1)["status"] == "QUEUED"
    capsys.readouterr()
    lab.run("-i 1 with num_iterations=1")
    assert (lab.exit_code, lab.runs()) == (2, ["1"])
    assert "-i 1: runs/1 exists already" in capsys.readouterr().err


def test_an_evaluation_may_have_an_id_that_was_claimed_before(lab, capsys):
    lab.run("with num_iterations=1")
    (lab.directory / "runs" / "7").mkdir()
    lab.run("evaluate -i 7 with run=1")
    assert (lab.exit_code, lab.record(7)["status"], lab.record(7)["command"]) == (0, "COMPLETED", "evaluate")
    capsys.readouterr()
    lab.run("evaluate -i 7 with run=1")  # it has completed
    lab.run("-i 1 with num_iterations=1")  # a training, which another command goes on with
    shown = capsys.readouterr().err
    assert lab.exit_code == 2 and "-i 7: runs/7 exists already" in shown and "-i 1: runs/1 exists already" in shown
    run = lab.directory / "runs" / "7" / "run.json"
    run.write_text(run.read_text().replace('"COMPLETED"', '"INTERRUPTED"'))
    lab.run("evaluate -i 7 with run=1")  # it was stopped, and starts over
    assert (lab.exit_code, lab.record(7)["status"]) == (0, "COMPLETED")
    assert lab.runs() == ["1", "7"]


def test_help_names_the_commands(lab, capsys):
    lab.run("--help")
    shown = capsys.readouterr().out
    assert "A toy." in shown
    for command in ("train", "resume", "evaluate", "print_config"):
        assert f"  {command} " in shown


def test_saved_settings_can_be_used(lab, capsys):
    lab.run("save_config with config_filename=saved.json seed=9")
    assert lab.exit_code == 0
    lab.run("print_config with saved.json num_iterations=4")
    shown = capsys.readouterr().out
    assert "seed = 9" in shown and "num_iterations = 4" in shown


def test_a_failure_is_recorded_with_its_output(lab, monkeypatch, capsys):
    def fail(self, state):
        print("last words")  # noqa: T201
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(toy_experiment.Toy, "step", fail)
    lab.run("")
    assert lab.exit_code == 1
    assert lab.record(1)["status"] == "FAILED"
    assert "a bug" in "".join(lab.record(1)["fail_trace"])
    assert "last words" in lab.output(1)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_evaluating_takes_everything_from_the_checkpoint(lab):
    trained = lab.run("with seed=3 surface.size=2 num_iterations=4")
    again = lab.run("evaluate with checkpoint=runs/1/checkpoints/latest")
    assert again == trained
    more = lab.run("evaluate with run=1 num_adapt_steps=5")
    assert more["score"][:3] == trained["score"]
    assert len(more["score"]) == 6
    config = lab.record(3, "config.json")
    assert (config["seed"], config["surface"]["size"], config["num_adapt_steps"]) == (3, 2, 5)
    assert lab.record(3)["artifacts"] == ["evaluation.json", "curve.txt"]
    assert lab.metrics(1) and not lab.metrics(3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate with run=1 surface.size=5", "surface.size=5: runs/1/checkpoints/latest.pt was trained with 3"),
        ("evaluate with long run=1", "num_iterations=50: runs/1/checkpoints/latest.pt was trained with 3"),
        ("evaluate with run=1 surface.siz=5", "did you mean surface.size?"),
        ("resume with run=1 lr=0.2", "lr=0.2: runs/1/checkpoints/latest.pt was trained with 0.1"),
        ("resume with run=1 seed=1", "seed=1: runs/1/checkpoints/latest.pt was trained with 0"),
        ("resume with run=1 num_iterations=2", "has finished 3 already"),
        ("resume with checkpoint=copy", "resume continues the record of a run, and this checkpoint is in none"),
        ("resume with run=2", "run=2: no such run in runs; the last there is 1"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(lab, capsys, line, message):
    lab.run("with num_iterations=3")
    (lab.directory / "copy.pt").write_bytes((lab.directory / "runs/1/checkpoints/latest.pt").read_bytes())
    before = lab.record(1)
    capsys.readouterr()
    lab.run(line)
    assert lab.exit_code == 2
    assert message in capsys.readouterr().err
    assert lab.runs() == ["1"]
    assert lab.record(1) == before


def test_settings_that_agree_with_the_checkpoint_may_be_repeated(lab):
    lab.run("with long num_iterations=3")
    assert lab.run("evaluate with long num_iterations=3 run=1 lr=0.1 surface.curvature=[1,2]") is not None


def test_a_damaged_checkpoint_is_refused(lab, capsys):
    lab.run("with num_iterations=3")
    path = lab.directory / "runs/1/checkpoints/latest.pt"
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    for command in ("resume", "evaluate"):
        lab.run(f"{command} with run=1")
        assert lab.exit_code == 2
        assert "latest.pt is damaged" in capsys.readouterr().err
    assert lab.runs() == ["1"]
