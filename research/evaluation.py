"""Adaptation curves: the score of an agent on tasks of a split before adaptation and after each step of it.

Each family of algorithms builds its curves in a module of its own (`algorithms/*/evaluation.py`). The training loop,
the records, the analysis and the reports treat the curves of all families alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.rng import Rows
from research.tasks import TaskDistribution
from research.tasks.base import DescribedTasks
from research.tasks.splits import Evaluated

if TYPE_CHECKING:
    from research.types import Trajectories, Trials


class Episodes(NamedTuple):
    """The episodes from which returns were computed, and the seeds with which they can be repeated.

    Attributes:
        trajectories: The episodes at each step of adaptation, steps + 1 entries.
        reset_seeds: The seed of the environments' reset at each step of adaptation, steps + 1 entries.
    """

    trajectories: tuple[Trajectories, ...]
    reset_seeds: tuple[int, ...]


class RecordedTrials(NamedTuple):
    """One trial of each of a few tasks of an evaluation, and what is needed to repeat them.

    Attributes:
        trials: The trials, `[tasks, 1, time, ...]`.
        tasks: Index of each of these tasks in the evaluation, `[tasks]`.
        rows: Their rows in the environments of the evaluation.
        reset_seed: The seed of the first reset of these environments.
    """

    trials: Trials
    tasks: NDArray[np.intp]
    rows: Rows
    reset_seed: int


class AdaptationCurve(NamedTuple):
    """The score of every task of an evaluation before adaptation and after each step of it.

    Attributes:
        label: Name of the score, e.g. `"mean return"`.
        score: `[steps + 1, tasks]`; entry k is the score after k steps of adaptation.
        tasks: The task batch.
        unit: Name of a step of adaptation, in the plural.
        lower_is_better: Whether the score is an error.
        distribution: The distribution of the tasks; None if there are no environments.
        extras: Other quantities of each step and task by name, each `[steps + 1, tasks]`, e.g. `"regret"`.
        totals: Quantities of all steps together by name, each `[tasks]`, e.g. `"total_regret"`.
        details: The data from which the scores were computed, e.g. `Episodes` or `RecordedTrials`; None if they are not
            kept. Only code that belongs to one kind of agent reads them.
        evaluated: The split of the tasks, and whether they are held out of training.
    """

    label: str
    score: NDArray[np.float64]
    tasks: Any
    unit: str = "gradient steps"
    lower_is_better: bool = False
    distribution: TaskDistribution | None = None
    extras: Mapping[str, NDArray[np.float64]] = MappingProxyType({})
    totals: Mapping[str, NDArray[np.float64]] = MappingProxyType({})
    details: Any = None
    evaluated: Evaluated = Evaluated()

    def distinct(self) -> NDArray[np.intp]:
        """Returns the number of the distinct task of each column, `[tasks]`: 0, 1, 0, 1 for two tasks that alternate.

        Distinct tasks are numbered in the order of their first appearance.
        """
        if not isinstance(self.tasks, tuple):  # no task batch
            return np.arange(self.score.shape[1])
        numbers: dict[bytes, int] = {}
        fields = [np.asarray(field) for field in self.tasks]
        rows = (b"".join(field[task].tobytes() for field in fields) for task in range(self.score.shape[1]))
        return np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.intp)

    def has_all_tasks(self) -> bool:
        """Returns whether these are all tasks of the family, each equally often: then no task was drawn."""
        counts = np.bincount(self.distinct())
        return len(counts) == self.evaluated.num_tasks and counts.min() == counts.max()

    def summary(self) -> dict[str, Any]:
        """Returns the split, and the means over tasks: the score after each step, and the totals by their names."""
        means = {name: float(values.mean()) for name, values in self.totals.items()}
        scores = {"label": self.label, "unit": self.unit, "score": self.score.mean(1).tolist(), **means}
        return scores | {"split": self.evaluated.split, "held_out": self.evaluated.held_out}

    def by_task(self) -> dict[str, Any]:
        """Returns the content of `evaluation.json`: the score and the extras of every task, `[steps + 1, tasks]`."""
        distinct = self.distinct()
        _, first = np.unique(distinct, return_index=True)
        distribution: Any = self.distribution
        names = None
        if isinstance(distribution, DescribedTasks) and len(first) < len(distinct):
            names = {name: [texts[i] for i in first] for name, texts in distribution.describe(self.tasks).items()}
        return {
            "label": self.label,
            "unit": self.unit,
            "lower_is_better": self.lower_is_better,
            "split": self.evaluated.split,
            "held_out": self.evaluated.held_out,
            "tasks": {"how": self.evaluated.how, "distinct": distinct.tolist(), "describe": names},
            "score": self.score.tolist(),
            **{name: values.tolist() for name, values in self.extras.items()},
        }


def check_num_adapt_steps(num_adapt_steps: int) -> None:
    """Raises ValueError if the number of adaptation steps is below 0."""
    if num_adapt_steps < 0:
        raise ValueError(f"num_adapt_steps={num_adapt_steps}: need at least 0 steps")


def spread(length: int, count: int) -> list[int]:
    """Returns at most `count` indices of a list of this length, evenly spaced from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, length - 1, min(length, count))})
