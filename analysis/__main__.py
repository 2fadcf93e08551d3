"""`python -m analysis COMMAND …`: shows run records as tables, comparisons, exported files and pages.

    python -m analysis table runs --where "experiment=maml_trpo,seed<3"            # on the terminal
    python -m analysis compare runs --by inner_loop --metric result.score_after_3  # with intervals
    python -m analysis export runs metrics -o metrics.csv                          # CSV, Parquet, LaTeX
    python -m analysis adaptation runs/1 runs/2            # adaptation curves, as a table and a picture
    python -m analysis regret runs/1 runs/2                # RL² on bandits or MDPs, compared with classical policies
    python -m analysis search cartpole                     # the trials of a search: history, importances, pictures
    python -m analysis report runs -o report.html          # one page that needs no network
    python -m analysis bayes gridnavi                      # the best return of a trial without knowing the task
    python -m analysis notebooks 01                        # executes notebooks and saves them as pages

These commands need no runs. Each measures something and updates its page in docs/results:

    python -m analysis classical      # classical policies and agents on the tasks of the RL² paper
    python -m analysis coverage       # how often confidence intervals contain the true value
    python -m analysis estimators     # bias and noise of the meta-gradient estimators

`python -m analysis COMMAND --help` lists the options of a command.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence

from research.streams import prepare_streams

FOLDERS = {
    "commands": ("table", "compare", "export", "report", "adaptation", "regret", "search", "bayes", "notebooks"),
    "studies": ("classical", "coverage", "estimators"),
}
REPLACED = {"learning": "compare {} --metric eval/score_after_0 --value area"}
"""Former commands, with the command that has their content."""

COMMANDS = {name: f"analysis.{folder}.{name}" for folder, names in FOLDERS.items() for name in names}
"""The module of each command. It has a function `main(argv) -> int`, and is imported when the command is called."""


def main(argv: Sequence[str]) -> int:
    """Runs a command. Returns its exit status, 2 if the command line or the runs were refused."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] in REPLACED:
        instead = REPLACED[argv[0]].format(shlex.join(argv[1:]) or "runs")
        print(f"error: {argv[0]!r} is no longer a command; need python -m analysis {instead}", file=sys.stderr)
        return 2
    if argv[0] not in COMMANDS:
        print(f"error: {argv[0]!r} is not a command; need one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main(sys.argv[1:]))
