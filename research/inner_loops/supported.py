"""Checks that an inner loop can adapt a model: modules with wrong meta-gradients are refused by name.

tests/gradients/test_modules.py measures every claim made here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_UNBATCHED = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
"""Modules whose operations have no batching rule: they fail under vmap, or run in a slow loop with a warning."""
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
"""Under vmap, a gradient moves the row `padding_idx` of all tasks but the first."""


def check_model(model: nn.Module, second_order: bool) -> None:
    """Refuses models for which the meta-gradients of the inner loops would be wrong.

    Args:
        model: The module to be adapted.
        second_order: Whether inner gradients are differentiated.

    Raises:
        ValueError: A module is known to give wrong meta-gradients; the message has its path, the reason and the fix.

    Example:
        >>> check_model(nn.Dropout(0.5), second_order=True)
        Traceback (most recent call last):
        ValueError: model: Dropout cannot be adapted: it is random in training mode, so ...
    """
    paths: dict[nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        problem = next(_problems(module, second_order), None)
        if module in paths and module._parameters:
            problem = (
                f"it is also at {paths[module]}, and torch.func.functional_call does not restore a module that is "
                "there twice; register it once and call it twice, or tie the parameters of two modules"
            )
        if problem:
            raise ValueError(f"{path or 'model'}: {type(module).__name__} cannot be adapted: {problem}")
        paths.setdefault(module, path)


def vmappable(model: nn.Module) -> bool:
    """Returns whether the forward pass of `model` can be vmapped over parameters; otherwise tasks are looped.

    This holds for the forward pass alone. torch's batching rules for the backward passes of LayerNorm, of InstanceNorm
    with weights and of BatchNorm give wrong second derivatives, so do not call `torch.func.grad` inside the vmap.

    Example:
        >>> vmappable(nn.Linear(2, 2)), vmappable(nn.GRU(2, 2))
        (True, False)
    """
    return not any(
        isinstance(module, _UNBATCHED) or (isinstance(module, _EMBEDDINGS) and module.padding_idx is not None)
        for module in model.modules()
    )


@contextlib.contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Context in which the backward passes of `model` can be differentiated.

    Fused attention kernels and cuDNN's recurrent kernels have no double backward; plain operations replace them. The
    switches belong to the process. Threads that overlap share one setting, and the last one to leave restores the
    state that the first one found.

    Example:
        >>> with twice_differentiable(nn.GRU(1, 1)):
        ...     torch.backends.cudnn.enabled
        False
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with _PLAIN_ATTENTION, _NO_CUDNN if recurrent else contextlib.nullcontext():
        yield


class _Shared:
    """A context manager for a setting of the process: the first of overlapping users enters it, the last one leaves."""

    def __init__(self, make_context: Callable[[], contextlib.AbstractContextManager[None]]):
        self._make_context = make_context
        self._lock = threading.Lock()
        self._users = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stack.enter_context(self._make_context())
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stack.close()


@contextlib.contextmanager
def _without_cudnn() -> Iterator[None]:
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


_PLAIN_ATTENTION = _Shared(lambda: sdpa_kernel(SDPBackend.MATH))
_NO_CUDNN = _Shared(_without_cudnn)


def _problems(module: nn.Module, second_order: bool) -> Iterator[str]:
    """Yields why the meta-gradients of a module would be wrong, and the fix."""
    never_again = "so the same inner step never happens twice"
    hooks = module._forward_pre_hooks.values()
    if isinstance(module, _NormBase) and module.track_running_stats and module.training:
        yield (
            f"every forward pass changes its running statistics, {never_again}; "
            "make it with track_running_stats=False, or call eval() on it"
        )
    rate = 0.0
    if isinstance(module, _DropoutNd):
        rate = module.p
    elif isinstance(module, nn.MultiheadAttention) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
        rate = module.dropout
    if module.training and (rate > 0 or isinstance(module, nn.RReLU)):
        yield f"it is random in training mode, {never_again}; set its rate to 0 or leave it out, or call eval() on it"
    if module.training and (isinstance(module, _SpectralNorm) or any(isinstance(h, SpectralNorm) for h in hooks)):
        yield f"spectral_norm changes its power iteration at every forward pass, {never_again}; call eval() on it"
    if second_order and (isinstance(module, _WeightNorm) or any(isinstance(h, WeightNorm) for h in hooks)):
        yield (
            "the second derivative of torch's weight_norm is wrong; compute g * v / v.norm() with plain operations in "
            "a parametrization of your own, or set first_order=True"
        )
    if isinstance(module, _EMBEDDINGS):
        if module.max_norm is not None:
            yield "max_norm writes to its weight at every forward pass; scale the rows with plain operations"
        if module.sparse:
            yield "its gradients are sparse, and have no second derivative; set sparse=False"
        if module.scale_grad_by_freq:
            yield "with scale_grad_by_freq its gradients are not those of the loss; leave it out"
