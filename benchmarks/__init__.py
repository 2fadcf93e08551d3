"""Measurements of speed and memory: `python -m benchmarks [ONLY]`."""

MODULES: tuple[str, ...] = ()
"""The modules that register benchmarks, in the order they run."""
