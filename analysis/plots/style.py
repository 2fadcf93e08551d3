"""The common style of pictures: colours, sizes, captions, and reproducible files: the same data give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Blue, vermilion, green, purple, orange, sky blue, black: Okabe & Ito (2008), distinct for colour-blind readers."""

LINES = ("#0072B2", "#D55E00", "#00875F", "#B5578C", "#A87400", "#000000")
"""The same for thin lines, darkened to a contrast of 3 with white; without sky blue, which becomes similar to blue."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
"""Dash patterns that distinguish lines without colour; the first is solid."""

INK = "#333333"
COLUMN = 3.3
"""Width of a column of a two-column paper, in inches."""

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that pictures do not depend on the machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text in an editor
    "svg.hashsalt": "metapolicy",  # ids in SVG files are hashes of what they name, salted at random without this
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
}

SMALL: Any = STYLE | {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "savefig.dpi": 300,
}
"""Style of pictures that are as wide as a column: no text below 7 points."""

_CAPTION = 7
_CAPTION_LINES = 3
"""Font size of the caption in points, and the number of its lines that the size of a picture includes."""


def make_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches, with a canvas that needs no screen."""
    figure = Figure((width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path | str) -> Path:
    """Writes a figure to a file in the format of its suffix: `.png`, `.pdf` or `.svg`. Returns the path.

    The same figure gives the same bytes: the file has no date and no random ids.

    Raises:
        ValueError: The path has another suffix.
    """
    target = Path(path)
    dates = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    if target.suffix.lower() not in dates:
        raise ValueError(f"path={str(path)!r}: need a name that ends in {', '.join(dates)}")
    with rc_context(SMALL if figure.get_size_inches()[0] <= COLUMN else STYLE):
        figure.savefig(target, metadata=dates[target.suffix.lower()])
    return target


def look(index: int) -> dict[str, Any]:
    """Returns the colour and the dash pattern of the group with that index."""
    return {"color": LINES[index % len(LINES)], "linestyle": DASHES[index % len(DASHES)]}


def caption(figure: Figure, sentences: Sequence[str]) -> None:
    """Writes the caption below the picture: number of runs, kind of interval, and changes to the data."""
    characters = int(figure.get_size_inches()[0] * 72 / (0.55 * _CAPTION))
    text = textwrap.fill(" ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences), characters)
    more = text.count("\n") + 1 - _CAPTION_LINES
    if more > 0:  # the picture keeps its size
        figure.set_figheight(figure.get_figheight() + more * 1.25 * _CAPTION / 72)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=_CAPTION, linespacing=1.25)


def grid(axes: Axes, axis: str = "y") -> None:
    """Draws faint grid lines behind the data, for one axis."""
    (axes.yaxis if axis == "y" else axes.xaxis).grid(visible=True, linewidth=0.5, alpha=0.3)
    axes.set_axisbelow(True)


def thousands(axis: Any, largest: float) -> None:
    """Sets tick labels such as 250k and 1M if the largest number is at least 10,000."""
    if largest >= 10_000:
        axis.set_major_formatter(EngFormatter(sep=""))
