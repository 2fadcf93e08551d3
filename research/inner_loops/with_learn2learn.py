"""The inner loop on `learn2learn` (Arnold et al. 2020, arXiv:2008.12284): its MAML, MetaSGD and GBML, task by task.

GBML passes the gradient through a learned transform: Kronecker factors (Arnold et al. 2019, arXiv:1910.13603) or meta-
curvature (Park & Oliva 2019, arXiv:1902.03356). Their parameters are part of `update`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from research.inner_loops.base import Backend, InnerLoop, InnerLoopConfig, adapted_names, init_rates, rate
from research.inner_loops.supported import check_model, twice_differentiable
from research.per_task import num_tasks
from research.types import Loss, Params

Learner = Any
"""One of learn2learn's MAML, MetaSGD or GBML around a model."""

_PREFIX = "transform."
_INSTALL = (
    "python -m pip install --no-deps --config-settings=--build-option=build_ext learn2learn==0.2.0 "
    "(it is compiled, which needs a C compiler)"
)


@dataclass(frozen=True)
class Learn2LearnInnerLoop(InnerLoop):
    """Inner loop on `learn2learn`.

    Attributes:
        config: Settings of every backend. MetaSGD runs `learn_inner_lr="per_parameter"`, GBML transforms, and MAML all
            other settings. The transform of parameter `p` has the parameters `transform.p.*` in `update`; it starts as
            the identity.
    """

    config: InnerLoopConfig

    def __post_init__(self) -> None:
        if self.config.inner_optimizer != "sgd":
            raise ValueError(
                f"inner_optimizer={self.config.inner_optimizer!r}: inner_loop='learn2learn' has only sgd; "
                "inner_loop='func' has sgd, adam and adamw, inner_loop='higher' has more"
            )
        if self.config.lookahead_k:
            raise ValueError(
                f"lookahead_k={self.config.lookahead_k}: need 0 with inner_loop='learn2learn'; inner_loop='func' and "
                "inner_loop='higher' have Lookahead"
            )
        if self.config.transform != "none" and self.config.learn_inner_lr == "per_parameter":
            raise ValueError(
                f"transform={self.config.transform!r}: learn_inner_lr='per_parameter' does not go with a transform; "
                "need learn_inner_lr none, scalar or per_step, or transform='none'"
            )
        learn2learn()

    def init_update(self, model: nn.Module, params: Params, num_steps: int) -> Params:
        """See `InnerLoop.init_update`; includes the parameters of the transforms."""
        update = init_rates(self.config, params, num_steps)
        if self.config.transform != "none":
            for name in adapted_names(self.config, params):
                for key, value in self._make_transform(name, params[name]).named_parameters():
                    update[f"{_PREFIX}{name}.{key}"] = value.detach().clone()
        return update

    def adapt(self, model: nn.Module, params: Params, update: Params, loss: Loss, batches: Sequence[Any]) -> Params:
        check_model(model, second_order=not self.config.first_order)
        tracked = torch.is_grad_enabled() and any(t.requires_grad for t in (*params.values(), *update.values()))
        slots, tasks = _Slots(model, params, adapted_names(self.config, params)), num_tasks(batches)
        with twice_differentiable(model), torch.enable_grad():
            start = {n: p if tracked and p.requires_grad else p.detach().requires_grad_() for n, p in params.items()}
            learner = self._make_learner(slots.fill(model, start), slots.names, update, constant=not tracked)
            adapted = [self._adapt_task(learner, slots, update, loss, batches, task) for task in range(tasks)]
        moved = {name: torch.stack([row[name] for row in adapted]) for name in slots.names}
        moved = moved if tracked else {name: value.detach() for name, value in moved.items()}
        return {name: moved.get(name, value.expand(tasks, *value.shape)) for name, value in params.items()}

    def _make_learner(self, model: nn.Module, names: Sequence[str], update: Params, constant: bool) -> Learner:
        algorithms, first_order = learn2learn().algorithms, constant or self.config.first_order
        if self.config.learn_inner_lr == "per_parameter":
            return algorithms.MetaSGD(model, lrs=[update[f"lr.{name}"] for name in names], first_order=first_order)
        # Every step sets its own rate. The two flags allow a loss that does not use every parameter.
        settings = {"lr": 1.0, "first_order": first_order, "allow_unused": True, "allow_nograd": True}
        if self.config.transform == "none":
            return algorithms.MAML(model, **settings)
        return algorithms.GBML(model, None, compute_update=self._make_update(model, names, update), **settings)

    def _adapt_task(
        self, learner: Learner, slots: _Slots, update: Params, loss: Loss, batches: Sequence[Any], task: int
    ) -> Params:
        learner = learner.clone()
        slots.tie(learner.module)
        for step, batch in enumerate(batches):
            value = loss(learner, pytree.tree_map(lambda leaf: leaf[task], batch))
            if self.config.learn_inner_lr == "per_parameter":
                # MetaSGD needs a gradient for every parameter: zero where the loss does not use it.
                value = value + sum((param * 0.0).sum() for param in learner.module.parameters())
            elif self.config.transform == "none":
                learner.lr = rate(update, "", step)
            else:
                learner.diff_sgd.lr = rate(update, "", step)
            learner.adapt(value)
            slots.tie(learner.module)
        return dict(learner.module.named_parameters())

    def _make_update(self, model: nn.Module, names: Sequence[str], update: Params) -> Any:
        """Returns learn2learn's map from a loss to updates of the parameters, with the transforms of `update`."""
        remaining = iter(names)
        compute_update: Any = learn2learn().optim.ParameterUpdate(
            model.parameters(), lambda param: self._make_transform(next(remaining), param)
        )
        for name, transform in zip(names, compute_update.transforms_modules, strict=True):
            for key, _ in list(transform.named_parameters()):
                _place(transform, key, update[f"{_PREFIX}{name}.{key}"], as_parameter=True)
        return compute_update

    def _make_transform(self, name: str, param: Tensor) -> nn.Module:
        if param.ndim not in (1, 2, 4):
            raise ValueError(
                f"transform={self.config.transform!r}: parameter {name} has shape {tuple(param.shape)}, need 1, 2 or 4 "
                "dimensions; leave it out with adapt_only, or use transform='none'"
            )
        optim = learn2learn().optim
        kronecker = self.config.transform == "kronecker"
        make = optim.KroneckerTransform(learn2learn().nn.KroneckerLinear) if kronecker else optim.MetaCurvatureTransform
        return make(param.detach()).to(param)


make: Backend = Learn2LearnInnerLoop


class _Slots:
    """The places of a model's parameters, by name.

    learn2learn adapts every parameter of a module, and MetaSGD changes only the first occurrence of a tied one.
    Therefore each adapted parameter stays a parameter once; all others, and further occurrences of tied ones, become
    plain attributes of their modules.
    """

    def __init__(self, model: nn.Module, params: Params, adapted: Sequence[str]):
        for path, module in model.named_modules():
            if isinstance(module, nn.RNNBase):
                raise ValueError(
                    f"{path or 'model'}: learn2learn cannot adapt {type(module).__name__}; use inner_loop='func' or "
                    "inner_loop='higher'"
                )
        first: dict[int, str] = {}
        slots = list(model.named_parameters(remove_duplicate=False))
        self._name_of = {slot: first.setdefault(id(value), slot) for slot, value in slots}
        self._own = {slot: value.detach() for slot, value in slots}
        unknown = params.keys() - set(first.values())
        if unknown:
            names = ", ".join(first.values())
            raise ValueError(f"params: the model has no {', '.join(sorted(unknown))}; it has {names}")
        self.names = [name for name in first.values() if name in adapted]

    def fill(self, model: nn.Module, params: Params) -> nn.Module:
        """Returns a copy of the model with `params`, and with its own values for names that `params` lacks."""
        copy: nn.Module = learn2learn().clone_module(model)
        for slot, name in self._name_of.items():
            _place(copy, slot, params.get(name, self._own[slot]), as_parameter=slot in self.names)
        return copy

    def tie(self, model: nn.Module) -> None:
        """Sets further occurrences of tied parameters to the value of the first."""
        for slot, name in self._name_of.items():
            if slot != name and name in self.names:
                path, _, leaf = name.rpartition(".")
                _place(model, slot, getattr(model.get_submodule(path), leaf), as_parameter=False)


def _place(model: nn.Module, slot: str, value: Tensor, as_parameter: bool) -> None:
    """Sets a parameter of a module to a tensor that need not be a leaf."""
    path, _, leaf = slot.rpartition(".")
    owner = model.get_submodule(path)
    if as_parameter:
        owner._parameters[leaf] = value  # type: ignore[assignment]  # as learn2learn itself does
    else:
        owner._parameters.pop(leaf, None)
        owner.__dict__[leaf] = value


_lock = threading.Lock()


def learn2learn() -> ModuleType:
    """Returns the learn2learn package, or its core: `algorithms`, `optim`, `nn` and `utils`.

    The `__init__` of the package imports gym and torchvision, which are not needed here. It does not run, unless the
    program itself has imported learn2learn. A later `import learn2learn` elsewhere imports the whole package.

    Raises:
        ModuleNotFoundError: learn2learn is not installed; the message has the command.

    Example:
        >>> learn2learn().algorithms.MAML.__name__
        'MAML'
    """
    with _lock:
        return _load()


@functools.cache
def _load() -> ModuleType:
    whole = sys.modules.get("learn2learn")
    if whole is not None and hasattr(whole, "update_module"):  # the last of what its __init__ imports
        return whole
    spec = importlib.util.find_spec("learn2learn")
    if spec is None:
        raise ModuleNotFoundError(f"inner_loop='learn2learn': learn2learn is not installed. Run: {_INSTALL}")
    before = _take_modules()
    core = sys.modules["learn2learn"] = importlib.util.module_from_spec(spec)
    try:
        utils, *_ = [importlib.import_module(f"learn2learn.{part}") for part in ("utils", "nn", "optim", "algorithms")]
        core.clone_module, core.update_module = utils.clone_module, utils.update_module  # type: ignore[attr-defined]
    finally:
        _take_modules()
        sys.modules.update(before)
    return core


def _take_modules() -> dict[str, ModuleType]:
    """Removes the modules of learn2learn from `sys.modules` and returns them."""
    names = [name for name in sys.modules if name == "learn2learn" or name.startswith("learn2learn.")]
    return {name: sys.modules.pop(name) for name in names}
