"""Reads sweeps and profiles, which are YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from research.tracking.settings_file import parse_yaml
from slurm.errors import SlurmError


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a file. Raises SlurmError if the file does not exist or holds something else."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        there = ", ".join(sorted(near.stem for near in path.parent.glob("*.yaml"))) or "no *.yaml"
        raise SlurmError(f"{path}: no such file; {path.parent} has {there}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SlurmError(f"{path}: cannot read the file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SlurmError(f"{path}: need keys and values, got {values!r:.60}")
    return values
