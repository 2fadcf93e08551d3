"""`python -m analysis bayes gridnavi`: what can be earned in a trial by an agent that does not know its task.

The table has the expected return of the Bayes-optimal policy for trials of several lengths, and that of the policies
that know the task. Where the former is not known exactly, it has a lower and an upper bound.

    python -m analysis bayes gridnavi --episodes 1 2 4
    python -m analysis bayes dark_room size=5 horizon=10
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from analysis.commands import command_line
from research.tasks import TASKS, TaskDistribution, make_tasks
from research.tasks.base import KnownBayesOptimum, KnownOptimum


def main(argv: Sequence[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = command_line.parser("bayes", __doc__)
    parser.add_argument("task", help=f"one of {', '.join(_known())}")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the task")
    parser.add_argument(
        "--episodes", type=int, nargs="+", default=[1, 2, 4], help="episodes of a trial (default: 1 2 4)"
    )
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: table(arguments.task, _settings(arguments.settings), arguments.episodes))


def table(task: str, settings: dict[str, Any], episodes: Sequence[int]) -> str:
    """Returns the table as text.

    Args:
        task: Name of the task distribution.
        settings: Its settings.
        episodes: Numbers of episodes of a trial.

    Raises:
        ValueError: There is no such task or setting, a number is below 1, or the values are not known.
    """
    if any(count < 1 for count in episodes):
        raise ValueError(f"--episodes={' '.join(map(str, episodes))}: need at least 1")
    tasks: TaskDistribution = make_tasks(task, **settings)
    if not isinstance(tasks, KnownBayesOptimum):
        raise ValueError(f"task={task!r}: its Bayes-optimal return is not known; it is for {', '.join(_known())}")
    rows = [["episodes", "Bayes-optimal", "knows the task"]]
    for count in episodes:
        found = tasks.bayes_optimal_return(count)
        if found is None:
            raise ValueError(f"task={task!r}: with these settings its Bayes-optimal return is not known")
        value = f"{found.low:.4f}" if found.is_exact else f"{found.low:.4f} to {found.high:.4f}"
        best = tasks.mean_optimal_return() if isinstance(tasks, KnownOptimum) else None
        rows.append([str(count), value, "–" if best is None else f"{count * best:.4f}"])
    return f"{task}, expected return of a trial\n\n{command_line.text_table(rows)}"


def _known() -> list[str]:
    """Returns the names of the tasks whose Bayes-optimal return is known."""
    return [name for name in TASKS if isinstance(make_tasks(name), KnownBayesOptimum)]


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Returns `key=value` arguments as settings; values that are no Python literal are text."""
    settings: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"{text}: need a setting as KEY=VALUE")
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = value
    return settings
