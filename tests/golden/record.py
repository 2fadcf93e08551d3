"""Records the golden curves again, and prints which numbers changed.

    python tests/golden/record.py
    python tests/golden/record.py --only maml_ppo/dice
    python tests/golden/record.py --measure

A record whose numbers differ by rounding only is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from golden_records import RECORDS, Case, all_cases, changes, differences, load, save

SHOWN = 12


def renew(case: Case) -> str:
    """Runs a case and brings its file up to date. Returns what changed, "" for nothing."""
    new = case.run()
    if not case.file.exists():
        save(new, case.file)
        return "new"
    old = load(case.file)
    found = changes(old, new, case.tolerance)
    renamed = [[entry.name for entries in record.values() for entry in entries] for record in (old, new)]
    if found or renamed[0] != renamed[1]:
        save(new, case.file)
    if not found:
        return "" if renamed[0] == renamed[1] else "the same numbers under other names"
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n    ".join([f"{len(found)} numbers changed", *map(str, found[:SHOWN]), *more])


def measure(case: Case) -> str:
    """The largest relative difference to the record."""
    found = list(differences(load(case.file), case.run()))
    relative = [each.relative for each in found if each.relative is not None]
    return f"{max(relative, default=0.0):.1e}" + f", {len(found) - len(relative)} differ in kind" * (
        len(found) > len(relative)
    )


def main(argv: Sequence[str]) -> int:
    """Runs the cases that are asked for. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose names contain the text")
    parser.add_argument("--measure", action="store_true", help="write nothing, print the largest relative differences")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    cases = {name: case for name, case in all_cases().items() if arguments.only in name}
    changed = 0
    for name, case in cases.items():
        said = measure(case) if arguments.measure else renew(case)
        changed += bool(said)
        if said:
            print(f"{name}: {said}", flush=True)
    for file in sorted(RECORDS.glob("**/*.json")):
        name = str(file.relative_to(RECORDS).with_suffix(""))
        if name not in all_cases() and arguments.only in name and not arguments.measure:
            file.unlink()
            changed += 1
            print(f"{name}: removed, there is no such case")
    print(f"{len(cases)} cases, {changed} {'measured' if arguments.measure else 'records changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
