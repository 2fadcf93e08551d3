"""A run is the same run, whatever path leads to it, and nothing is written outside of its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from toy_experiment import OPTIONS

from research.conversion import ConfigError
from research.tracking.place import Place, place_of_checkpoint, place_of_run

SHORT = "with num_iterations=4 eval_interval=2"


def tree(root: Path) -> set[str]:
    """Every folder, and every file that is not a part of the record of run 1."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() or "runs/1/" not in str(path)}


@pytest.mark.parametrize(
    ("cwd", "path"),
    [
        ("runs/1/checkpoints", "latest"),
        ("runs/1/checkpoints", "latest.pt"),
        ("runs/1/checkpoints", "./../checkpoints/best"),
        ("runs/1", "checkpoints/latest"),
        ("runs", "1/checkpoints/latest.pt"),
        ("runs/_sources", "../1/checkpoints/latest"),
        (".", "runs/../runs/1/checkpoints/latest"),
        ("elsewhere", "../alias/checkpoints/latest"),
        ("elsewhere", "good"),
    ],
)
def test_a_checkpoint_continues_its_own_run_from_everywhere(lab, monkeypatch, cwd, path):
    lab.run(SHORT)
    (lab.directory / "elsewhere").mkdir()
    (lab.directory / "alias").symlink_to("runs/1")
    (lab.directory / "elsewhere" / "good.pt").symlink_to("../runs/1/checkpoints/best.pt")
    before = tree(lab.directory)
    monkeypatch.chdir(lab.directory / cwd)
    lab.run(f"resume with checkpoint={path} num_iterations=6")
    assert lab.exit_code == 0
    assert [step for step, _ in lab.metrics(1)] == [1, 2, 3, 4, 5, 6]
    assert tree(lab.directory) == before


def test_checkpoints_on_another_disk(lab):
    """They were moved there, and a link is in their place."""
    lab.run(f"with {OPTIONS}")
    lab.run(f"with {OPTIONS.replace('12', '6')}")
    (lab.directory / "scratch").mkdir()
    shutil.move(lab.directory / "runs/2/checkpoints", lab.directory / "scratch/two")
    (lab.directory / "runs/2/checkpoints").symlink_to(lab.directory / "scratch/two")
    lab.run("evaluate -i 9 with run=2")
    assert (lab.exit_code, lab.record(9)["result"]["iteration"]) == (0, 6)
    lab.run("resume with run=2 num_iterations=8")
    lab.run("resume with checkpoint=runs/2/checkpoints/latest num_iterations=9")
    lab.run(f"ensure with run=2 {OPTIONS}")
    lab.assert_same(2, 1)
    assert (lab.directory / "runs/2/checkpoints").is_symlink()
    assert sorted(path.name for path in (lab.directory / "scratch").rglob("*")) == ["best.pt", "latest.pt", "two"]


def test_the_shell_names_the_working_directory(lab, monkeypatch):
    """`cd runs/1/checkpoints`, which is a link: the shell knows where it came from."""
    lab.run(SHORT)
    shutil.move(lab.directory / "runs/1/checkpoints", lab.directory / "scratch")
    (lab.directory / "runs/1/checkpoints").symlink_to(lab.directory / "scratch")
    monkeypatch.chdir(lab.directory / "runs/1/checkpoints")
    assert Path.cwd() == lab.directory / "scratch"
    monkeypatch.setenv("PWD", str(lab.directory / "runs/1/checkpoints"))
    assert place_of_checkpoint(Path("latest.pt")) == Place(lab.directory / "runs", 1)
    monkeypatch.setenv("PWD", str(lab.directory))  # another directory: it says nothing
    assert place_of_checkpoint(Path("latest.pt")) is None


def test_a_folder_that_is_a_link_to_a_run_is_that_run(lab):
    lab.run(SHORT)
    (lab.directory / "runs" / "best").symlink_to("1")
    lab.run("resume with run=best num_iterations=5")
    lab.run(f"ensure {SHORT.replace('=4', '=6')} run=best")
    assert lab.state(1)["iteration"] == 6
    assert lab.record(1, "config.json")["run"] is None
    assert place_of_run("runs", "best") == Place(Path("runs"), 1)
    (lab.directory / "other" / "_sources").mkdir(parents=True)
    (lab.directory / "other" / "runs_1").symlink_to(lab.directory / "runs" / "1")
    assert place_of_run("other", "runs_1") == Place(Path("runs"), 1)


def test_a_folder_on_another_disk_keeps_its_place(lab):
    lab.run(SHORT)
    shutil.move(lab.directory / "runs/1", lab.directory / "scratch-1")
    (lab.directory / "runs/1").symlink_to(lab.directory / "scratch-1")
    assert place_of_run("runs", 1) == Place(Path("runs"), 1)
    lab.run("resume with run=1 num_iterations=5")
    sources = [path for _, path in lab.record(1)["resumed"][0]["experiment"]["sources"]]
    assert sources and all((lab.directory / "runs" / path).is_file() for path in sources)


def test_a_checkpoint_of_another_run_continues_none(lab, capsys):
    lab.run(f"{SHORT} seed=1")
    lab.run(f"{SHORT} seed=1")
    for name in ("latest.pt", "best.pt"):
        shutil.copy(lab.directory / "runs/1/checkpoints" / name, lab.directory / "runs/2/checkpoints" / name)
    before = lab.record(2), lab.metrics(2)
    for line in ("resume with run=2 num_iterations=6", "resume with checkpoint=runs/2/checkpoints/best",
                 f"ensure {SHORT.replace('=4', '=6')} seed=1 run=2"):  # fmt: skip
        capsys.readouterr()
        lab.run(line)
        assert lab.exit_code == 2
        assert "was written by another run than the one whose folder it lies in" in capsys.readouterr().err
    assert (lab.record(2), lab.metrics(2)) == before
    lab.run("evaluate with checkpoint=runs/2/checkpoints/best")
    assert lab.exit_code == 0


def test_an_old_checkpoint_of_another_run_is_told_by_its_settings(lab, capsys):
    """Checkpoints of older versions do not name their run."""
    for seed in (1, 2):
        lab.run(f"{SHORT} seed={seed}")
    content = torch.load(lab.directory / "runs/1/checkpoints/latest.pt", weights_only=True)
    del content["record"]
    torch.save(content, lab.directory / "runs/2/checkpoints/latest.pt")
    for line in ("resume with run=2 num_iterations=6", f"ensure with run=2 {SHORT[5:].replace('=4', '=6')} seed=2"):
        lab.run(line)
        assert lab.exit_code == 2
        assert "seed=1: runs/2 was trained with 2" in capsys.readouterr().err


def test_a_checkpoint_in_a_folder_that_is_no_id_is_evaluated_and_not_continued(lab, capsys):
    lab.run(SHORT)
    shutil.copytree(lab.directory / "runs/1", lab.directory / "runs/1 (copy)")
    lab.run("evaluate with 'checkpoint=runs/1 (copy)/checkpoints/best'")
    assert (lab.exit_code, lab.record(2)["command"]) == (0, "evaluate")
    capsys.readouterr()
    lab.run("resume with 'checkpoint=runs/1 (copy)/checkpoints/best'")
    assert lab.exit_code == 2 and "run='1 (copy)': need a number such as 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("resume with checkpoint=copy/latest", "this checkpoint is in none"),
        ("resume with checkpoint=runs/1/checkpoints/old/latest", "this checkpoint is in none"),
        (
            "resume with checkpoint=runs/1/checkpoints/latest runs_dir=other",
            "runs_dir='other': runs/1/checkpoints/latest",
        ),
        ("ensure with run=2 num_iterations=4", "run=2: runs/2 is the record of 'evaluate'"),
        ("resume with run=2", "run=2: runs/2 is the record of 'evaluate'"),
    ],
)
def test_what_belongs_to_no_training_is_refused(lab, capsys, line, message):
    lab.run(SHORT)
    lab.run("evaluate with run=1")
    shutil.copytree(lab.directory / "runs/1/checkpoints", lab.directory / "copy")
    shutil.copytree(lab.directory / "copy", lab.directory / "runs/1/checkpoints/old")
    capsys.readouterr()
    before = tree(lab.directory)
    lab.run(line)
    assert lab.exit_code == 2 and message in capsys.readouterr().err
    assert tree(lab.directory) - before <= {"runs/2/.lock"}


def test_an_evaluation_from_inside_of_a_run_is_recorded_with_the_runs(lab, monkeypatch):
    lab.run(SHORT)
    monkeypatch.chdir(lab.directory / "runs/1/checkpoints")
    lab.run("evaluate with checkpoint=best")
    assert lab.record(2)["command"] == "evaluate"
    assert sorted(os.listdir(lab.directory / "runs/1/checkpoints")) == ["best.pt", "latest.pt"]


def test_a_link_with_a_name_that_is_no_id_is_refused(tmp_path):
    (tmp_path / "_sources").mkdir()
    (tmp_path / "_hidden").mkdir()
    (tmp_path / "shown").symlink_to("_hidden")
    with pytest.raises(ConfigError, match="run='_hidden'"):
        place_of_run(str(tmp_path), "shown")
