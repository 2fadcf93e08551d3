"""Pictures of gradient estimators: bias, error and cosine against the number of episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.plots.labels import End, label_ends
from analysis.plots.style import COLOURS, COLUMN, INK, SMALL, STYLE, caption, grid, look, make_figure, save

if TYPE_CHECKING:
    import pandas as pd


def plot_bias(
    estimates: pd.DataFrame,
    *,
    label: str = "relative bias",
    x_label: str = "inner episodes",
    limits: Mapping[str, float] | None = None,
    interval: str = "bars: 1.96 standard errors to either side",
    title: str = "",
    width: float = COLUMN,
) -> Figure:
    """Draws the bias of estimators against the number of episodes, both on logarithmic axes.

    For a bias that is not significantly different from 0 (low ≤ 0), the upper end of its interval is drawn, as a hollow
    triangle.

    Args:
        estimates: Columns estimator, episodes, value, low, high.
        label: Name of the value, for the axis.
        x_label: Name of the number of episodes, for the axis.
        limits: Bias with infinitely many episodes, by estimator, drawn as dashed lines.
        interval: Description of low and high for the caption.
        title: Title above the picture.
        width: Width in inches.

    Raises:
        ValueError: A column is missing, or there are no rows.
    """
    _check(estimates)
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        ends = []
        for index, (name, rows) in enumerate(estimates.groupby("estimator", sort=False, observed=True)):
            ends.append(_draw_bias(axes, str(name), rows.sort_values("episodes"), index))
            if limits and name in limits:
                axes.axhline(limits[name], color=look(index)["color"], linewidth=0.8, ls=(0, (4, 2)), zorder=1)
        _frame(axes, x_label, label, title)
        notes = [interval, "hollow triangles: not told from 0, at most this"]
        caption(figure, [*notes, *(["dashed: with infinitely many"] if limits else [])])
        label_ends(figure, axes, ends)
    return figure


def _frame(axes: Axes, x_label: str, label: str, title: str) -> None:
    axes.set(xlabel=x_label, ylabel=label, yscale="log")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left")
    grid(axes)


def _check(estimates: pd.DataFrame) -> None:
    missing = [name for name in ("estimator", "episodes", "value", "low", "high") if name not in estimates.columns]
    if missing:
        raise ValueError(f"estimates: need rows with the columns {', '.join(missing)} too")
    if not len(estimates):
        raise ValueError("estimates: they have no rows")


def _draw_bias(axes: Axes, name: str, rows: pd.DataFrame, index: int) -> End:
    """Draws the line of an estimator with its intervals. Returns the end of the line."""
    x, value, low, high = rows[["episodes", "value", "low", "high"]].to_numpy(np.float64).T
    told, colour = low > 0, look(index)["color"]
    axes.vlines(x[told], low[told], high[told], color=colour, linewidth=0.9)
    axes.plot(x, np.where(told, value, np.nan), **look(index), linewidth=1.2, marker="o", markersize=3)
    axes.plot(x[~told], high[~told], color=colour, linewidth=0, marker="v", markersize=4, markerfacecolor="w")
    return End(float(x[-1]), float(value[-1] if told[-1] else high[-1]), name, colour)


def plot_estimates(
    panels: Mapping[str, Mapping[str, Sequence[Any]]],
    sizes: Sequence[int],
    limits: Mapping[str, float],
    path: Path | str,
) -> None:
    """Draws bias, error and cosine of estimators against the number of episodes, a column for each panel.

    For a bias that is not significantly different from 0, the upper end of its interval is drawn, as a hollow triangle.

    Args:
        panels: An estimate for each size, by title and estimator, with `bias`, `rmse` and `cosine` as
            (value, low, high).
        sizes: Numbers of episodes.
        limits: Bias with infinitely many episodes, by estimator, drawn as dashed lines.
        path: The file to write.
    """
    fields = {"bias": "relative bias", "rmse": "relative RMSE", "cosine": "cosine"}
    with rc_context(STYLE):
        figure = make_figure(6.6, 6.4)
        grid = figure.subplots(len(fields), len(panels), sharex=True, sharey="row", squeeze=False)
        for column, (title, estimators) in enumerate(panels.items()):
            grid[0][column].set_title(title, loc="left")
            grid[-1][column].set_xlabel("inner episodes")
            for row, field in enumerate(fields):
                _draw_estimates(grid[row][column], estimators, sizes, field)
            for name in limits.keys() & estimators.keys():
                colour = COLOURS[list(estimators).index(name)]
                grid[0][column].axhline(limits[name], color=colour, linewidth=1.0, ls="--", zorder=1)
        for axes, label in zip(grid[:, 0], fields.values(), strict=True):
            axes.set_ylabel(label)
        handles, labels = grid[0][0].get_legend_handles_labels()
        handles.append(Line2D([], [], color=INK, linewidth=1.0, ls="--"))
        handles.append(Line2D([], [], color=INK, linewidth=0, marker="v", markersize=5, markerfacecolor="w"))
        labels += ["with infinitely many", "not told from 0: at most this"]
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        save(figure, path)


def _draw_estimates(axes: Axes, estimators: Mapping[str, Sequence[Any]], sizes: Sequence[int], field: str) -> None:
    """Draws the estimators at each size, with intervals."""
    for index, (name, estimates) in enumerate(estimators.items()):
        value, low, high = np.transpose([getattr(estimate, field) for estimate in estimates])
        told = low > 0 if field == "bias" else np.ones(len(sizes), bool)
        colour, x = COLOURS[index], np.array(sizes) * 1.07 ** (index - (len(estimators) - 1) / 2)
        axes.vlines(x[told], low[told], high[told], color=colour, linewidth=1.0)
        axes.plot(x, np.where(told, value, np.nan), color=colour, linewidth=1.2, marker="o", markersize=4, label=name)
        axes.plot(x[~told], high[~told], color=colour, linewidth=0, marker="v", markersize=5, markerfacecolor="w")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    if field != "cosine":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.yaxis.grid(visible=True, linewidth=0.5, alpha=0.3)
