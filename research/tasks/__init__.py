"""Task distributions, one domain per file. `TASKS` names them all."""

from typing import Any

from research.tasks.base import TaskDistribution
from research.tasks.navigation_2d import Navigation2D

TASKS: dict[str, type[TaskDistribution]] = {
    "navigation_2d": Navigation2D,
}


def make_tasks(name: str, **settings: Any) -> TaskDistribution:
    """The task distribution `name` with these settings.

    Raises:
        ValueError: No task has that name, or it has no such setting, or a setting is out of range.
    """
    if name not in TASKS:
        raise ValueError(f"task={name!r}: need one of {', '.join(sorted(TASKS))}")
    known = TASKS[name].__dataclass_fields__  # type: ignore[attr-defined]
    for key in settings:
        if key not in known:
            raise ValueError(f"task_args.{key}: {name} has no such setting; it has {', '.join(known)}")
    return TASKS[name](**settings)


__all__ = ["TASKS", "TaskDistribution", "make_tasks"]
