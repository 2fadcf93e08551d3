"""`python -m analysis COMMAND …`: run records as tables, comparisons, files for other programs and pages.

    python -m analysis table runs --where "experiment=maml_trpo,seed<3"            # on the terminal
    python -m analysis compare runs --by inner_loop --metric result.score_after_3  # with intervals
    python -m analysis export runs metrics -o metrics.csv                          # CSV, Parquet, LaTeX
    python -m analysis adaptation runs/1 runs/2            # adaptation curves of finished runs, as a table or a picture
    python -m analysis regret runs/1 runs/2                # RL² on bandits or MDPs beside classical ones
    python -m analysis report runs -o report.html          # one page that needs no network
    python -m analysis notebooks 01                        # executes notebooks and saves them as pages

What needs no runs renews a page of docs/results:

    python -m analysis classical      # the classical columns of the RL² paper
    python -m analysis coverage       # how often intervals hold the true value
    python -m analysis estimators     # bias and noise of the meta-gradient estimators

`python -m analysis COMMAND --help` has the rest.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

FOLDERS = {
    "commands": ("table", "compare", "export", "report", "adaptation", "regret", "notebooks"),
    "studies": ("classical", "coverage", "estimators"),
}
COMMANDS = {name: f"analysis.{folder}.{name}" for folder, names in FOLDERS.items() for name in names}
"""The module of each command, with a function `main(argv) -> int`; one that is not called is not imported."""


def main(argv: Sequence[str]) -> int:
    """Does what the command line says. Returns the exit status: 2 for what was refused."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"error: {argv[0]!r} is no command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
