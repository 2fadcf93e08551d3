"""Notebooks, in jupytext's py:percent format, and what they share: `open_runs`, `open_sweep`, `show`.

    01_first_run           five seeds of one setting: learning curve, adaptation curve, numbers with intervals
    02_compare_algorithms  several algorithms on the same held-out tasks
    03_adaptation_curves   gradient, memory and value agents on one axis
    04_rl2_regret          RL² beside the classical bandit policies
    05_lookahead           games that plain steps circle in; DQN with slow weights
    06_meta_gradient_bias  estimators against the exact meta-gradient, and what their bias does to learning
    07_sweep_triage        what failed and why, what is missing, what to run again, the best settings

Jupyter with jupytext and VS Code open them as they are; the .ipynb are made by `make notebooks`, and not kept: a script
has readable differences and no outputs that are out of date. `METAPOLICY_NOTEBOOK_RUNS` says where the runs are (runs),
`METAPOLICY_NOTEBOOK_FIGURES` where figures go (build/figures); both from the root of the project.
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
"""Pixels of a browser that an inch of a figure takes: small print for a paper is legible on a screen, too."""


class RunsMissingError(ValueError):
    """There are no runs for a notebook; the message has the commands that make them."""


def runs_directory() -> Path:
    """Where the runs are that notebooks read."""
    return ROOT / os.environ.get(RUNS, "runs")


def open_runs(
    where: str, commands: str, expected: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]] = ()
) -> Runs:
    """The runs that a notebook reads. Prints what to know of them before anything is averaged.

    Args:
        where: Which, as `load_runs` has it.
        commands: What makes them, from the root of the project.
        expected: Settings with seeds, as `Runs.missing` has them; those without a completed run are printed.

    Raises:
        RunsMissingError: There are none, or none of those expected has completed.
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
    """A sweep that `python -m slurm submit` made: the one of that name, or the last one.

    Raises:
        RunsMissingError: There is none.
    """
    from analysis.data.sweeps import load_sweep

    try:
        return load_sweep(runs_directory(), name)
    except ValueError as error:
        raise _missing(str(error), commands) from error


def show(figure: Figure, name: str) -> None:
    """Shows a figure below the cell, and saves it as `<name>.pdf` and `<name>.png` where figures go."""
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
        f"Make them, from the root of the project, and run the notebook again:\n\n{commands.strip()}\n\n"
        f"Or say where they are: {RUNS}=directory. Small ones: make notebooks"
    )
