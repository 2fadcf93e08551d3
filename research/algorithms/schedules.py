"""Schedules: settings that change linearly over a training run.

`progress` is the finished fraction of the schedule's length (`ScheduledConfig`), from 0 to 1.
"""

from __future__ import annotations

from typing import Any


def interpolate(start: float, end: float, progress: Any) -> Any:
    """The value between `start` and `end` at a progress (a number, or an array): start + (end − start) · progress."""
    return start + (end - start) * progress


def anneal(rate: float, anneal_from: float, progress: float) -> float:
    """A step size that is constant and then falls linearly to 0: rate · min(1, (1 − progress) / (1 − anneal_from)).

    Args:
        rate: The step size at the start.
        anneal_from: Progress at which the fall begins, from 0 to 1; with 1 the step size is constant.
        progress: The finished fraction of the schedule; the step size is 0 from 1 on.
    """
    if anneal_from == 1:
        return rate
    return rate * max(0.0, min(1.0, (1 - progress) / (1 - anneal_from)))
