"""Names at the ends of lines, placed so that none overlaps another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

_WRAP = 20
_AWAY = 1.04
"""Left edge of the names, in widths of the axes."""


class End(NamedTuple):
    """The last point of a line in data coordinates, with its name and colour."""

    x: float
    y: float
    name: str
    colour: str


def spread_apart(places: ArrayLike, sizes: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """Returns the positions nearest to the desired ones at which intervals of these sizes do not overlap.

    Least squares: after subtraction of the sizes of the preceding intervals, positions must be non-decreasing, which is
    isotonic regression (pool adjacent violators). Its result is clipped to keep the intervals between `low` and `high`.

    Args:
        places: Desired positions of the centres, in any order, `[n]`.
        sizes: Length of each interval, `[n]`.
        low: Lower limit of all intervals.
        high: Upper limit of all intervals; exceeded if they are longer in total than `high` − `low`.

    Returns:
        Positions `[n]`, in the order of `places`.
    """
    wanted, lengths = np.asarray(places, np.float64), np.asarray(sizes, np.float64)
    order = wanted.argsort(kind="stable")
    room = lengths[order].cumsum() - lengths[order] / 2
    blocks: list[list[float]] = []
    for value in wanted[order] - room:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])
    found = np.empty_like(wanted)
    found[order] = np.clip(level, low, max(low, high - lengths.sum())) + room
    return found


def label_ends(figure: Figure, axes: Axes, ends: Sequence[End]) -> None:
    """Writes each name to the right of the axes, as near to the end of its line as possible without overlap.

    The text is dark, since text in pale colours is hard to read; a short line in the colour leads to each name.
    """
    names = [
        axes.annotate(
            textwrap.fill(end.name, _WRAP, break_long_words=False),
            (end.x, end.y),
            xytext=(_AWAY, 0.5),
            textcoords="axes fraction",
            va="center",
            arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 2,
                        "relpos": (0, 0.5)},
            annotation_clip=False,
        )
        for end in ends
    ]  # fmt: skip
    figure.draw_without_rendering()  # only now it is known how large anything is
    frame = axes.get_window_extent()
    heights = [1.05 * Text.get_window_extent(name).height for name in names]  # without the line that leads there
    wanted = [axes.transData.transform((end.x, end.y))[1] for end in ends]
    for name, place in zip(names, spread_apart(wanted, heights, frame.y0, frame.y1), strict=True):
        name.set_position((_AWAY, (place - frame.y0) / frame.height))
