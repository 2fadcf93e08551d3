"""Searches that look at results: the settings of a trial follow from those before it. `python -m slurm search`."""
