"""The type checker that the tests put on every function of `research`. Shapes are its business, types are mypy's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def names_a_shape(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(names_a_shape(part) for part in get_args(annotation))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with beartype on the annotations that name a shape.

    Others stay unchecked: beartype refuses a Protocol that is not `runtime_checkable`, and an int for a float.
    """
    annotations = inspect.get_annotations(function)
    if not any(map(names_a_shape, annotations.values())):
        return function
    function.__annotations__ = {name: a if names_a_shape(a) else Any for name, a in annotations.items()}
    return beartype(function)
