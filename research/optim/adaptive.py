"""Lookahead whose α, and whose k, follow the loss.

At a sync φ_t = φ_{t−1} + α d with d = θ_{t−1,k} − φ_{t−1}, so the loss at the new slow weights has the derivative

    h = dL(φ_t)/dα = ∇L(φ_t)ᵀ d,

and ∇L(φ_t) is the first gradient of the next cycle: it costs an inner product (the hypergradient descent of Baydin et
al. 2018, arXiv:1703.04782, carried over from the learning rate to α). Before that cycle's first step

    α ← clip(α − η h, low, high)                                                                  η: `alpha_lr`
    k ← clip(k + 1 if h < 0 else k − 1, low, high)                                          with `adapt_k`

h < 0 says that φ_t lies short of the minimum along d, so the fast weights can be trusted to go farther; h > 0 that they
went too far. Each group of parameters has its own h, α and k. Both are off by default.

Differs from the papers: arXiv:1907.08610 chooses α by the exact minimum on a quadratic; this goes there step by step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from research.optim.lookahead import Closure, Group, InnerState, Lookahead
from research.validation import at_least, ordered


class AdaptiveLookahead(Lookahead):
    """Lookahead that adapts α with `alpha_lr` above 0, and k with `adapt_k`. See the module.

    What they have become stands in the parameter groups, as `lookahead_alpha` and `lookahead_k`.

    Args:
        base_optimizer: See `Lookahead`.
        k: See `Lookahead`; where it starts.
        alpha: See `Lookahead`; where it starts.
        inner_state: See `Lookahead`.
        alpha_lr: η, in α per unit of the loss. 0 keeps α.
        alpha_range: Lowest and highest α, within (0, 1].
        adapt_k: Whether k changes.
        k_range: Lowest and highest k.

    Raises:
        ValueError: As `Lookahead`; or a range is empty, or beyond what is allowed.

    Example:
        >>> weight = torch.tensor([4.0], requires_grad=True)
        >>> optimizer = AdaptiveLookahead(torch.optim.SGD([weight], lr=0.1), k=2, alpha=0.5, alpha_lr=0.1)
        >>> for _ in range(3):  # the first gradient after the sync changes α
        ...     weight.grad = weight.detach().clone()
        ...     optimizer.step()
        >>> round(optimizer.param_groups[0]["lookahead_alpha"], 3)
        0.775
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        k: int = 5,
        alpha: float = 0.5,
        inner_state: InnerState = "maintain",
        *,
        alpha_lr: float = 0.0,
        alpha_range: tuple[float, float] = (0.1, 1.0),
        adapt_k: bool = False,
        k_range: tuple[int, int] = (1, 20),
    ):
        at_least({"alpha_lr": alpha_lr}, 0, "alpha_lr")
        ordered({"alpha_range": alpha_range, "k_range": k_range}, "alpha_range", "k_range")
        if not 0 < alpha_range[0] <= alpha_range[1] <= 1:
            raise ValueError(f"alpha_range={alpha_range}: need both ends above 0, at most 1")
        if k_range[0] < 1 or any(int(end) != end for end in k_range):
            raise ValueError(f"k_range={k_range}: need whole numbers of steps, at least 1")
        self.alpha_lr, self.alpha_range = alpha_lr, alpha_range
        self.adapt_k, self.k_range = adapt_k, k_range
        self._moves: dict[Tensor, Tensor] = {}
        super().__init__(base_optimizer, k, alpha, inner_state)

    @property
    def _adapts(self) -> bool:
        return self.alpha_lr > 0 or self.adapt_k

    def _before_step(self, closure: Closure | None) -> Closure | None:
        if closure is None:
            self._adapt()
            return None
        return lambda: self._adapt_after(closure())

    def _adapt_after(self, loss: Any) -> Any:
        """The loss, once its gradient has been used; later gradients of a step are not at the slow weights."""
        self._adapt()
        return loss

    @torch.no_grad()
    def _adapt(self) -> None:
        """Uses the gradient at the slow weights, if this is the first since the sync."""
        for group in self.param_groups:
            moves = [(param, self._moves.pop(param)) for param in group["params"] if param in self._moves]
            if moves:
                parts = [(param.grad * move).sum().double() for param, move in moves if param.grad is not None]
                self._follow(group, float(sum(parts)))

    def _follow(self, group: Group, slope: float) -> None:
        alpha, k = self._name("alpha"), self._name("k")
        low, high = self.alpha_range
        if self.alpha_lr > 0:
            group[alpha] = min(max(group[alpha] - self.alpha_lr * slope, low), high)
        if self.adapt_k and slope != 0:
            shortest, longest = self.k_range
            group[k] = min(max(group[k] + (1 if slope < 0 else -1), shortest), longest)

    @torch.no_grad()
    def _sync(self, group: Group) -> None:
        if self._adapts and group["params"]:
            moves = torch._foreach_sub(group["params"], self._slow_of(group["params"]))
            self._moves.update(zip(group["params"], moves, strict=True))
        super()._sync(group)

    def _start_cycle(self, group: Group) -> None:
        for param in group["params"]:
            self._moves.pop(param, None)
        super()._start_cycle(group)

    def _own_state(self) -> dict[str, Any]:
        moves = {index: self._moves[param] for index, param in enumerate(self._params()) if param in self._moves}
        return {**super()._own_state(), "moves": moves}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        super()._load_own_state(own)
        moves = own.get("moves", {}).items()
        self._moves = {self._params()[index]: value.to(self._params()[index], copy=True) for index, value in moves}

    def __getstate__(self) -> dict[str, Any]:
        names = ("alpha_lr", "alpha_range", "adapt_k", "k_range", "_moves")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names}}
