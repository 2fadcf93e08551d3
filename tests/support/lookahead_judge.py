"""Puts an implementation of Lookahead through the battery and says what holds.

    python tests/support/lookahead_judge.py research.optim:Lookahead --inner-state inner_state --reset reset

The argument is `module:class` or `file.py:class`, called as `class(base_optimizer, k=..., alpha=...)`. `--k` and
`--alpha` name these arguments where they are called something else, `--inner-state` the one that says what becomes of
the base optimiser's state, and `--maintain`, `--reset` and `--pullback` the values that it takes. Every check runs in
a process of its own: what one leaves behind in a class is no fault of the next.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lookahead_battery import CHECKS
from lookahead_problem import VARIANTS, Base, Make, NotOfferedError

Check = Callable[[Make, Base], None]


class Outcome(NamedTuple):
    """What came of a check: on how many base optimisers it held, of how many, and the first error."""

    held: int
    tried: int
    error: str


def judge(check: Check, make: Make) -> Outcome | None:
    """None where the implementation offers nothing of the kind."""
    reader, writer = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: writer.send([attempt(check, make, base) for base in VARIANTS.values()]))
    process.start()
    writer.close()
    errors = reader.recv()
    process.join()
    if None in errors:
        return None
    wrong = [f"{name}: {error}" for name, error in zip(VARIANTS, errors, strict=True) if error]
    return Outcome(len(VARIANTS) - len(wrong), len(VARIANTS), wrong[0] if wrong else "")


def attempt(check: Check, make: Make, base: Base) -> str | None:
    """The error of a check, empty if there was none; None where nothing of the kind is offered."""
    try:
        check(make, base)
    except NotOfferedError:
        return None
    except Exception as failure:
        lines = [line for line in str(failure).splitlines() if line.strip()]
        return f"{type(failure).__name__}: {lines[0] if lines else ''}"
    return ""


FORK = multiprocessing.get_context("fork")


def maker(kind: Callable[..., Any], names: dict[str, str], words: dict[str, str | None]) -> Make:
    """Calls an implementation as it wants to be called."""

    def make(base: torch.optim.Optimizer, k: int, alpha: float, inner_state: str = "maintain") -> Any:
        if inner_state != "maintain" and words[inner_state] is None:
            raise NotOfferedError
        settings = {names["k"]: k, names["alpha"]: alpha}
        if words[inner_state] is not None:
            settings[names["inner_state"]] = words[inner_state]
        return kind(base, **settings)

    return make


def find(implementation: str) -> Callable[..., Any]:
    """The class, from an installed module or from a file alone, whose package may not be importable."""
    place, _, name = implementation.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    spec = importlib.util.spec_from_file_location("implementation", place)
    assert spec is not None and spec.loader is not None, place
    module = importlib.util.module_from_spec(spec)
    sys.modules["implementation"] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("implementation", help="module:class or file.py:class")
    for argument in ("k", "alpha", "inner_state"):
        parser.add_argument(f"--{argument.replace('_', '-')}", default=argument, help="what it is called")
    for value in ("maintain", "reset", "pullback"):
        parser.add_argument(f"--{value}", help="the value of inner-state")
    given = vars(parser.parse_args())
    words = {value: given[value] for value in ("maintain", "reset", "pullback")}
    make = maker(find(given["implementation"]), given, words)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for check, function in CHECKS.items():
        outcome = judge(function, make)
        found = "not offered" if outcome is None else f"{outcome.held}/{outcome.tried}"
        sys.stdout.write(f"{check:36} {found:12} {outcome.error[:150] if outcome else ''}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
