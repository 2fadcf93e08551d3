"""Runs as Slurm arrays: submit, watch, retry."""
