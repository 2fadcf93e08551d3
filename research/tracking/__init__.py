"""Recording runs: the command line, the record in `runs/`, checkpoints, stopping and resuming.

No other part of `research/` imports Sacred. Scripts use `experiment.make_experiment` and `commands.add_commands`. A
further observer belongs next to `observer.py`, a further scheduler next to `signals.py`.
"""
