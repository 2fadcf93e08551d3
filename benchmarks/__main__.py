"""`python -m benchmarks [ONLY]` runs the benchmarks whose name contains ONLY, prints a table and writes a record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import MODULES, harness
from research.streams import prepare_streams

LATEST = harness.ROOT / "benchmarks" / "latest.jsonl"


def main(argv: Sequence[str]) -> int:
    """Runs the selected benchmarks. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="?", default="", metavar="ONLY", help="run those whose name contains this")
    only = parser.parse_args(argv).only
    harness.load(MODULES)
    try:
        chosen = harness.matching(only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    measurements = []
    with LATEST.open("w", encoding="utf-8") as record:
        for measurement in harness.run(chosen, record):
            print(f"measured {measurement.name}", file=sys.stderr, flush=True)
            measurements.append(measurement)
    print(harness.table(measurements))
    print(f"\nRecord: {LATEST.relative_to(harness.ROOT)}")
    return 0


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main(sys.argv[1:]))
