"""Puts an implementation of Lookahead through the battery and says what holds.

    python tests/support/lookahead_judge.py research.optim:Lookahead --inner-state inner_state --reset reset

The argument is `module:class`, called as `class(base_optimizer, k=..., alpha=...)`. `--inner-state` names the argument
that says what becomes of the base optimiser's state, `--maintain`, `--reset` and `--pullback` the values it takes.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lookahead_battery import CHECKS
from lookahead_problem import VARIANTS, Base, Make, NotOfferedError


class Outcome(NamedTuple):
    """What came of a check: on how many base optimisers it held, of how many, and the first error."""

    held: int
    tried: int
    error: str


def judge(check: Callable[[Make, Base], None], make: Make, bases: dict[str, Base]) -> Outcome | None:
    """None where the implementation offers nothing of the kind."""
    held, error = 0, ""
    for name, base in bases.items():
        try:
            check(make, base)
            held += 1
        except NotOfferedError:
            return None
        except Exception as failure:
            lines = [line for line in str(failure).splitlines() if line.strip()]
            error = error or f"{name}: {type(failure).__name__}: {lines[0] if lines else ''}"
    return Outcome(held, len(bases), error)


def maker(kind: Callable[..., Any], word: str | None, words: dict[str, str | None]) -> Make:
    """Calls an implementation as it wants to be called."""

    def make(base: torch.optim.Optimizer, k: int, alpha: float, inner_state: str = "maintain") -> Any:
        if inner_state != "maintain" and (word is None or words[inner_state] is None):
            raise NotOfferedError
        settings = {word: words[inner_state]} if word and words[inner_state] is not None else {}
        return kind(base, k=k, alpha=alpha, **settings)

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("implementation", help="module:class")
    parser.add_argument("--inner-state", help="name of the argument")
    for value in ("maintain", "reset", "pullback"):
        parser.add_argument(f"--{value}", help="its value")
    arguments = parser.parse_args()
    module, _, name = arguments.implementation.partition(":")
    kind = getattr(importlib.import_module(module), name)
    words = {value: getattr(arguments, value) for value in ("maintain", "reset", "pullback")}
    warnings.simplefilter("ignore")
    for check, function in CHECKS.items():
        outcome = judge(function, maker(kind, arguments.inner_state, words), VARIANTS)
        found = "not offered" if outcome is None else f"{outcome.held}/{outcome.tried}"
        sys.stdout.write(f"{check:36} {found:12} {outcome.error[:150] if outcome else ''}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
