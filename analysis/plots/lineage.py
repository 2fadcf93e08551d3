"""Picture of the lineage of a population: the value of each member, copies, and the ancestry of the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.plots.style import COLOURS, COLUMN, INK, SMALL, caption, grid, make_figure

if TYPE_CHECKING:
    import pandas as pd

_FAINT = "#BBBBBB"


def plot_lineage(
    members: pd.DataFrame, copies: pd.DataFrame, ancestry: Sequence[int], *, label: str = "value", width: float = COLUMN
) -> Figure:
    """Draws the value of each member against the iteration.

    A grey line is a member that kept its state; a dashed arrow goes from a donor to the first value of a member that
    copied it. The ancestry of the best member is thick.

    Args:
        members: The values, see `analysis.data.populations.PopulationTables`, as for the next two.
        copies: The donors.
        ancestry: The member in which the state of the best one was, in each generation.
        label: Name of the value, for the axis.
        width: Width in inches.

    Raises:
        ValueError: No member has a value.
    """
    if members["value"].isna().all():
        raise ValueError(
            "members: no member of the population has a value; need at least one generation that has ended"
        )
    at = {(row.generation, row.member): (row.iteration, row.value) for row in members.itertuples()}
    donors = {(row.generation, row.member): row.donor for row in copies.itertuples()}
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        for (generation, member), donor in donors.items():
            start, end = at[generation, donor], at[generation + 1, member]
            style = (_FAINT, "-", 0.8) if donor == member else (COLOURS[1], (0, (3, 1.5)), 0.9)
            axes.plot(*zip(start, end, strict=True), color=style[0], ls=style[1], linewidth=style[2], zorder=2)
        axes.plot(members["iteration"], members["value"], ".", color=INK, markersize=2.5, zorder=3)
        line = [at[place] for place in enumerate(ancestry)]
        if line:
            axes.plot(*zip(*line, strict=True), color=COLOURS[0], linewidth=1.8, zorder=4)
        axes.set(xlabel="iteration", ylabel=label)
        grid(axes)
        caption(figure, ["grey: kept its state", "dashed: copied another member", "blue: ancestry of the best member"])
    return figure
