"""The start of a command imports what it uses: torch and pandas take seconds, for which users would wait each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if "run_commandline()" in path.read_text(encoding="utf-8")
)
LIBRARIES = {"matplotlib", "mujoco", "pandas", "plotly", "pymongo", "sacred", "scipy", "sympy", "torch"}
"""Those whose import takes longest. Sympy comes with some functions of torch."""

HELP = f"""
import contextlib, importlib
for name in {SCRIPTS}:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"experiments.{{name}}").experiment.run_commandline([name, "--help"])
"""
AGENTS = """
from research.algorithms import ALGORITHMS
from research.tracking import session
for name in ("maml_trpo", "rl2", "reptile_dqn"):
    ALGORITHMS[name](ALGORITHMS[name].Config()).init()
"""


def imported(*arguments, cwd=ROOT):
    """The slow libraries that a Python with these arguments imports, and what it prints."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "encodings" in names, "nothing was listed"
    return names & LIBRARIES, done.stdout


def test_every_script_prints_its_help_without_its_algorithm():
    assert len(SCRIPTS) > 7
    libraries, output = imported("-c", HELP)
    assert output.count("Usage:") == len(SCRIPTS)
    assert libraries == {"sacred"}


@pytest.mark.parametrize("arguments", ["-m slurm --help", "-m slurm status --runs-dir {}", "-m analysis --help"])
def test_commands_that_compute_nothing_import_nothing_for_it(tmp_path, arguments):
    libraries, _ = imported(*arguments.format(tmp_path).split())
    assert libraries == set()


def test_tables_need_pandas_alone(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").write_text('{"seed": 0}', encoding="utf-8")
    (tmp_path / "1" / "run.json").write_text('{"status": "COMPLETED"}', encoding="utf-8")
    libraries, _ = imported("-m", "analysis", "table", str(tmp_path))
    assert libraries == {"pandas"}


@pytest.mark.thorough
def test_agents_are_built_without_tables_pictures_and_algebra():
    libraries, _ = imported("-c", AGENTS)
    assert libraries == {"mujoco", "sacred", "torch"}
