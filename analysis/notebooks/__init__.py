"""Notebooks in jupytext's py:percent format, and their common functions: `open_runs`, `open_sweep`, `show`.

    01_first_run           five seeds of one setting: learning curve, adaptation curve, numbers with intervals
    02_compare_algorithms  several algorithms on the same held-out tasks
    03_adaptation_curves   gradient, memory and value agents on one axis
    04_rl2_regret          RL² compared with classical bandit policies
    05_lookahead           games in which plain gradient steps circle; DQN with slow weights
    06_meta_gradient_bias  estimators compared with the exact meta-gradient, and the effect of their bias on learning
    07_sweep_triage        failed and missing runs of a sweep, the runs to retry, the best settings

Jupyter (with jupytext) and VS Code open them directly. `make notebooks` makes .ipynb files, which are not version
controlled: scripts have readable diffs and no outdated outputs. `METAPOLICY_NOTEBOOK_RUNS` is the directory of the runs
(runs), `METAPOLICY_NOTEBOOK_FIGURES` the directory for figures (build/figures), relative to the root of the project.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.data.load import Runs
    from analysis.data.sweeps import Sweep

ROOT = Path(__file__).resolve().parents[2]
RUNS, FIGURES = "METAPOLICY_NOTEBOOK_RUNS", "METAPOLICY_NOTEBOOK_FIGURES"
_INCHES = 130
"""Pixels in a browser for an inch of a figure, so that text of the size for papers is legible on a screen."""


class RunsMissingError(ValueError):
    """Raised if a notebook finds no runs. The message contains the commands that make them."""


def runs_directory() -> Path:
    """Returns the directory of the runs that notebooks read."""
    return ROOT / os.environ.get(RUNS, "runs")


def open_runs(
    where: str, commands: str, expected: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]] = ()
) -> Runs:
    """Loads the runs of a notebook. Prints their statuses and problems, and the expected runs that are missing.

    Args:
        where: The condition that selects runs, as in `load_runs`.
        commands: The commands that make the runs, from the root of the project.
        expected: The settings and seeds of the expected runs, as in `Runs.missing`.

    Raises:
        RunsMissingError: No run is selected, or none has completed.
    """
    from analysis.data.load import load_runs

    directory = runs_directory()
    try:
        runs = load_runs(directory, where)
    except ValueError as error:
        raise _missing(str(error), commands) from error
    if not (runs.table["status"] == "COMPLETED").any():
        raise _missing(f"none has completed yet; {runs.report()}", commands)
    print(runs.report())
    if expected:
        lacking = runs.missing(expected)
        print("missing: none" if lacking.empty else f"missing:\n{lacking.to_string(index=False)}")
    return runs


def open_sweep(name: str | None, commands: str) -> Sweep:
    """Loads a sweep that `python -m slurm submit` made, by default the last one.

    Raises:
        RunsMissingError: There is no such sweep.
    """
    from analysis.data.sweeps import load_sweep

    try:
        return load_sweep(runs_directory(), name)
    except ValueError as error:
        raise _missing(str(error), commands) from error


def show(figure: Figure, name: str) -> None:
    """Displays a figure, and saves it as `<name>.pdf` and `<name>.png` in the directory for figures."""
    from IPython.display import Image, display

    from analysis import plots

    directory = ROOT / os.environ.get(FIGURES, "build/figures")
    directory.mkdir(parents=True, exist_ok=True)
    plots.save(figure, directory / f"{name}.pdf")
    picture = plots.save(figure, directory / f"{name}.png")
    display(Image(picture.read_bytes(), width=round(_INCHES * figure.get_size_inches()[0])))


def _missing(why: str, commands: str) -> RunsMissingError:
    return RunsMissingError(
        f"no runs for this notebook in {runs_directory()}: {why}\n\n"
        f"Make them from the root of the project, and run the notebook again:\n\n{commands.strip()}\n\n"
        f"Or give their directory: {RUNS}=directory. `make notebooks` makes small ones."
    )
