"""Checks of the frames that pictures are drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def grouped(frame: pd.DataFrame, *more: str) -> dict[str, pd.DataFrame]:
    """Returns the rows of each group, in the order in which the groups first appear.

    Args:
        frame: Columns group, run, value, and `more`.
        more: Names of other required columns.

    Raises:
        ValueError: A column is missing, or there are no rows.
    """
    missing = [column for column in ("group", "run", "value", *more) if column not in frame.columns]
    if missing:
        raise ValueError(f"frame: need the columns {', '.join(missing)} too, got {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise ValueError("frame: it has no rows; which runs were selected, and do they have the metric?")
    return {str(name): frame[frame["group"] == name] for name in frame["group"].unique()}
