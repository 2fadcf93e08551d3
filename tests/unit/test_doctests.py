"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import types
from collections.abc import Iterator

import pytest

PACKAGES = (
    "research.inner_loops",
    "research.optim",
    "research.parallel",
    "research.policies.net2net",
    "research.population",
    "research.returns",
    "research.rng",
    "research.spaces",
    "research.conversion",
    "research.validation",
    "analysis.data",
    "analysis.stats",
    "analysis.studies",
)


class Finder(doctest.DocTestFinder):
    """Also finds wrapped functions, e.g. those with checked shapes, which doctest takes for other modules'."""

    def _from_module(self, module, object):
        return super()._from_module(module, inspect.unwrap(object) if inspect.isfunction(object) else object)


def modules(name: str) -> Iterator[types.ModuleType]:
    module = importlib.import_module(name)
    yield module
    for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
        yield from modules(f"{name}.{part.name}")


MODULES = [module for name in PACKAGES for module in modules(name)]
EXAMPLES = [test for module in MODULES for test in Finder().find(module) if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_gives_what_it_says(example):
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_every_example_is_found():
    written = sum(inspect.getsource(module).count(">>> ") for module in MODULES)
    assert sum(len(test.examples) for test in EXAMPLES) == written > 100
