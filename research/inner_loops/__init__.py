"""Differentiable inner loops: one protocol, and interchangeable backends that give the same numbers."""

import difflib
import functools
import importlib
import importlib.util

from research.inner_loops.base import InnerLoop, InnerLoopConfig, Linearized
from research.inner_loops.probe import Probed

_MODULES = {"func": "func", "higher": "with_higher", "learn2learn": "with_learn2learn"}
"""Module of each backend. It defines `make`, from `InnerLoopConfig` to `InnerLoop`, and nothing else imports it."""

INNER_LOOPS = tuple(name for name, module in _MODULES.items() if importlib.util.find_spec(f"{__name__}.{module}"))
"""Names of the backends that are here. One is imported when it is made for the first time."""


def make_inner_loop(name: str, config: InnerLoopConfig, probe: bool = True) -> InnerLoop:
    """Returns the inner loop of a backend.

    Args:
        name: Name of the backend, one of `INNER_LOOPS`.
        config: Its settings.
        probe: Whether to check the meta-gradients of modules and losses that the library does not know at their first
            use, see `research.inner_loops.probe`.

    Raises:
        ValueError: No backend has that name, or it does not support a setting.
        ModuleNotFoundError: The library that the backend is built on is not installed.

    Example:
        >>> import torch
        >>> inner_loop = make_inner_loop("func", InnerLoopConfig(inner_lr=0.5))
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> params, batch = {"weight": torch.zeros(1, 1)}, {"x": torch.ones(2, 1), "y": torch.tensor([[1.0], [-1.0]])}
        >>> update = inner_loop.init_update(model, params, num_steps=1)
        >>> loss = lambda forward, batch: (forward(batch["x"]) - batch["y"]).square().mean()
        >>> inner_loop.adapt(model, params, update, loss, [batch])["weight"].flatten()  # one weight per task
        tensor([ 1., -1.])
    """
    if name not in INNER_LOOPS:
        nearest = difflib.get_close_matches(name, INNER_LOOPS, n=1)
        advice = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"inner_loop={name!r}: need one of {', '.join(INNER_LOOPS)}{advice}")
    backend = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    inner_loop: InnerLoop = backend.make(config)
    if not probe:
        return inner_loop
    names = (name, *(other for other in INNER_LOOPS if other != name))
    return Probed(config, inner_loop, names, functools.partial(make_inner_loop, probe=False))


__all__ = ["INNER_LOOPS", "InnerLoop", "InnerLoopConfig", "Linearized", "make_inner_loop"]
