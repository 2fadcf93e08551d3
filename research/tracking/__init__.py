"""Recording runs: the command line, the record in `runs/`, checkpoints, stopping and going on.

Sacred lives here and nowhere else in `research/`. Scripts use `experiment.make_experiment` and `session.add_commands`;
further observers and schedulers have their place beside `observer.py` and `signals.py`.
"""

import warnings

with warnings.catch_warnings():
    # sacred 0.8.7 imports pkg_resources (hence setuptools<81), which announces its own end.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    import sacred  # noqa: F401
