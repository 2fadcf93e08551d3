"""A registry imports a class when it is asked for, and not before."""

from __future__ import annotations

import sys

import pytest

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
