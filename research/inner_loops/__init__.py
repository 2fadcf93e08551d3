"""Differentiable inner loops: one protocol, three interchangeable backends with the same numbers."""

from collections.abc import Callable

from research.inner_loops.base import InnerLoop, InnerLoopConfig
from research.inner_loops.func import FuncInnerLoop
from research.inner_loops.linearize import Linearized
from research.inner_loops.with_higher import HigherInnerLoop
from research.inner_loops.with_learn2learn import Learn2LearnInnerLoop

INNER_LOOPS: dict[str, Callable[[InnerLoopConfig], InnerLoop]] = {
    "func": FuncInnerLoop,
    "higher": HigherInnerLoop,
    "learn2learn": Learn2LearnInnerLoop,
}


def make_inner_loop(name: str, config: InnerLoopConfig) -> InnerLoop:
    """The inner loop `name` with these settings.

    Raises:
        ValueError: No inner loop has that name.
    """
    if name not in INNER_LOOPS:
        raise ValueError(f"inner_loop={name!r}: need one of {', '.join(INNER_LOOPS)}")
    return INNER_LOOPS[name](config)


__all__ = ["INNER_LOOPS", "InnerLoop", "InnerLoopConfig", "Linearized", "make_inner_loop"]
