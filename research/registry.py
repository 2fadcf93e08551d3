"""Classes by name, each of which is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TypeVar

T = TypeVar("T")


class Registry(MutableMapping[str, type[T]]):
    """A mapping from names to classes that imports the module of a class at its first use.

    The names are known without any import: a program that needs one robot does not wait for the others.

    Args:
        package: The package that the places begin in.
        places: `"module:Class"` for each name, the module relative to the package.

    >>> Registry("collections", {"counter": "abc:Sized"})["counter"].__name__
    'Sized'
    """

    def __init__(self, package: str, places: Mapping[str, str]):
        self._package = package
        self._places: dict[str, str | type[T]] = dict(places)

    def __getitem__(self, name: str) -> type[T]:
        place = self._places[name]
        if not isinstance(place, str):
            return place
        module, _, attribute = place.partition(":")
        cls: type[T] = getattr(importlib.import_module(f"{self._package}.{module}"), attribute)
        self._places[name] = cls
        return cls

    def __setitem__(self, name: str, cls: type[T]) -> None:
        self._places[name] = cls

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own form would import the class

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
