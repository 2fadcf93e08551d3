"""The splits of a task distribution: which tasks an evaluation is of, in one place that every text and record follows.

    train        tasks as training draws them
    validation   tasks that choose between states of a training (`best.pt`) and between settings
    test         tasks that report the result; nothing is chosen by them

Test and validation tasks are two fixed sequences. Where there are too few tasks to hold some out, a distribution says
so in its `split`, and evaluations have other episodes of the tasks of training.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from research.rng import generator
from research.tasks.base import TaskSource, ValidationTasks

SplitName = Literal["test", "validation", "train"]

_NAMES: dict[SplitName, str] = {"test": "test", "validation": "validation", "train": "training"}


class Evaluated(NamedTuple):
    """The tasks that an evaluation is of.

    Attributes:
        split: The split that they are taken from.
        held_out: Whether training never draws one of them; None if the distribution does not say so.
        how: The reason, for readers of the results.
        num_tasks: Number of tasks of the family, if evaluations have all of them in turn; None: they have others.
    """

    split: SplitName = "test"
    held_out: bool | None = None
    how: str = ""
    num_tasks: int | None = None

    def tasks(self, count: int = 2) -> str:
        """Returns a name of `count` of these tasks, e.g. `"held-out test tasks"`.

        >>> Evaluated("test", True).tasks(), Evaluated("validation", False).tasks(1)
        ('held-out test tasks', 'validation task (those of training)')
        """
        name = f"{'held-out ' * (self.held_out is True)}{_NAMES[self.split]} task{'s' * (count != 1)}"
        is_repeated = self.held_out is False and self.split != "train"
        return f"{name} (those of training)" if is_repeated else name


def evaluation_tasks(distribution: TaskSource, split: SplitName, num_tasks: int) -> tuple[Any, Evaluated]:
    """Returns the first tasks of a split, and a description of them.

    Without `ValidationTasks`, validation tasks are draws of `sample` from a random stream of their own.

    Args:
        distribution: The task distribution.
        split: The split.
        num_tasks: Number of tasks.

    Raises:
        ValueError: The split has fewer tasks.
    """
    said = distribution.split
    if split == "test":
        return distribution.test_tasks(num_tasks), Evaluated(split, said.disjoint, said.how, said.num_tasks)
    if split == "validation" and isinstance(distribution, ValidationTasks):
        validation = Evaluated(split, said.validation_disjoint, said.how, said.num_tasks)
        return distribution.validation_tasks(num_tasks), validation
    tasks = distribution.sample(num_tasks, generator(0, f"tasks/{split}"))
    if split == "validation":
        return tasks, Evaluated(split, said.validation_disjoint, said.how)
    return tasks, Evaluated(split, False, "they are drawn as those of training", said.num_tasks)


def evaluation_stream(split: SplitName) -> str:
    """Returns the name of the random stream of an evaluation; each split has other episodes of the same task."""
    return "evaluation" if split == "test" else f"evaluation/{split}"
