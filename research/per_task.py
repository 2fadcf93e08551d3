"""Trees of tensors whose every leaf leads with a `[tasks]` axis: adapted parameters, batches, trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from research.types import Params


def per_task(function: Callable[..., Any], *trees: Any, vmapped: bool) -> Any:
    """Returns `function(*trees of one task)` of every task, with the outputs stacked to `[tasks, ...]`.

    Args:
        function: Maps trees without the task axis to a tree of tensors.
        trees: Trees of tensors, every leaf `[tasks, ...]`.
        vmapped: Whether to compute all tasks in one `torch.func.vmap`, or one after the other.
    """
    leaves, spec = pytree.tree_flatten(trees)
    if vmapped and leaves[0].shape[0] > 1:
        return torch.func.vmap(function)(*trees)
    if leaves[0].shape[0] == 1:  # the common case of large batches: spare the copies of unbind and stack
        output = function(*pytree.tree_unflatten([leaf.squeeze(0) for leaf in leaves], spec))
        return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), output)
    rows = zip(*(leaf.unbind(0) for leaf in leaves), strict=True)
    outputs = [function(*pytree.tree_unflatten(list(row), spec)) for row in rows]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *outputs)


def expand(params: Params, tasks: int) -> Params:
    """Returns the same parameters for every task, `[tasks, ...]`, as views."""
    return {name: value.unsqueeze(0).expand(tasks, *value.shape) for name, value in params.items()}


def take(tree: Any, tasks: slice) -> Any:
    """Returns a slice of the tasks of a tree, as views."""
    return pytree.tree_map(lambda leaf: leaf[tasks], tree)


def num_tasks(batches: Sequence[Any]) -> int:
    """Returns the length of the task axis.

    Raises:
        ValueError: Two leaves of the batches differ in it.
    """
    sizes = {leaf.shape[0] for leaf in pytree.tree_leaves(list(batches))}
    if len(sizes) != 1:
        raise ValueError(f"batches: every leaf needs the same leading [tasks] axis, got lengths {sorted(sizes)}")
    return sizes.pop()
