"""Classes by name, each of which is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")
D = TypeVar("D")


class Registry(MutableMapping[str, type[T]]):
    """A mapping from names to classes that imports the module of a class at its first use.

    The names are known without any import: a program that needs one robot does not wait for the others. Copies and
    unions with other mappings are registries, too, and import nothing.

    Args:
        package: The package that the places begin in.
        places: `"module:Class"` for each name, the module relative to the package.

    >>> Registry("collections", {"counter": "abc:Sized"})["counter"].__name__
    'Sized'
    """

    def __init__(self, package: str, places: Mapping[str, str]):
        self._places: dict[str, str | type[T]] = {name: f"{package}.{place}" for name, place in places.items()}

    def __getitem__(self, name: str) -> type[T]:
        place = self._places[name]
        if not isinstance(place, str):
            return place
        module, _, attribute = place.partition(":")
        cls: type[T] = getattr(importlib.import_module(module), attribute)
        self._places[name] = cls
        return cls

    def __setitem__(self, name: str, cls: type[T]) -> None:
        self._places[name] = cls

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own form would import the class

    def get(self, name: str, default: D | None = None) -> type[T] | D | None:  # type: ignore[override]
        """Returns the class of a name, or the default. An error of the imported module is not taken for an absence."""
        if name not in self._places:
            return default
        return self[name]

    def copy(self) -> Registry[T]:
        """Returns a registry with the same names, which can be changed apart from this one."""
        return _union(self, {})

    __copy__ = copy

    def __or__(self, other: Any) -> Registry[T]:
        return _union(self, other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> Registry[T]:
        return _union(other, self) if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Registry[T]:
        self._places = _union(self, other)._places
        return self

    def named(self, name: str) -> type[T] | None:
        """Returns the class whose own name this is, e.g. `"GridNavi"`; None if the registry has no such class."""
        for key, place in self._places.items():
            if name == (place.rpartition(":")[2] if isinstance(place, str) else place.__name__):
                return self[key]
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def attribute_of(module: str, name: str, *registries: Registry[Any]) -> Any:
    """Returns a class by its own name, for `from module import name` of a package with registries.

    Raises:
        AttributeError: No registry has such a class.
    """
    for registry in registries:
        found = registry.named(name)
        if found is not None:
            return found
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _union(first: Mapping[str, type[T]], second: Mapping[str, type[T]]) -> Registry[T]:
    """Returns the classes of both; where both have a name, that of the second."""
    union: Registry[T] = Registry("", {})
    for part in (first, second):
        places: Mapping[str, str | type[T]] = part._places if isinstance(part, Registry) else part
        union._places.update(places)
    return union
