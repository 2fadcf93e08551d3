"""docs/slurm.md: its commands do what it shows, and it leaves nothing out."""

from __future__ import annotations

import re
import shlex

import pytest

from slurm.checking import check
from slurm.profile import Profile
from slurm.states import STATES
from slurm.sweep import expand, load_sweep
from slurm.task import ROOT

PAGE = (ROOT / "docs" / "slurm.md").read_text()


def section(title):
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return text


def console(title):
    """(words of a command, lines that it prints) of a section."""
    shown = "".join(re.findall(r"^```console\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL))
    found = re.findall(r"^\$ python -m slurm (.*)\n((?:[^$].*\n)*)", shown, re.MULTILINE)
    return [(shlex.split(words), lines.splitlines()) for words, lines in found]


def plain(text):
    return re.sub(r"\d+", "N", re.sub(r" on \S+,", " on HOST,", text))


def rows(title):
    """The first cells of a section's first table."""
    (first, *_) = re.findall(r"^\|---.*\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    return [name for line in first.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])]


@pytest.mark.slow
def test_the_first_submission_goes_as_it_is_shown(desk, cluster):
    (desk.directory / "slurm").symlink_to(ROOT / "slurm")
    commands = console("First submission")
    assert [words[0] for words, _ in commands] == ["submit", "submit", "status", "logs"]
    for words, lines in commands:
        assert lines

        def is_shown(words=words, lines=lines):
            shown = plain(desk.slurm(*words, status=None)).splitlines()  # a run that waits has no log yet
            return all(plain(line) in shown for line in lines)

        if words[0] == "submit":
            assert is_shown(), words
        else:
            desk.wait(is_shown, 30, f"{words} shows {lines}")
    desk.wait(lambda: set(desk.states("fast").values()) == {"completed"}, 240)
    assert [desk.record(run)["command"] for run in (4, 5)] == ["ensure", "evaluate"]


@pytest.mark.slow
def test_the_sweep_that_is_shown_is_possible(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", section("Sweeps"), re.MULTILINE | re.DOTALL)
    path = tmp_path / "shown.yaml"
    path.write_text(text)
    sweep = load_sweep(path)
    assert len(list(expand(sweep))) == 4 * 2 * 2 * 20 * 3
    assert len(check(sweep, path, ROOT).configurations) == 960


def test_a_misspelt_key_is_refused_as_it_is_shown(desk):
    draw = "{policy.hiden_sizes: {choice: [[32]]}}"
    (desk.directory / "wrong.yaml").write_text(f"experiment: maml_trpo\nrandom: {{count: 3, draw: {draw}}}\n")
    ((words, lines),) = console("Sweeps")
    assert desk.slurm(*words, status=2).splitlines() == lines


@pytest.mark.parametrize(
    ("title", "names"), [("States", list(STATES)), ("Profiles", list(Profile.__dataclass_fields__))]
)
def test_every_state_and_every_key_of_a_profile_is_explained(title, names):
    assert sorted(rows(title)) == sorted(names)
