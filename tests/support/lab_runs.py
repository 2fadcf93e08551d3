"""Run records of a small laboratory, written as `research.tracking` does: what a report has to cope with."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

BEGAN = datetime(2026, 3, 1, 12)
HOSTILE = "</script><script>alert(1)</script>"
"""A setting that would run as a script in a page that does not escape it."""

LONG = 5000
"""Iterations of a run with more points than a page keeps."""


def write_run(
    directory: Path,
    seed: int | None,
    status: str = "COMPLETED",
    score: np.ndarray | None = None,
    output: str = "",
    pictures: dict[str, bytes] | None = None,
    points: int = 40,
    **settings: object,
) -> None:
    """Writes one record. The metrics are functions of the seed and of `inner_lr`.

    Args:
        directory: Of the run.
        seed: Its seed.
        status: As in run.json.
        score: `[steps + 1]`, the adaptation curve that is the result; None: there is no result.
        output: What cout.txt holds.
        pictures: Artifacts by name.
        points: How many iterations it did.
        settings: Of config.json, beside the usual ones.
    """
    directory.mkdir(parents=True)
    config = {"seed": seed, "inner_lr": 0.1, "inner_loop": "func", "task": "navigation_2d", **settings}
    (directory / "config.json").write_text(json.dumps(config))
    stop = BEGAN + timedelta(seconds=2 * points)
    run = {
        "experiment": {"name": "maml_trpo", "repositories": [{"commit": "0123456789abcdef", "dirty": seed == 2}]},
        "command": "train",
        "status": status,
        "start_time": BEGAN.isoformat(),
        "heartbeat": stop.isoformat(),
        "host": {"hostname": "lab-1"},
        "artifacts": sorted(pictures or {}),
    }
    if status != "RUNNING":
        run["stop_time"] = stop.isoformat()
    if score is not None:
        run["result"] = {"label": "return", "unit": "gradient steps", "iteration": points, "score": list(score)}
    if status == "FAILED":
        run["fail_trace"] = ["Traceback (most recent call last):\n", f"FloatingPointError: {HOSTILE}\n"]
    (directory / "run.json").write_text(json.dumps(run))
    (directory / "cout.txt").write_text(output)
    for name, content in (pictures or {}).items():
        (directory / name).write_bytes(content)
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(1, points + 1):
            file.write(json.dumps(_row(step, float(seed or 0), config["inner_lr"])) + "\n")


def _row(step: int, seed: float, rate: float) -> dict:
    values = {"env_steps": 100.0, "return_post": value(step, seed, rate), "gradient_norm": 1 / step}
    if step % 10 == 0:
        values |= {"eval/score_after_0": -40 + seed, "eval/score_after_1": -20 + seed + 0.1 * step}
    return {"step": step, "timestamp": (BEGAN + timedelta(seconds=2 * step)).isoformat(), "values": values}


def value(step: int, seed: float, rate: float) -> float:
    """`return_post` of an iteration."""
    return round(-40 + 30 * (1 - np.exp(-step * rate / 3)) + 0.5 * seed, 6)


def write_lab(runs: Path, picture: bytes) -> None:
    """Eleven folders: two configurations with seeds, one with a single seed, and all kinds of trouble.

    Runs 1 to 4 have inner_lr 0.1 and seeds 1 to 4; 5 and 6 have inner_lr 0.5 and seeds 1 and 2, 7 (seed 3) failed and
    seed 4 is missing; 8 has a hostile setting, many iterations and no other seed; 9 went silent; 10 is torn; 11 empty.
    """
    curve = np.array([-40.0, -15.0, -10.0])
    for seed in (1, 2, 3, 4):
        pictures = {"curve.png": picture} if seed < 3 else {}
        write_run(runs / str(seed), seed, score=curve + seed, pictures=pictures)
    for run, seed in ((5, 1), (6, 2)):
        write_run(runs / str(run), seed, score=curve + 5 + seed, inner_lr=0.5, pictures={"huge.png": bytes(3 << 20)})
    output = "\x1b[32mstarts\x1b[0m\n" + "".join(f"iteration {step}\n" for step in range(30)) + f"last: {HOSTILE}\n"
    write_run(runs / "7", 3, "FAILED", output=output, inner_lr=0.5, points=25)
    write_run(runs / "8", 1, note=HOSTILE, points=LONG, score=curve)
    write_run(runs / "9", 5, "RUNNING", points=12)
    write_run(runs / "10", 6)
    (runs / "10" / "run.json").write_text('{"status": "COMP')
    (runs / "11").mkdir()
