"""Asynchronous successive halving (ASHA): which trial is promoted, as a pure function of the results so far.

    rungs: …, R / η², R / η, R iterations, rounded up, R being the whole length; none below the least
    a worker is free:
        for rung in all but the last, from the highest down:
            the candidates: the best ⌊n / η⌋ of the n trials that have finished the rung
            if one of them was not promoted yet: the best such trial trains on to the next rung
        otherwise a new trial trains to the first rung

Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934, Algorithm 2.

Differs from the paper: rungs are counted from the whole length down, so that each is η times as long as the one before;
the least length takes the place of the early-stopping rate; equal results are ordered by the number of the trial.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Promotion(NamedTuple):
    """A trial that trains on.

    Attributes:
        trial: Number of the trial.
        rung: The rung to which it trains.
    """

    trial: int
    rung: int


def rungs(least: int, reduction: int, whole: int) -> list[int]:
    """Returns the iterations of all rungs, ascending; the last one is the whole length.

    >>> rungs(5, 3, 50), rungs(60, 3, 50)
    ([6, 17, 50], [50])
    """
    found = [whole]
    while (shorter := -(-whole // reduction ** len(found))) >= least and shorter < found[0]:
        found.insert(0, shorter)
    return found


def next_promotion(
    finished: Sequence[Mapping[int, float]], promoted: Sequence[Collection[int]], reduction: int
) -> Promotion | None:
    """Returns the promotion that is due; None if there is none.

    >>> next_promotion([{0: 1.0, 1: 3.0, 2: 2.0}, {}], [set(), set()], 3)
    Promotion(trial=1, rung=1)

    Args:
        finished: For each rung the result of each trial that has finished it; larger is better. Trials that have lost
            have minus infinity.
        promoted: For each rung the trials that were promoted from it.
        reduction: η.
    """
    for rung in range(len(finished) - 2, -1, -1):
        results = finished[rung]
        order = sorted(results, key=lambda trial: (-results[trial], trial))
        for trial in order[: len(order) // reduction]:
            if trial not in promoted[rung] and results[trial] > float("-inf"):
                return Promotion(trial, rung + 1)
    return None
