"""Records the golden curves again and prints which numbers changed.

    python tests/golden/record.py
    python tests/golden/record.py --only maml_ppo/dice
    python tests/golden/record.py --measure

A record whose numbers differ by rounding errors only stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from golden_differences import changes, differences
from golden_records import RECORDS, Case, Record, all_cases, load, save

SHOWN = 12


def renew(case: Case) -> str:
    """Runs a case and brings its record up to date. Returns what changed, "" for nothing."""
    new = case.run()
    old = load(case.file) if case.file.exists() else None
    found = [] if old is None else changes(old, new, case.tolerance)
    if old is None or found or names(old) != names(new):
        save(new, case.file)
    if old is None:
        return "new"
    if not found:
        return "" if names(old) == names(new) else "the same numbers under other names"
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n    ".join([f"{len(found)} numbers changed", *map(str, found[:SHOWN]), *more])


def names(record: Record) -> list[str]:
    """The names of all entries."""
    return [entry.name for entries in record.values() for entry in entries]


def measure(case: Case) -> str:
    """Runs a case. Returns the largest relative difference from its record."""
    found = list(differences(load(case.file), case.run()))
    relative = [each.relative for each in found if each.relative is not None]
    others = len(found) - len(relative)
    return f"{max(relative, default=0.0):.1e}" + f", and {others} differences that are no numbers" * bool(others)


def remove_orphans() -> list[str]:
    """Removes the records of cases that are no more. Returns their names."""
    cases, files = all_cases(), sorted(RECORDS.glob("**/*.json"))
    orphans = {str(file.relative_to(RECORDS).with_suffix("")): file for file in files}
    orphans = {name: file for name, file in orphans.items() if name not in cases}
    for file in orphans.values():
        file.unlink()
    return list(orphans)


def main(argv: Sequence[str]) -> int:
    """Runs the cases that are asked for. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose names contain the text")
    parser.add_argument("--measure", action="store_true", help="print the largest relative differences, write nothing")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    cases = {name: case for name, case in all_cases().items() if arguments.only in name}
    changed = 0
    for name, case in cases.items():
        text = measure(case) if arguments.measure else renew(case)
        if text:
            changed += 1
            print(f"{name}: {text}", flush=True)
    for name in [] if arguments.measure or arguments.only else remove_orphans():
        changed += 1
        print(f"{name}: removed, there is no such case")
    print(f"{len(cases)} cases, {changed} {'measured' if arguments.measure else 'records changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
