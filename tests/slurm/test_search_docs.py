"""docs/search.md: what it shows is possible, and it leaves nothing out."""

from __future__ import annotations

import re

import pytest

from slurm.checking import check
from slurm.search.check import as_sweep, check_objective
from slurm.search.file import load_search
from slurm.search.methods import METHODS
from slurm.search.space import KINDS
from slurm.search.trials import STATES
from slurm.task import ROOT

PAGE = (ROOT / "docs" / "search.md").read_text()
FILES = [path.name for path in sorted((ROOT / "slurm" / "searches").glob("*.yaml"))]


def section(title):
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return text


@pytest.mark.parametrize(("title", "names"), [("Trials", STATES), ("Methods", METHODS)])
def test_every_state_and_every_method_is_explained(title, names):
    assert re.findall(r"^\| `(\w+)` ", section(title), re.MULTILINE) == list(names)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["shown", *FILES])
def test_the_searches_that_are_shown_are_possible(tmp_path, name):
    path = ROOT / "slurm" / "searches" / name
    if name == "shown":
        (text,) = re.findall(r"^```yaml\n(.*?)^```$", section("Search files"), re.MULTILINE | re.DOTALL)
        path = tmp_path / "shown.yaml"
        path.write_text(text)
        assert all(f"{{{kind}:" in text for kind in KINDS)
    file = load_search(path)
    checked = check(as_sweep(file), path, ROOT)
    assert len(checked.configurations) > 5
    check_objective(file, path, checked.configurations[0].identity.settings)
