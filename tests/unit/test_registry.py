"""A registry imports a class when it is asked for, and not before."""

from __future__ import annotations

import copy
import importlib
import sys

import pytest

import research.algorithms
import research.tasks
from research.algorithms import ALGORITHMS
from research.registry import Registry
from research.tasks import REGRESSION_TASKS, TASKS


@pytest.fixture
def registry(tmp_path, monkeypatch):
    package = tmp_path / "lazily_made"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("one", "two"):
        (package / f"{name}.py").write_text(f"class {name.title()}: ...", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("lazily_made", {"first": "one:One", "second": "two:Two", "third": "two:Three"})
    for name in [name for name in sys.modules if name.startswith("lazily_made")]:
        del sys.modules[name]


def test_a_class_is_imported_when_it_is_asked_for(registry):
    assert list(registry) == ["first", "second", "third"] and len(registry) == 3
    assert "first" in registry and "fourth" not in registry and registry.get("fourth") is None
    assert not [name for name in sys.modules if name.startswith("lazily_made")]
    assert registry["first"].__name__ == "One" and registry["first"] is registry["first"]
    assert "lazily_made.two" not in sys.modules


def test_what_is_missing_is_an_error(registry):
    with pytest.raises(KeyError, match="fourth"):
        registry["fourth"]
    with pytest.raises(AttributeError, match="Three"):
        registry["third"]


def test_classes_can_be_added_and_removed(registry):
    registry["fourth"] = int
    del registry["third"]
    assert registry["fourth"] is int and list(registry) == ["first", "second", "fourth"]
    assert [cls.__name__ for cls in registry.values()] == ["One", "Two", "int"]


def test_every_task_is_where_its_registry_says():
    assert all(isinstance(cls, type) for cls in [*TASKS.values(), *REGRESSION_TASKS.values()])


def test_an_error_of_an_imported_module_is_not_taken_for_an_absence(registry, tmp_path):
    (tmp_path / "lazily_made" / "broken.py").write_text("{}['inside']", encoding="utf-8")
    importlib.invalidate_caches()
    broken = registry | Registry("lazily_made", {"fifth": "broken:Five"})
    with pytest.raises(KeyError, match="inside"):
        broken.get("fifth")
    assert broken.get("sixth", int) is int


def test_unions_and_copies_are_registries_and_import_nothing(registry):
    other = Registry("lazily_made", {"first": "two:Two", "fourth": "one:One"})
    union, own, reverse = registry | other, registry | {"first": int}, {"first": int, "new": str} | registry
    copied, shallow = registry.copy(), copy.copy(registry)
    copied["first"] = shallow["third"] = bool
    assert not [name for name in sys.modules if name.startswith("lazily_made.")]
    assert list(union) == ["first", "second", "third", "fourth"] and union["first"].__name__ == "Two"
    assert own["first"] is int and list(reverse) == ["first", "new", "second", "third"]
    assert reverse["first"] is registry["first"] and registry["first"].__name__ == "One"
    assert "third" in registry and registry._places["third"] == "lazily_made.two:Three"
    same = registry
    same |= {"last": float}
    assert same is registry and registry["last"] is float
    with pytest.raises(TypeError):
        registry | 3


@pytest.mark.parametrize(("package", "registries"), [
    (research.tasks, [TASKS, REGRESSION_TASKS]),
    (research.algorithms, [ALGORITHMS]),
])  # fmt: skip
def test_packages_have_the_classes_of_their_registries(package, registries):
    for registry in registries:
        assert all(getattr(package, cls.__name__) is cls for cls in registry.values())
    with pytest.raises(AttributeError, match="has no attribute 'GridNavy'"):
        package.GridNavy  # noqa: B018


def test_classes_and_constants_can_be_imported_from_where_they_once_were():
    from research.algorithms import MAMLTRPO
    from research.tasks import GridNavi
    from research.tracking import exit_codes, signals

    assert (MAMLTRPO, GridNavi) == (ALGORITHMS["maml_trpo"], TASKS["gridnavi"])
    assert (signals.BUSY, signals.TERMINATED) == (exit_codes.BUSY, exit_codes.TERMINATED)
