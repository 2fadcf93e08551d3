"""Progress of a run on screen: a live bar on a terminal, and elsewhere a line every few seconds.

The bar is drawn on the terminal only, never into the captured output: the record holds whole lines only.
"""

from __future__ import annotations

import datetime
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TextIO

from tqdm import tqdm

from research.types import Metrics


def make_progress(start: int, total: int, columns: Mapping[str, str]) -> Lines:
    """Returns a bar if standard error is a terminal, and lines otherwise. Arguments as for `Lines`."""
    # Sacred's capture wraps the streams; the bar is drawn on the wrapped terminal.
    terminal = getattr(sys.stderr, "__wrapped__", sys.stderr)
    return Bar(start, total, columns, terminal) if terminal.isatty() else Lines(start, total, columns)


def format_metrics(metrics: Metrics, columns: Mapping[str, str]) -> str:
    """Returns the metrics of some columns in one line: `before -38.20  after -12.10  KL 0.0097  steps/s 412,000`."""
    return "  ".join(f"{label} {_number(metrics[name])}" for label, name in columns.items() if name in metrics)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


@dataclass
class Lines:
    """Prints a line after the first and the last iteration, and every few seconds in between.

    Attributes:
        start: Iterations that were finished before.
        total: Iterations at the end.
        columns: Metrics to show, as `{label: metric name}`; metrics that an algorithm does not report are left out.
        interval: Seconds between two lines.
        clock: Returns the time in seconds.
    """

    start: int
    total: int
    columns: Mapping[str, str]
    interval: float = 5.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.printed = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self, iteration: int, metrics: Metrics) -> None:
        """Shows that an iteration is finished."""
        now = self.clock()
        if now - self.printed < self.interval and iteration < self.total:
            return
        self.printed = now
        left = (now - self.began) / (iteration - self.start) * (self.total - iteration)
        clock = datetime.timedelta(seconds=round(left))
        print(f"iteration {iteration}/{self.total}  {format_metrics(metrics, self.columns)}  left {clock}", flush=True)

    def message(self, text: str) -> None:
        """Prints a line that stays, and that the captured output contains."""
        print(text, flush=True)


class _QuietBar(tqdm):
    monitor_interval = 0  # no thread that redraws at other times


class Bar(Lines):
    """Draws a live bar on a terminal. The other arguments are those of `Lines`."""

    def __init__(self, start: int, total: int, columns: Mapping[str, str], terminal: TextIO):
        super().__init__(start, total, columns)
        # A terminal cuts off the right end of a long line, so the metrics are there.
        layout = "iteration {n_fmt}/{total_fmt} |{bar}| left {remaining}  {desc}"
        self.bar = _QuietBar(initial=start, total=total, file=terminal, bar_format=layout, dynamic_ncols=True)

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def update(self, iteration: int, metrics: Metrics) -> None:
        self.bar.set_description_str(format_metrics(metrics, self.columns), refresh=False)
        self.bar.update(iteration - self.bar.n)

    def message(self, text: str) -> None:
        self.bar.clear()
        super().message(text)
        self.bar.refresh()
