"""Every backend of the inner loop is a file of its own: without it, everything but that backend works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from research.inner_loops import INNER_LOOPS, make_inner_loop
from research.inner_loops.base import InnerLoopConfig

ROOT = Path(__file__).parents[2]
FILES = {"func": "func.py", "higher": "with_higher.py", "learn2learn": "with_learn2learn.py"}
MAML_STEP = """
import importlib, math, pkgutil, sys
import research
from research.algorithms.gradient.maml_trpo import MAMLTRPO
from research.inner_loops import INNER_LOOPS

deleted, used = sys.argv[1:]
for module in pkgutil.walk_packages(research.__path__, "research."):
    if not module.name.startswith("research.tracking"):
        importlib.import_module(module.name)
assert deleted not in INNER_LOOPS and used in INNER_LOOPS
config = dict(meta_batch_size=2, episodes_per_task=2, horizon=4, num_threads=1)
algorithm = MAMLTRPO(MAMLTRPO.Config(inner_loop=used, **config))
state, metrics = algorithm.step(algorithm.init())
assert state.iteration == 1 and math.isfinite(metrics["loss_after"])
try:
    MAMLTRPO.Config(inner_loop=deleted)
except ValueError as error:
    print(error)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("deleted", INNER_LOOPS)
def test_a_backend_can_be_deleted_without_touching_an_algorithm(deleted, tmp_path):
    shutil.copytree(ROOT / "research", tmp_path / "research", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "research" / "inner_loops" / FILES[deleted]).unlink()
    rest = [name for name in INNER_LOOPS if name != deleted]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MAML_STEP, deleted, rest[0]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"inner_loop={deleted!r}: need one of {', '.join(rest)}" in done.stdout


def test_a_misspelt_backend_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"need one of func, higher, learn2learn; did you mean higher\?"):
        make_inner_loop("hihger", InnerLoopConfig())
