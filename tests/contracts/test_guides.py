"""The walk-throughs in docs/ work: each is carried out, block by block, on a copy of the project.

A block's first line says what it is: "python <file>" is a new file, "diff <file>" a change to one, "sh" commands that
must succeed. Other blocks are for the reader.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from records import write_record

from experiments import maml_trpo

ROOT = Path(__file__).parents[2]
COPIED = ("analysis", "experiments", "research", "tests/contracts", "tests/golden", "tests/support", "docs/metrics.md")
COPIED_FILES = ("setup.cfg", "pyproject.toml", "tests/conftest.py")
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    kind: str
    file: str
    text: str


def blocks(guide):
    return [Block(*match.groups("")) for match in BLOCK.finditer((ROOT / "docs" / guide).read_text(encoding="utf-8"))]


@pytest.fixture
def project(tmp_path):
    """A copy of what the guides change and run."""
    for name in (*COPIED, *COPIED_FILES):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    return tmp_path


def change(path, diff):
    """Replaces the lines of a diff that are there by those that shall be; they must be there once."""
    lines = diff.splitlines()
    before, after = ("".join(line[1:] + "\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path.name} must have these lines once:\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def run(command, project):
    """Runs a command line of the guide in the copy; `python` is the interpreter of these tests."""
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    python = f'"{sys.executable}"'
    line = re.sub(r"^python\b", lambda _: python, command)
    done = subprocess.run(
        line, shell=True, cwd=project, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guide", "expected"),
    [
        ("adding-a-task.md", ["passed", "Adaptation to 5 held-out test tasks"]),
        ("adding-an-algorithm.md", ["passed", "Adaptation to 5 held-out test tasks", f"\n{3:>15}  ", f"\n{5:>15}  "]),
    ],
)
def test_the_guide_works(guide, expected, project):
    output = ""
    for block in blocks(guide):
        if block.kind == "python":
            path = project / block.file
            assert not path.exists(), f"{block.file} is there already"
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "diff":
            change(project / block.file, block.text)
        elif block.kind == "sh":
            output += "".join(run(command, project) for command in block.text.splitlines())
    for text in expected:
        assert text in output
    assert not re.search(r"\b0 passed|no tests ran", output)


def refusals():
    """The commands in docs/troubleshooting.md, each with what it prints."""
    shown = "".join(block.text for block in blocks("troubleshooting.md") if block.kind == "console")
    return re.findall(r"^\$ python experiments/maml_trpo\.py (.*)\n(.*)$", shown, re.MULTILINE)


@pytest.mark.parametrize(("command", "message"), refusals())
def test_what_is_refused_is_refused_as_documented(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        maml_trpo.experiment.run_commandline([maml_trpo.__file__, *shlex.split(command)])
    devices = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
    assert re.sub(r"here are cpu$", f"here are {devices}", message) == capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir()), "nothing is recorded"


def test_the_inner_loop_of_the_readme_works():
    (text,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, object] = {}
    exec(text, names)
    assert {name: value.shape[0] for name, value in names["adapted"].items()} == dict.fromkeys(names["params"], 8)
    total = sum(value.square().sum() for value in names["adapted"].values())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, list(names["params"].values())))


def test_the_guide_to_analysis_works(tmp_path, monkeypatch, capsys):
    """Its blocks, on records of two settings and two seeds, and one run that failed."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        write_record(
            tmp_path / "runs" / str(number + 1),
            seed=number % 2,
            inner_lr=(0.1, 0.3)[number // 2],
            metrics={"return_post": [1.0, 2.0], "env_steps": [100.0, 100.0]},
            score=[[-9.0, 1.0], [-8.0, 2.0], [-7.0, 0.5], [-6.0, number]],
        )
    write_record(tmp_path / "runs" / "5", seed=2, inner_lr=0.1, status="FAILED")
    names: dict[str, Any] = {}
    for block in blocks("analysis.md"):
        if block.kind == "python":
            exec(block.text, names)
    shown = capsys.readouterr().out
    assert "5 runs: 4 COMPLETED, 1 FAILED" in shown and "inner_lr=0.3 -1.75 [" in shown
    assert list(names["few"].table.index) == ["1", "2", "3", "4"]
    assert list(names["curves"]["x"]) == [100.0, 200.0] * 4
    assert set(names["adaptation"]["group"]) == {"inner_lr=0.1", "inner_lr=0.3"}
    assert list(names["worse"].index) == []


def test_the_statistics_of_the_guide_are_so(capsys):
    for block in blocks("statistics.md"):
        if block.kind == "python":
            exec(block.text, {})
    assert "95 % bootstrap interval" in capsys.readouterr().out


def test_a_change_that_does_not_fit_is_noticed(tmp_path):
    file = tmp_path / "registry.py"
    file.write_text("one\ntwo\ntwo\n")
    for missing in (" three\n+four\n", " two\n+three\n"):
        with pytest.raises(AssertionError, match=r"registry\.py must have these lines once"):
            change(file, missing)
    change(file, " one\n+three\n")
    assert file.read_text() == "one\nthree\ntwo\ntwo\n"


def links(page):
    """Relative links of a page, and the headings they name."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


PAGES = [str(path.relative_to(ROOT)) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links(ROOT / page):
        path = target.split("#")[0]
        assert not path or ((ROOT / page).parent / path).exists(), f"{page} links to {target}"
