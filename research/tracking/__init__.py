"""Recording runs: the command line, the record in `runs/`, checkpoints, stopping and resuming.

No other part of `research/` imports Sacred. Scripts use `experiment.make_experiment` and `session.add_commands`. A
further observer belongs next to `observer.py`, a further scheduler next to `signals.py`.
"""

import warnings

with warnings.catch_warnings():
    # sacred 0.8.7 imports pkg_resources (hence setuptools<81), which announces its own end.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    import sacred  # noqa: F401
