"""Attributes of an object by path, such as `model.opt.gravity[2]`: read, write, list, and compute them from others."""

from __future__ import annotations

import ast
import copy
import operator
import re
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np

_PART = re.compile(r"([A-Za-z_]\w*)((?:\[-?\d+\])*)")

_OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class NoSuchAttributeError(ValueError):
    """A path leads to no attribute.

    Attributes:
        owner: The object at the longest part of the path that exists.
        where: That part of the path; empty for the root.
        name: The attribute that `owner` does not have.
    """

    def __init__(self, owner: Any, where: str, name: str):
        super().__init__(f"{where or 'it'} has no {name}")
        self.owner, self.where, self.name = owner, where, name


def parse(path: str) -> list[str | int]:
    """Splits a path into attribute names and indices. Raises ValueError if it is not a path."""
    steps: list[str | int] = []
    for part in path.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{path!r} is no path of attributes, such as length or model.opt.gravity[2]")
        steps += [match[1], *(int(index) for index in re.findall(r"-?\d+", match[2]))]
    return steps


def read(root: Any, path: str) -> Any:
    """Returns the value at a path. Raises NoSuchAttributeError if there is none."""
    return _read(root, parse(path))


def owners(root: Any, path: str) -> list[tuple[Any, list[str | int]]]:
    """Returns the root and every object on the way to the end of a path, each with the steps that are left from it.

    Raises:
        NoSuchAttributeError: The path leads to no attribute.
    """
    steps = parse(path)
    return [(_read(root, steps[:done]), steps[done:]) for done in range(len(steps))]


def write(root: Any, path: str, value: Any) -> None:
    """Replaces the value at a path.

    To change an entry of a list or an array, the container is replaced by a changed copy, because a class or a module
    may share the container with other environments.

    Raises:
        NoSuchAttributeError: The path leads to no attribute.
        AttributeError, TypeError: The attribute cannot be changed.
    """
    _read(root, parse(path))
    _write(root, parse(path), value)


def _read(root: Any, steps: Sequence[str | int]) -> Any:
    owner, where = root, ""
    for step in steps:
        name = f"[{step}]" if isinstance(step, int) else step
        try:
            owner_next = owner[step] if isinstance(step, int) else getattr(owner, step)
        except (AttributeError, IndexError, TypeError, KeyError):
            raise NoSuchAttributeError(owner, where, name) from None
        owner, where = owner_next, where + name if isinstance(step, int) else f"{where}.{name}".lstrip(".")
    return owner


def _write(root: Any, steps: Sequence[str | int], value: Any) -> None:
    *parents, last = steps
    owner = _read(root, parents)
    if isinstance(last, str):
        setattr(owner, last, value)
        return
    entries = list(owner) if isinstance(owner, tuple) else copy.copy(owner)
    entries[last] = value
    _write(root, parents, tuple(entries) if isinstance(owner, tuple) else entries)


def is_number(value: Any) -> bool:
    """Returns whether the value is a real number; booleans are not."""
    return isinstance(value, (Number, np.number)) and not isinstance(value, (bool, np.bool_, complex))


def is_integer(value: Any) -> bool:
    """Returns whether the value has an integer type; booleans have not."""
    return is_number(value) and isinstance(value, (int, np.integer))


def numeric(owner: Any) -> list[str]:
    """Returns the public attributes of an object that are a number, or a list of numbers (as `name[0..n]`)."""
    names = []
    for name in dir(owner):
        if name.startswith("_"):
            continue
        try:
            value = getattr(owner, name)
        except Exception:  # a property may raise anything, and this only makes a message
            continue
        if is_number(value):
            names.append(name)
        elif isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) == 1 and len(value) > 0:
            names += [f"{name}[0..{len(value) - 1}]"] if is_number(value[0]) else []
    return names


def compute(root: Any, expression: str) -> Any:
    """Returns the value of an expression of numbers, attributes and + − * / **, e.g. `masspole * length`.

    Args:
        root: Object that has the attributes.
        expression: The expression, in Python's syntax.

    Raises:
        ValueError: It is not such an expression.
        NoSuchAttributeError: It names an attribute that does not exist.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError:
        raise _no_expression(expression) from None
    return _compute(root, tree.body, expression)


def _compute(root: Any, node: ast.AST, expression: str) -> Any:
    if isinstance(node, ast.Constant) and is_number(node.value):
        return node.value
    if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
        return read(root, ast.unparse(node))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_compute(root, side, expression) for side in (node.left, node.right))
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_compute(root, node.operand, expression))
    raise _no_expression(expression)


def _no_expression(expression: str) -> ValueError:
    return ValueError(f"{expression!r} is no expression of numbers, attributes and + - * / **")
