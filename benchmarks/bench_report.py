"""The page of `python -m analysis report`: time to make and to open it, and its size."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from analysis.commands.report import main
from benchmarks.harness import Measurement, benchmark

RUNS, SEEDS, METRICS, POINTS = 200, 10, 20, 500
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


@benchmark("analysis/report")
def report() -> Iterator[Measurement]:
    """200 runs of 20 configurations, 20 metrics of 500 points each."""
    with tempfile.TemporaryDirectory(prefix="report-") as directory:
        _write_runs(Path(directory, "runs"))
        page = Path(directory, "report.html")
        began = time.process_time()
        with redirect_stdout(sys.stderr):
            status = main([f"{directory}/runs", "-o", str(page)])
        if status != 0:
            raise RuntimeError(f"the report failed with status {status}")
        name = f"analysis/report/{RUNS}x{METRICS}x{POINTS}"
        yield Measurement(f"{name}/make", time.process_time() - began, "s", at_most=60, note="of a core")
        yield Measurement(f"{name}/size", page.stat().st_size / 1e6, "MB", at_most=20)
        yield from _opened(page, name)


def _opened(page: Path, name: str) -> Iterator[Measurement]:
    """Measures Chromium: seconds until the first paint, until the charts are drawn, and to draw another metric.

    The last two are processor times of its main thread, the median of three, which other processes affect little.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        print(f"{name}/table is not measured: this machine has no chromium", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright  # a dependency of the tests only

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        found = []
        for _ in range(3):
            tab = browser.new_page()
            gauge = tab.context.new_cdp_session(tab)
            gauge.send("Performance.enable")
            tab.goto(page.as_uri(), timeout=120_000)
            tab.wait_for_selector("#curve-chart .main-svg")
            chart = _spent(gauge)
            paint: float = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
            tab.locator("#metric").select_option(index=3)
            found.append((paint, chart, _spent(gauge) - chart))
            tab.close()
        browser.close()
    parts = {"first_paint": 1.0, "charts": 3.0, "another_metric": 1.0}
    for (part, most), value in zip(parts.items(), np.median(found, 0), strict=True):
        note = "on the clock" if part == "first_paint" else "of the main thread"
        yield Measurement(f"{name}/{part}", float(value), "s", at_most=most, note=note)


def _spent(gauge: Any) -> float:
    """Returns the processor seconds of the page's main thread so far."""
    metrics = gauge.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime"))


def _write_runs(runs: Path) -> None:
    began = datetime(2026, 3, 1)
    rng = np.random.default_rng(0)
    for number in range(RUNS):
        directory = runs / str(number + 1)
        directory.mkdir(parents=True)
        configuration, seed = divmod(number, SEEDS)
        run: dict[str, Any] = {"experiment": {"name": "maml_trpo"}, "command": "train", "status": "COMPLETED"}
        run |= {"start_time": began.isoformat(), "stop_time": (began + timedelta(hours=1)).isoformat()}
        run["result"] = {"label": "return", "iteration": POINTS, "score": list(rng.normal(size=4))}
        config = {"seed": seed, "inner_lr": 0.1 * (1 + configuration), **{f"key_{key}": key for key in range(40)}}
        values = rng.normal(size=(POINTS, METRICS)).cumsum(0)
        names = ["env_steps", *(f"metric_{index}" for index in range(1, METRICS))]
        with (directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for step, row in enumerate(values, start=1):
                stamp = (began + timedelta(seconds=7 * step)).isoformat()
                cells = dict(zip(names, [4000.0, *row[1:].tolist()], strict=True))
                file.write(json.dumps({"step": step, "timestamp": stamp, "values": cells}) + "\n")
        (directory / "run.json").write_text(json.dumps(run), encoding="utf-8")
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
