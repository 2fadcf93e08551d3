"""The house style of pictures: colours, sizes, captions, and files that are the same bytes for the same data."""

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
"""The same, darkened to a contrast of 3 with white where thin lines need it; sky blue is too near to blue then."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
"""Dash patterns that distinguish lines without colour; the first is solid."""

INK = "#333333"
COLUMN = 3.3
"""Inches of a column of a two-column paper."""

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
"""For pictures as wide as a column, printed as they are: no text below 7 points."""

_CAPTION = 7
_CAPTION_LINES = 3
"""Points of the caption's letters, and the lines for which the sizes of pictures leave room."""


def make_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, with a canvas that needs no screen."""
    figure = Figure((width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path | str) -> Path:
    """Writes a figure; the ending of the path chooses the format: `.png`, `.pdf` or `.svg`. Returns the path.

    The same figure gives the same bytes: no date is written, and ids are not random.

    Raises:
        ValueError: The ending is another one.
    """
    target = Path(path)
    dates = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    if target.suffix.lower() not in dates:
        raise ValueError(f"path={str(path)!r}: need a name that ends in {', '.join(dates)}")
    with rc_context(SMALL if figure.get_size_inches()[0] <= COLUMN else STYLE):
        figure.savefig(target, metadata=dates[target.suffix.lower()])
    return target


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of the group with that index."""
    return {"color": LINES[index % len(LINES)], "linestyle": DASHES[index % len(DASHES)]}


def caption(figure: Figure, sentences: Sequence[str]) -> None:
    """Writes what a reader must know below the picture: how many runs, which interval, what was cut."""
    characters = int(figure.get_size_inches()[0] * 72 / (0.55 * _CAPTION))
    text = textwrap.fill(" ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences), characters)
    more = text.count("\n") + 1 - _CAPTION_LINES
    if more > 0:  # the picture keeps its size
        figure.set_figheight(figure.get_figheight() + more * 1.25 * _CAPTION / 72)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=_CAPTION, linespacing=1.25)


def grid(axes: Axes, axis: str = "y") -> None:
    """Faint lines behind the data, across one axis."""
    (axes.yaxis if axis == "y" else axes.xaxis).grid(visible=True, linewidth=0.5, alpha=0.3)
    axes.set_axisbelow(True)


def thousands(axis: Any, largest: float) -> None:
    """Ticks such as 250k and 1M where numbers are large."""
    if largest >= 10_000:
        axis.set_major_formatter(EngFormatter(sep=""))
