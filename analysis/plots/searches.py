"""Pictures of a search: its history, its trials as parallel coordinates, and the importances of its dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.plots.style import COLOURS, COLUMN, SMALL, caption, grid, make_figure

if TYPE_CHECKING:
    import pandas as pd

_DECADES = 30.0
"""Ratio of the ends of positive values from which their axis is logarithmic."""


def plot_history(history: pd.DataFrame, label: str, width: float = COLUMN) -> Figure:
    """Draws the value of each trial, and the best so far, against the number of the trial.

    Args:
        history: The frame of `Search.history`.
        label: Name of the objective.
        width: Width in inches.

    Raises:
        ValueError: No trial has a value.
    """
    _require(history)
    with rc_context(SMALL):
        figure = make_figure(width, 0.72 * width)
        axes = figure.subplots()
        axes.plot(history["trial"], history["value"], "o", color=COLOURS[0], markersize=3)
        axes.step(history["trial"], history["best"], where="post", color=COLOURS[1], linewidth=1.2)
        axes.set(xlabel="trial", ylabel=label)
        grid(axes)
        caption(figure, [f"{len(history)} trials that were trained furthest", "line: the best so far"])
    return figure


def plot_importances(importances: pd.DataFrame, width: float = COLUMN) -> Figure:
    """Draws the importances of the dimensions as bars.

    Args:
        importances: The frame of `Search.importances`.
        width: Width in inches.

    Raises:
        ValueError: There are none.
    """
    _require(importances)
    with rc_context(SMALL):
        figure = make_figure(width, 0.5 + 0.22 * len(importances))
        axes = figure.subplots()
        axes.barh(importances["dimension"][::-1], importances["importance"][::-1], color=COLOURS[0], height=0.6)
        axes.set(xlabel="importance")
        grid(axes, "x")
    return figure


def plot_parallel(trials: pd.DataFrame, dimensions: list[str], label: str, width: float = 6.5) -> Figure:
    """Draws each trial with a value as a line through its settings; dark lines have large values.

    Args:
        trials: The frame `Search.trials`.
        dimensions: The dimensions, one axis each; the value of the objective is the last axis.
        label: Name of the objective.
        width: Width in inches.

    Raises:
        ValueError: No trial has a value.
    """
    known = trials.dropna(subset=["value"]).sort_values("value")
    _require(known)
    with rc_context(SMALL):
        figure = make_figure(width, 2.8)
        axes = figure.subplots()
        names = [*dimensions, "value"]
        heights = np.stack([_heights(axes, place, known[name]) for place, name in enumerate(names)], axis=1)
        ranks = np.linspace(0, 1, len(known))
        for row, rank in zip(heights, ranks, strict=True):
            axes.plot(range(len(names)), row, color=matplotlib.colormaps["viridis_r"](rank), linewidth=0.8, alpha=0.8)
        axes.set_xticks(range(len(names)), [*dimensions, label], rotation=20, ha="right")
        axes.set(yticks=[], ylim=(-0.12, 1.12))
        axes.grid(visible=True, axis="x", linewidth=0.5)
        caption(figure, [f"{len(known)} trials with a value", "dark: large values"])
    return figure


def _heights(axes: Axes, place: int, values: pd.Series[Any]) -> NDArray[np.float64]:
    """Returns the heights of values on an axis, 0 to 1, NaN for none, and writes the ends next to it."""
    numbers = values.to_numpy()
    if not all(isinstance(one, (int, float)) for one in numbers):
        options = sorted({str(one) for one in numbers})
        for index, option in enumerate(options):
            axes.text(place + 0.04, index / max(1, len(options) - 1), option, fontsize=6, va="center")
        return np.asarray([options.index(str(one)) / max(1, len(options) - 1) for one in numbers])
    found = numbers.astype(np.float64)
    low, high = float(np.nanmin(found)), float(np.nanmax(found))
    for end, height in ((low, -0.06), (high, 1.06)):
        axes.text(place, height, f"{end:.3g}", fontsize=6, ha="center", va="center")
    if low > 0 and high / low > _DECADES:
        found, low, high = np.log(found), float(np.log(low)), float(np.log(high))
    return (found - low) / (high - low if high > low else 1.0)


def _require(frame: pd.DataFrame) -> None:
    if frame.empty:
        raise ValueError("the search has no trial with a value yet; nothing can be drawn")
