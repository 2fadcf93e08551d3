"""What rliable makes of fixed scores, as JSON: the peer that tests/unit/test_stats_rliable.py holds ours against.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install -r tests/support/peer_rliable/requirements.txt
    /tmp/peer/bin/python tests/support/peer_rliable/measure.py > tests/support/peer_rliable/measured.json

Runs in an environment of its own: rliable 1.2.0 does not import beside pandas 3. It takes a random_state and draws from
NumPy's global one, which is therefore seeded here.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version

import numpy as np
from rliable import library, metrics

PACKAGES = ("rliable", "arch", "numpy", "scipy", "pandas")
REPETITIONS = 20_000
THRESHOLDS = [round(0.1 * step, 1) for step in range(-2, 21)]
AGGREGATES = {
    "iqm": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def scores(seed: int, runs: int, tasks: int) -> np.ndarray:
    """Skewed scores of tasks that differ, some of them equal, `[runs, tasks]`."""
    draws = np.random.Generator(np.random.PCG64(seed))
    return np.round(draws.uniform(0.2, 1.2, tasks) * draws.lognormal(0.0, 0.5, (runs, tasks)), 2)


def measure(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Points and 95 % percentile intervals of everything, for two agents on the same tasks."""
    np.random.seed(0)  # noqa: NPY002
    found: dict = {"scores": ours.tolist(), "reference": theirs.tolist(), "aggregates": {}}
    for name, function in AGGREGATES.items():
        points, intervals = library.get_interval_estimates(
            {"ours": ours}, lambda x, function=function: np.array([function(x)]), reps=REPETITIONS
        )
        found["aggregates"][name] = [float(points["ours"][0]), *intervals["ours"][:, 0].tolist()]
    points, intervals = library.get_interval_estimates(
        {"pair": [ours, theirs]},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=REPETITIONS // 10,
    )
    found["improvement"] = [float(points["pair"][0]), *intervals["pair"][:, 0].tolist()]
    profiles, bands = library.create_performance_profile({"ours": ours}, np.array(THRESHOLDS), reps=REPETITIONS // 4)
    found["profile"] = [profiles["ours"].tolist(), *bands["ours"].tolist()]
    return found


def main() -> None:
    sizes = [(10, 5), (5, 3), (7, 26)]
    cases = [measure(scores(2 * i, *size), scores(2 * i + 1, size[0] + 2, size[1])) for i, size in enumerate(sizes)]
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    found = {"versions": versions, "thresholds": THRESHOLDS, "cases": cases}
    sys.stdout.write(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
