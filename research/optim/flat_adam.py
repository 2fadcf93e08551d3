"""Adam for one flat tensor, with the clipping of its gradient: two passes over memory where there is a C compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from research.optim.elements import function_for


class FlatAdam(torch.optim.Adam):
    """Adam or AdamW of one tensor `[size]` or `[rows, size]`; the gradient of each row is scaled down to a norm first.

    Its groups, state and checkpoints are those of `torch.optim.Adam`. A checkpoint has the state from the start, also
    after Lookahead has emptied it: a run that stops then can go on.

    Args:
        flat: The contiguous tensor. Its gradient has to be contiguous, too.
        lr: The learning rate.
        max_norm: Rows of the gradient with a larger norm are scaled down to this one; 0 for no limit.
        decoupled: Whether it is AdamW, with its weight decay of 0.01.

    Example:
        >>> flat = torch.tensor([1.0, 2.0])
        >>> flat.grad = torch.tensor([30.0, 40.0])
        >>> optimizer = FlatAdam(flat, lr=0.25, max_norm=10.0)
        >>> optimizer.step()
        >>> flat, optimizer.state[flat]["exp_avg"]
        (tensor([0.7500, 1.7500]), tensor([0.6000, 0.8000]))
    """

    def __init__(self, flat: Tensor, lr: float, max_norm: float = 0.0, decoupled: bool = False):
        decay = 0.01 if decoupled else 0  # torch's defaults
        super().__init__([flat], lr, weight_decay=decay, fused=True, decoupled_weight_decay=decoupled)
        self.max_norm = max_norm
        self._start()

    @property
    def _flat(self) -> Tensor:
        flat: Tensor = self.param_groups[0]["params"][0]
        return flat

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"max_norm": self.max_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:  # a checkpoint of AdamW in torch < 2.7 does not say that it is decoupled
            group["decoupled_weight_decay"] = self.defaults["decoupled_weight_decay"]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as `torch.optim.Optimizer.state_dict` does."""
        if not self.state[self._flat]:
            self._start()
        return super().state_dict()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Takes a step. It may scale the gradient down in place."""
        assert closure is None
        flat, state, group = self._flat, self.state[self._flat] or self._start(), self.param_groups[0]
        assert flat.grad is not None
        tensors = flat, flat.grad, state["exp_avg"], state["exp_avg_sq"]
        adam = function_for("adam", *tensors)
        if adam is None:
            clip_rows(flat.grad, self.max_norm)
            super().step()
            return
        state["step"] += 1
        increment_version((flat, state["exp_avg"], state["exp_avg_sq"]))
        size = flat.shape[-1]
        settings = group["lr"], *group["betas"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"]
        pointers = (tensor.data_ptr() for tensor in tensors)
        adam(flat.numel() // size, size, *pointers, int(state["step"]), self.max_norm, *settings)

    step.hooked = True  # type: ignore[attr-defined]  # no hooks of torch: they take a tenth of a TD step

    def _start(self) -> dict[str, Tensor]:
        flat = self._flat
        state = {"step": torch.zeros((), dtype=torch.float32, device=flat.device)}
        state |= {name: torch.zeros_like(flat) for name in ("exp_avg", "exp_avg_sq")}
        self.state[flat] = state
        return state


@torch.no_grad()
def clip_rows(gradient: Tensor, max_norm: float) -> None:
    """Scales a gradient `[..., size]` in place so that no row has a larger norm; 0 for no limit.

    Example:
        >>> gradient = torch.tensor([[30.0, 40.0], [3.0, 4.0]])
        >>> clip_rows(gradient, 10.0)
        >>> gradient.round(decimals=3).tolist()
        [[6.0, 8.0], [3.0, 4.0]]
    """
    if max_norm:
        scale = max_norm / (torch.linalg.vector_norm(gradient, dim=-1, keepdim=True) + 1e-6)
        if not scale.is_cpu or (scale < 1).any():  # to ask a GPU takes longer
            gradient.mul_(scale.clamp_(max=1.0))
