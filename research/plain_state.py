"""A state as plain containers of tensors and numbers, and back: a file of them can be read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor

_SCALARS = (bool, int, float, str, type(None))


def to_plain(tree: Any, path: str = "state") -> Any:
    """Returns the tree with dicts for NamedTuples, lists for tuples, and copies of the tensors on the CPU.

    Raises:
        TypeError: A leaf is neither a tensor nor a bool, int, float, str or None.
    """
    if _is_tensor(tree):
        return tree.detach().cpu().clone()
    if isinstance(tree, Mapping):
        return {key: to_plain(value, f"{path}[{key!r}]") for key, value in tree.items()}
    if _is_namedtuple(tree):
        return {name: to_plain(value, f"{path}.{name}") for name, value in tree._asdict().items()}
    if isinstance(tree, (list, tuple)):
        return [to_plain(value, f"{path}[{index}]") for index, value in enumerate(tree)]
    if type(tree) in _SCALARS:
        return tree
    raise TypeError(f"{path}: a {type(tree).__name__} cannot be saved; use a tensor, bool, int, float, str or None")


class MismatchError(Exception):
    """A plain tree and a template differ. The message names the place."""


def from_plain(plain: Any, like: Any, path: str = "state") -> Any:
    """Returns the inverse of `to_plain`: the values of `plain` in the containers, on the devices of `like`.

    Tensors take `requires_grad` from `like`, too. A tensor without rows in `like`, such as that of a replay buffer
    before training, may have any number of rows in `plain`.

    Raises:
        MismatchError: Names, shapes, dtypes or types differ.
    """
    if _is_tensor(like):
        return _tensor(plain, like, path)
    if isinstance(like, Mapping):
        _match_keys(plain, like.keys(), path)
        return {key: from_plain(plain[key], like[key], f"{path}[{key!r}]") for key in like}
    if _is_namedtuple(like):
        _match_keys(plain, like._fields, path)
        return type(like)(*(from_plain(plain[name], getattr(like, name), f"{path}.{name}") for name in like._fields))
    if isinstance(like, (list, tuple)):
        if not isinstance(plain, list) or len(plain) != len(like):
            raise MismatchError(f"{path} has {describe(plain)}, needed are {len(like)} entries")
        pairs = enumerate(zip(plain, like, strict=True))
        return type(like)(from_plain(*pair, f"{path}[{index}]") for index, pair in pairs)
    if type(plain) is not type(like):
        raise MismatchError(f"{path} is {describe(plain)}, needed is a value of type {type(like).__name__}")
    return plain


def _tensor(plain: Any, like: Tensor, path: str) -> Tensor:
    if not _is_tensor(plain) or not _fits(plain, like):
        raise MismatchError(f"{path} is {describe(plain)}, needed is {describe(like)}")
    return plain.to(like.device).requires_grad_(like.requires_grad)


def _fits(plain: Tensor, like: Tensor) -> bool:
    grows = like.ndim > 0 and len(like) == 0 and plain.ndim == like.ndim
    return plain.dtype == like.dtype and plain.shape[grows:] == like.shape[grows:]


def _match_keys(plain: Any, keys: Any, path: str) -> None:
    if not isinstance(plain, dict):
        raise MismatchError(f"{path} is {describe(plain)}, needed are entries {', '.join(map(str, keys))}")
    missing, foreign = (sorted(map(str, difference)) for difference in (set(keys) - set(plain), set(plain) - set(keys)))
    if missing or foreign:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(foreign)} too many"] * bool(foreign)
        raise MismatchError(f"{path} {' and '.join(parts)}")


def describe(value: Any) -> str:
    """Returns the kind of a value, for messages."""
    if _is_tensor(value):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    if isinstance(value, list):
        return f"{len(value)} entries"
    return f"a {type(value).__name__}"


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    from torch import Tensor  # here: programs that only look for checkpoints do not need torch

    return isinstance(value, Tensor)


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")
