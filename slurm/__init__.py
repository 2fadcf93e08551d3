"""Submits, monitors and retries sweeps of runs as Slurm arrays."""
