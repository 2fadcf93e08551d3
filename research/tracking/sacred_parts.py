"""The parts of Sacred that are used here. No other module imports it, so that readers of records do without."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """A context in which a module cannot be imported, unless it has been already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's own sign for it
    try:
        yield
    finally:
        del sys.modules[name]


# Where pandas is installed, Sacred imports it, for observers that are not used here: a third of a second.
with warnings.catch_warnings(), _absent("pandas"):
    # sacred 0.8.7 imports pkg_resources (hence setuptools<81), which announces its own end.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    import sacred
    from sacred import Ingredient
    from sacred import experiment as sacred_experiment
    from sacred.commandline_options import cli_option
    from sacred.config import ConfigDict
    from sacred.dependencies import Source, get_digest
    from sacred.metrics_logger import linearize_metrics
    from sacred.observers import RunObserver
    from sacred.run import Run
    from sacred.stdout_capturing import CapturedStdout, TeeingStreamProxy
    from sacred.utils import (
        SacredInterrupt,
        apply_backspaces_and_linefeeds,
        convert_to_nested_dict,
        ensure_wellformed_argv,
    )

__all__ = [
    "CapturedStdout",
    "ConfigDict",
    "Ingredient",
    "Run",
    "RunObserver",
    "SacredInterrupt",
    "Source",
    "TeeingStreamProxy",
    "apply_backspaces_and_linefeeds",
    "cli_option",
    "convert_to_nested_dict",
    "ensure_wellformed_argv",
    "get_digest",
    "linearize_metrics",
    "sacred",
    "sacred_experiment",
]
