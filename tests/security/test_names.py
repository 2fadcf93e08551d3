"""Ids, paths and names that people, files and shells read differently: nothing leaves its place, nothing is run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import toy_experiment
from lab_runs import write_run
from payload import MARK

from analysis.__main__ import main as analysis

IDS = ["../evil", "a/b", "", ".", "..", "_sources", "²", "a\nb", "\x1b[2J", ".hidden", "-x", "a\tb", "a ", "x" * 300]
SHELL = f"a b$(mkdir {MARK})`mkdir {MARK}`;mkdir {MARK};'\"&|<>*?\\"


def tree(directory: Path) -> list[str]:
    """All that is there, but for the directory of runs itself, which may be made before its first run."""
    return sorted(str(path) for path in directory.rglob("*") if path.name != "runs")


@pytest.mark.parametrize("name", IDS)
def test_an_id_that_is_no_name_is_refused_before_anything_is_written(place, capsys, name):
    before = tree(place.directory.parent)
    commands = [["-i", name], *([command, "with", f"run={name!r}"] for command in ("ensure", "resume", "evaluate"))]
    for line in commands:
        assert place.run(*line) == 2, line
        shown = capsys.readouterr().err
        assert shown.startswith("error: ") and "Traceback" not in shown and "\x1b" not in shown
    assert tree(place.directory.parent) == before


def test_an_absolute_id_is_refused(place, capsys):
    outside = place.directory.parent / "outside"
    for line in (["-i", str(outside)], ["ensure", "with", f"run={outside}"], ["ensure", "with", f"run={outside}/1"]):
        assert place.run(*line) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not outside.exists()


@pytest.mark.thorough
def test_the_command_that_resumes_a_run_is_safe_in_a_shell(place):
    run = toy_experiment.make().run("train", {"runs_dir": SHELL, "num_iterations": 2})
    command = run.session.how_to_resume().partition("\n")[2].strip()
    done = subprocess.run(["sh", "-c", f"{command} num_iterations=3"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    record = json.loads((place.directory / SHELL / "1" / "run.json").read_text())
    assert (record["status"], record["result"]["iteration"]) == ("COMPLETED", 3)
    assert place.is_untouched()


HOSTILE = "\x1b]0;title\x07\x1b[2J\r[red]tag[/red]\x9b31m"


@pytest.mark.thorough
def test_no_escape_of_a_record_reaches_the_terminal(place, capsys):
    """A table and an error: markup is shown as it is, control characters are written out."""
    for seed, value in enumerate([HOSTILE, "plain"], start=1):
        write_run(Path("runs", str(seed)), seed, tag=value)
    for line in (["table", "runs", "--columns", "tag"], ["table", "runs", "--where", f"tag={HOSTILE}x"]):
        analysis(line)
        shown = "".join(capsys.readouterr())
        assert shown and not set(shown) & {"\x1b", "\x07", "\r", "\x9b"}, line
    assert analysis(["table", "runs", "--columns", "config.tag"]) == 0
    assert "[red]" in capsys.readouterr().out


def test_no_escape_of_a_command_line_reaches_the_terminal_of_who_reads_its_log(place, capsys):
    for part in (f"{HOSTILE}=1", HOSTILE, f"remark=1 {HOSTILE}"):
        place.run("print_config", "with", part, "num_iterations=0")
        shown = "".join(capsys.readouterr())
        assert shown.startswith("error: ") and not set(shown) & {"\x1b", "\x07", "\r", "\x9b"}
