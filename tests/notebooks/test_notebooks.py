"""Every notebook from top to bottom, in a kernel, on small runs made for it; and what they say where there are none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pandas as pd
import pytest
from records import write_record

from analysis.commands.notebooks import NOTEBOOKS, make_small_runs, names
from analysis.data.sweeps import load_sweep, ranking
from analysis.notebooks import ROOT, RUNS, RunsMissingError, open_runs, open_sweep

EXPECTED = {
    "01_first_run": (2, ["5 runs: 5 COMPLETED", "missing: none", "after 3 gradient steps: ", "(5 runs, IQM, 95 %"]),
    "02_compare_algorithms": (5, ["9 runs: 9 COMPLETED", "maml_ppo", "reptile: median"]),
    "03_adaptation_curves": (4, ["9 runs: 9 COMPLETED", "Reptile-DQN"]),
    "04_rl2_regret": (3, ["5 runs: 5 COMPLETED"]),
    "05_lookahead": (3, ["6 runs: 6 COMPLETED", "Lookahead less plain: -", "3 seeds"]),
    "06_meta_gradient_bias": (3, ["12 runs: 12 COMPLETED"]),
    "07_sweep_triage": (1, ["MISSING", "gradient_norm=nan: the meta-gradient is not finite", "--run ", "meta_lr=0.03"]),
}
"""Figures, and words that stand in the outputs."""

LONGEST = (
    "02_compare_algorithms",
    "03_adaptation_curves",
    "04_rl2_regret",
    "05_lookahead",
    "06_meta_gradient_bias",
    "07_sweep_triage",
)
"""Notebooks that take more than a minute; `make slow` executes them."""


def marked(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow) if name in LONGEST else name


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """Where the small runs of all notebooks lie, whichever process makes them."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small_runs"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "analysis", "notebooks", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def outputs(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


def words(output: dict) -> str:
    found = output.get("text", ()) or output.get("data", {}).get("text/plain", ())
    return "".join(found)


def test_all_notebooks_are_tried():
    assert names() == list(EXPECTED)
    assert names(["04", "01_f"]) == ["01_first_run", "04_rl2_regret"]
    with pytest.raises(ValueError, match="8: no such notebook; there are 01_first_run, 02_compare_algorithms"):
        names(["01", "8"])


@pytest.mark.timeout(600)  # on a busy machine; some ten seconds on a quiet one
@pytest.mark.parametrize("name", [marked(name) for name in EXPECTED])
def test_a_notebook_runs_from_top_to_bottom(name, runs, tmp_path):
    make_small_runs(name, runs)
    made = command(name, "--runs", runs, "-o", tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    assert f"{name}.html  (runs in {runs}" in made.stdout
    figures, texts = EXPECTED[name]
    found = outputs(tmp_path / f"{name}.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == figures
    assert [words(output) for output in found if output.get("name") == "stderr"] == []
    shown = "\n".join(map(words, found))
    for text in texts:
        assert text in shown
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".pdf", ".png"}
    assert len(list((tmp_path / "figures").iterdir())) == 2 * figures
    page = (tmp_path / f"{name}.html").read_text()
    assert len(re.findall(r'<img[^>]*src="data:image/png;base64', page, re.DOTALL)) == figures
    for fetched in ('src="http', "src='http", "@import url(http", 'from "http', "from 'http"):
        assert fetched not in page


@pytest.mark.parametrize("name", EXPECTED)
def test_the_first_cell_says_which_commands_make_the_runs(name):
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    kinds = [cell.cell_type for cell in notebook.cells]
    first = notebook.cells[kinds.index("code")].source
    assert 'COMMANDS = """' in first and "open_" in first
    lines = sum(len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code")
    assert lines < 70, "logic belongs into the modules"


def test_without_runs_a_notebook_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS, str(tmp_path))
    with pytest.raises(RunsMissingError, match=r"no runs there(.|\n)*python train.py -c mine(.|\n)*" + RUNS):
        open_runs("tag=mine", "python train.py -c mine")
    with pytest.raises(RunsMissingError, match=r"no sweep was submitted there(.|\n)*python -m slurm"):
        open_sweep(None, "python -m slurm submit mine.yaml")


def test_runs_of_which_none_has_completed_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(RUNS, str(tmp_path))
    write_record(tmp_path / "1", metrics={"loss": [1.0]}, status="FAILED", seed=1)
    with pytest.raises(RunsMissingError, match="none has completed yet; 1 runs: 1 FAILED"):
        open_runs("seed=1", "python train.py")
    write_record(tmp_path / "2", metrics={"loss": [1.0]}, seed=2)
    assert list(open_runs("seed<9", "python train.py", expected={"seed": [1, 2, 3]}).table.index) == ["1", "2"]
    shown = capsys.readouterr().out
    assert "2 runs: 1 FAILED, 1 COMPLETED" in shown or "2 runs: 1 COMPLETED, 1 FAILED" in shown
    assert "FAILED (run 1)" in shown and "missing:" in shown


def write_sweep(directory: Path, name: str, overrides: list[dict]) -> None:
    folder = directory / "_sweeps" / name
    folder.mkdir(parents=True)
    lines = [{"run": run, "seed": each["seed"], "overrides": each} for run, each in enumerate(overrides, start=1)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_of_a_sweep_what_failed_with_every_seed_is_not_done_again(tmp_path):
    write_sweep(tmp_path, "rates-1", [{"lr": lr, "size": 2, "seed": seed} for lr in (0.1, 0.2, 9.0) for seed in (0, 1)])
    for run, status in enumerate(("COMPLETED", "COMPLETED", "FAILED", "COMPLETED", "FAILED", "FAILED"), start=1):
        if run != 2:
            trace = {"fail_trace": [f"KeyError: {run}\n"]} if status == "FAILED" else {}
            write_record(tmp_path / str(run), metrics={"loss": [float(run)]}, status=status, run=trace)
    write_record(tmp_path / "7", metrics={"loss": [0.0]}, status="FAILED")
    sweep = load_sweep(tmp_path)
    assert (sweep.name, sweep.keys) == ("rates-1", ("lr",))
    assert list(sweep.table["status"]) == ["COMPLETED", "MISSING", "FAILED", "COMPLETED", "FAILED", "FAILED"]
    assert list(sweep.open().index) == ["2", "3", "5", "6"]
    assert sweep.open()["problems"].to_dict()["3"] == "KeyError: 3"
    assert sweep.hopeless().to_dict("records") == [{"lr": "9", "runs": 2, "problems": "KeyError: 6"}]
    assert sweep.retry() == "python -m slurm retry rates-1 --run 2 3"
    with pytest.raises(ValueError, match=r"rate-1: no such sweep(.|\n)*rates-1"):
        load_sweep(tmp_path, "rate-1")


def test_the_best_come_first():
    scores = pd.DataFrame({"group": ["a", "b", "a", "b", "c"], "value": [1.0, 5.0, 3.0, 7.0, 4.0]})
    found = ranking(scores, "mean")
    assert list(found["group"]) == ["b", "c", "a"] and list(found["runs"]) == [2, 1, 2]
    assert found["mean"].iloc[1] == "4.00 (no interval: 1 run)" and found["mean"].iloc[0].startswith("6.0 [")
