"""Run records as files: written by hand in whatever state a test wants them to be in, and what is the same in them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.tracking.records import read_rows

START = datetime.datetime(2030, 1, 2, 3, 4, 5, 678901)


def stamp(seconds: float) -> str:
    """A time of a record, in seconds after `START`."""
    return (START + datetime.timedelta(seconds=seconds)).isoformat()


def metrics(record: Path) -> list[tuple[int, dict[str, Any]]]:
    """Step and values of every row of metrics, without times."""
    rows = read_rows(record)
    return [(row["step"], {k: v for k, v in row["values"].items() if not k.startswith("time/")}) for row in rows]


def line(step: int, **values: Any) -> str:
    """A line of metrics.jsonl: step n is logged 10 n seconds after the start."""
    return json.dumps({"step": step, "timestamp": stamp(10 * step), "values": values}) + "\n"


def write_record(
    directory: Path,
    *,
    metrics: Mapping[str, Sequence[Any]] = {},
    seed: int | None = 0,
    status: str = "COMPLETED",
    experiment: str = "maml_trpo",
    score: Sequence[Sequence[float]] | None = None,
    run: Mapping[str, Any] = {},
    **config: Any,
) -> Path:
    """A run of this project.

    Args:
        directory: Of the run.
        metrics: Values at the steps 1, 2, …; None leaves a step out.
        seed: Of the run.
        status: Of the record.
        experiment: Its name.
        score: `[steps + 1, tasks]` of the last evaluation.
        run: What run.json has besides.
        config: Settings.
    """
    directory.mkdir(parents=True)
    length = max(map(len, metrics.values()), default=0)
    entry: dict[str, Any] = {
        "uid": str(directory),
        "experiment": {"name": experiment, "repositories": [{"commit": "c0ffee", "dirty": False}], "sources": []},
        "command": "train",
        "host": {"hostname": "here"},
        "start_time": stamp(0),
        "heartbeat": stamp(10 * length),
        "status": status,
        "artifacts": [],
        "resumed": [],
    }
    if status not in ("RUNNING", "QUEUED"):
        entry["stop_time"] = stamp(10 * length + 5)
    if score is not None:
        means = [sum(step) / len(step) for step in score]
        entry["result"] = {"iteration": length, "label": "mean return", "unit": "gradient steps", "score": means}
        (directory / "evaluation.json").write_text(json.dumps({"score": score, "unit": "gradient steps"}))
        entry["artifacts"] = ["evaluation.json"]
    (directory / "run.json").write_text(json.dumps(entry | dict(run)))
    settings = config if seed is None else {"seed": seed, **config}
    (directory / "config.json").write_text(json.dumps(settings))
    rows = [
        line(step + 1, **{name: values[step] for name, values in metrics.items() if values[step] is not None})
        for step in range(length)
    ]
    (directory / "metrics.jsonl").write_text("".join(rows))
    return directory
