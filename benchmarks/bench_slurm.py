"""Complete commands on a temporary Slurm cluster of one node, for a sweep of a thousand trivial runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Measurement, benchmark

TASKS = 1000
_SWEEP = "experiment: maml_trpo\nnamed_configs: [fast]\nseeds: {count}\n"


@benchmark("slurm/1000")
def thousand() -> Iterator[Measurement]:
    """Submit, status and cancel of an array of 1,000 tasks, including the start of Python."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as directory:
        started = subprocess.run(
            ["bash", ROOT / "tests" / "slurm" / "start_cluster.sh", f"{directory}/cluster"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if started.returncode != 0:
            print(f"slurm/1000 is not measured: {started.stderr.strip()}", file=sys.stderr)
            return
        try:
            yield from _commands(Path(directory))
        finally:
            subprocess.run(["bash", ROOT / "tests" / "slurm" / "stop_cluster.sh", f"{directory}/cluster"], check=True)


def _commands(directory: Path) -> Iterator[Measurement]:
    (directory / "many.yaml").write_text(_SWEEP.format(count=TASKS), encoding="utf-8")
    (directory / "true.yaml").write_text("python: /bin/true\n", encoding="utf-8")
    words = {
        "submit": ["many.yaml", "--profile", "true.yaml", "--throttle", "2"],
        "status": ["many"],
        "cancel": ["many"],
    }
    for name, arguments in words.items():
        environment = {**os.environ, "SLURM_CONF": f"{directory}/cluster/slurm.conf", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "slurm", name, *arguments]
        began, before = time.perf_counter(), os.times().children_user + os.times().children_system
        subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL)
        spent = os.times().children_user + os.times().children_system - before
        note = f"{spent:.1f} s of one core"
        yield Measurement(f"slurm/1000/{name}", time.perf_counter() - began, "s", at_most=5, note=note)
