"""A queue without a cluster: sbatch, squeue, scontrol and scancel as programs that keep it in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

PROGRAM = """#!{python} -SE
import json, pathlib, sys
queue = pathlib.Path({queue!r})
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
jobs = [json.loads(line) for line in queue.read_text().splitlines()]
if name == "scontrol":
    print("MaxArraySize            = {size}")
elif name == "sbatch":
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    job = {{"job": str(100 + len(jobs)), **options, "words": words[-4:]}}
    with queue.open("a") as file:
        file.write(json.dumps(job) + "\\n")
    print(job["job"])
elif name == "squeue":
    for job in jobs:
        for part in job["array"].partition("%")[0].split(","):
            low, _, high = part.partition("-")
            for index in range(int(low), int(high or low) + 1):
                print(f"{{job['job']}}|{{index}}|PENDING|{{job['job-name']}}|Priority")
"""


class FakeSlurm:
    """Programs in a directory for PATH, with a queue whose tasks never start."""

    def __init__(self, directory: Path, max_array_size: int = 1001):
        self.programs, self._queue = directory / "programs", directory / "queue"
        self.programs.mkdir(parents=True)
        self._queue.write_text("")
        for name in ("sbatch", "squeue", "scontrol", "scancel"):
            program = self.programs / name
            text = PROGRAM.format(python=sys.executable, queue=str(self._queue), size=max_array_size)
            program.write_text(text)
            program.chmod(0o755)

    def empty(self) -> None:
        self._queue.write_text("")

    def jobs(self) -> list[dict]:
        return [json.loads(line) for line in self._queue.read_text().splitlines()]

    def tasks(self) -> list[tuple[str, int]]:
        """(manifest, line) of every task in the queue."""
        found = []
        for job in self.jobs():
            _, manifest, offset, _ = job["words"]
            for part in job["array"].partition("%")[0].split(","):
                low, _, high = part.partition("-")
                found += [(manifest, int(offset) + index) for index in range(int(low), int(high or low) + 1)]
        return found
