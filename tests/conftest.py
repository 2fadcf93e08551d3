"""What holds for every test: shapes are checked, examples repeat, no screen is needed, one thread per process."""

from __future__ import annotations

import os
import sys

os.environ["MPLBACKEND"] = "Agg"

from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch

# The annotated shapes of every function in research/ are checked at each call. Only modules that are imported from
# here on are: so nothing above may import research.
assert "research" not in sys.modules, "research was imported before its shapes could be checked"
jaxtyping.install_import_hook("research", "shape_checker.check")

# Tests run in a process per core, and their tensors are small.
torch.set_num_threads(1)

# The same examples every time, and no clock: a busy machine is no bug.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items):
    """Marks the quick tests: those of units, contracts and security that are not marked as longer."""
    for item in items:
        folder = Path(item.path).relative_to(Path(__file__).parent).parts[0]
        if folder in ("unit", "contracts", "security") and not any(map(item.get_closest_marker, ("slow", "thorough"))):
            item.add_marker(pytest.mark.quick)
