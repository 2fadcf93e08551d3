"""What a person sees of a run while it runs: a live bar on a terminal, a line every few seconds anywhere else.

The bar is drawn on the terminal alone, never into the captured output: the record holds whole lines only.
"""

from __future__ import annotations

import datetime
import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from tqdm import tqdm

from research.types import Metrics


class Progress(Protocol):
    """Shows how far a run is."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> None: ...

    def update(self, iteration: int, metrics: Metrics) -> None:
        """After each iteration."""

    def message(self, text: str) -> None:
        """A line that stays, in the captured output too."""


def make_progress(start: int, total: int, columns: Mapping[str, str]) -> Progress:
    """A bar if this is a terminal, lines otherwise.

    Args:
        start: Iterations that are finished already.
        total: Iterations at the end.
        columns: Metrics to show, as `{label: metric name}`; one that an algorithm does not report is left out.
    """
    # Sacred's capture wraps the streams; the bar goes to the terminal behind it.
    terminal = getattr(sys.stderr, "__wrapped__", sys.stderr)
    return Bar(start, total, columns, terminal) if terminal.isatty() else Lines(start, total, columns)


def format_metrics(metrics: Metrics, columns: Mapping[str, str]) -> str:
    """`before -38.20  after -12.10  KL 0.0097  steps/s 412,000`."""
    return "  ".join(f"{label} {_number(metrics[name])}" for label, name in columns.items() if name in metrics)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


class Lines:
    """A plain line after the first and the last iteration, and every few seconds between.

    Args:
        start: Iterations that are finished already.
        total: Iterations at the end.
        columns: Metrics to show.
        interval: Seconds between lines.
        clock: Seconds, from anywhere.
    """

    def __init__(
        self,
        start: int,
        total: int,
        columns: Mapping[str, str],
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.start = start
        self.total = total
        self.columns = columns
        self.interval = interval
        self.clock = clock
        self.began = clock()
        self.printed = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, iteration: int, metrics: Metrics) -> None:
        now = self.clock()
        if now - self.printed < self.interval and iteration < self.total:
            return
        self.printed = now
        left = (now - self.began) / (iteration - self.start) * (self.total - iteration)
        clock = datetime.timedelta(seconds=round(left))
        print(f"iteration {iteration}/{self.total}  {format_metrics(metrics, self.columns)}  left {clock}", flush=True)

    def message(self, text: str) -> None:
        print(text, flush=True)


class _QuietBar(tqdm):
    monitor_interval = 0  # no thread that redraws behind our back


class Bar:
    """A live bar on a terminal. Arguments as for `Lines`, and the terminal."""

    def __init__(self, start: int, total: int, columns: Mapping[str, str], terminal: TextIO):
        self.columns = columns
        # What does not fit is cut off on the right, so what matters least stands there.
        layout = "iteration {n_fmt}/{total_fmt} |{bar}| left {remaining}  {desc}"
        self.bar = _QuietBar(initial=start, total=total, file=terminal, bar_format=layout, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def update(self, iteration: int, metrics: Metrics) -> None:
        self.bar.set_description_str(format_metrics(metrics, self.columns), refresh=False)
        self.bar.update(iteration - self.bar.n)

    def message(self, text: str) -> None:
        self.bar.clear()
        print(text, flush=True)
        self.bar.refresh()
