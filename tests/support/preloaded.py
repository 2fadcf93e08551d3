"""Imports of what commands import when they are carried out, so that processes that are forked need not."""

from __future__ import annotations

import importlib
from typing import Any


def preloaded(experiment: Any) -> Any:
    """The experiment, whose algorithm and default task are imported, with what carries its commands out."""
    importlib.import_module("research.tracking.session")
    experiment.settings.typed({})
    return experiment
