"""The reader of runs, for scripts and notebooks: `from analysis.load import load_runs`.

`analysis.data.load` has the code; docs/analysis.md describes it.
"""

from analysis.data.load import Runs, load_runs

__all__ = ["Runs", "load_runs"]
