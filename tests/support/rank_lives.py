"""Runs of several ranks that are brought to their end by force: each life of a run ends as it is told to.

    python rank_lives.py '[{"arguments": [...], "size": 2, "signal": "SIGKILL", "rank": 1}, ...]'

One process imports everything and forks the ranks of each life. A signal is sent once a life has written a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from preloaded import preloaded
from rank_cases import free_port, place

_ROOT = Path(__file__).parents[2]
_PATIENCE = 60


def live(lives: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """What became of each life, in `directory`: exit codes, seconds after the signal, output, and the record then."""
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(lives)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "METAPOLICY_RANK_TIMEOUT": "20"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def _live(life: dict[str, Any]) -> dict[str, Any]:
    checkpoint = Path("runs/1/checkpoints/latest.pt")
    before = _version(checkpoint)
    children = _start(life)
    struck = time.monotonic()
    if "signal" in life:
        while _version(checkpoint) == before:
            assert time.monotonic() < struck + _PATIENCE, Path("output-0").read_text()
            time.sleep(0.005)
        os.kill(children[life["rank"]], getattr(signal, life["signal"]))
        struck = time.monotonic()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    seconds = time.monotonic() - struck
    output = [Path(f"output-{rank}").read_text() for rank in range(life["size"])]
    record = Path("runs/1/run.json")
    status = json.loads(record.read_text())["status"] if record.exists() else None
    return {"codes": codes, "seconds": seconds, "output": output, "status": status}


def _version(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def _start(life: dict[str, Any]) -> list[int]:
    port, children = free_port(), []
    for rank in range(life["size"]):
        child = os.fork()
        if child == 0:
            os.environ.update(place(rank, life["size"], port))
            output = os.open(f"output-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os._exit(_rank(life))
        children.append(child)
    return children


def _rank(life: dict[str, Any]) -> int:
    script = life["arguments"][0]
    try:
        _experiments[script].run_commandline(life["arguments"])
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)  # noqa: T201
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    import torch

    from experiments import maml_trpo, rl2

    torch.set_num_threads(1)
    _experiments: dict[str, Any] = {"maml_trpo": preloaded(maml_trpo.experiment), "rl2": preloaded(rl2.experiment)}
    print(json.dumps([_live(life) for life in json.loads(sys.argv[1])]))  # noqa: T201
