"""The reader of runs under a short name: `from analysis.load import load_runs`. It is in `analysis.data.load`."""

from analysis.data.load import Runs, load_runs

__all__ = ["Runs", "load_runs"]
