"""Tiny few-task problems in float64 for the inner loops, their meta-loss and its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from research.inner_loops import INNER_LOOPS, InnerLoop, InnerLoopConfig, make_inner_loop
from research.losses import PolicyBatch, reinforce
from research.policies.mlp import GaussianMLP, PolicyConfig
from research.types import Loss, Params

NUM_TASKS = 3
BACKENDS = INNER_LOOPS


class Pairs(NamedTuple):
    """Inputs and targets."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Problem:
    """A model, where it starts, the loss of a task, and a batch of tasks for each inner step and for the query."""

    model: nn.Module
    params: Params
    loss: Loss
    batches: Sequence[Any]
    query: Any

    def adapt(self, loop: InnerLoop, params: Params, update: Params, steps: int) -> Params:
        return loop.adapt(self.model, params, update, self.loss, self.batches[:steps])

    def meta_loss(self, loop: InnerLoop, params: Params, update: Params, steps: int) -> Tensor:
        """Mean over tasks of the query loss at the adapted parameters."""
        return self.query_loss(self.adapt(loop, params, update, steps))

    def query_loss(self, adapted: Params) -> Tensor:
        losses = []
        for task in range(NUM_TASKS):
            own = {name: value[task] for name, value in adapted.items()}
            batch = type(self.query)(*(field[task] for field in self.query))
            losses.append(self.loss(lambda *inputs, own=own: functional_call(self.model, own, inputs), batch))
        return torch.stack(losses).mean()


def make_loop(backend: str, *, probe: bool = False, **settings: Any) -> InnerLoop:
    """The tests compare the numbers of the backends themselves, which the probe would do once more."""
    return make_inner_loop(backend, InnerLoopConfig(**settings), probe)


def squared_error(forward: Callable[..., Tensor], batch: Pairs) -> Tensor:
    return (forward(batch.x) - batch.y).square().mean()


def regression(model: nn.Module | None = None, inputs: int = 3, outputs: int = 2, rows: int = 5) -> Problem:
    """Least squares with a net of one hidden layer, or with `model` in double precision."""
    generator = torch.Generator().manual_seed(1)
    if model is None:
        model = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs))
        for value in model.parameters():
            nn.init.normal_(value, std=0.6, generator=generator)
    model = model.double()

    def draw() -> Pairs:
        shape = (NUM_TASKS, rows)
        x = torch.randn((*shape, inputs), generator=generator, dtype=torch.float64)
        return Pairs(x, torch.randn((*shape, outputs), generator=generator, dtype=torch.float64))

    return Problem(model, start(model), squared_error, [draw() for _ in range(5)], draw())


def gaussian_policy() -> Problem:
    """The policy gradient of a Gaussian policy on made-up episodes, some steps of which are not valid."""
    generator = torch.Generator().manual_seed(2)
    model = GaussianMLP(3, 2, PolicyConfig((4,)), generator).double()

    def draw() -> PolicyBatch:
        def normal(*feature: int) -> Tensor:
            return torch.randn((NUM_TASKS, 2, 4, *feature), generator=generator, dtype=torch.float64)

        return PolicyBatch(normal(3), normal(2), normal(), normal(), normal() > -1.0)

    return Problem(model, start(model), reinforce, [draw() for _ in range(5)], draw())


PROBLEMS: dict[str, Callable[[], Problem]] = {"regression": regression, "policy": gaussian_policy}


def start(model: nn.Module) -> Params:
    """A model's parameters as leaves of their own."""
    return leaves({name: value.detach().clone() for name, value in model.named_parameters()})


def leaves(params: Params) -> Params:
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def initial_update(loop: InnerLoop, problem: Problem, steps: int) -> Params:
    """The update rule's parameters, moved away from where they start, so that no derivative is a special case."""
    generator = torch.Generator().manual_seed(3)
    update = loop.init_update(problem.model, problem.params, steps)
    return leaves(
        {
            name: value * (1 + 0.1 * torch.rand(value.shape, generator=generator, dtype=value.dtype))
            for name, value in update.items()
        }
    )


def meta_gradient(loop: InnerLoop, problem: Problem, update: Params, steps: int) -> Params:
    """∇ of the meta-loss in the initial parameters (`model.*`) and the update rule's (`update.*`)."""
    value = problem.meta_loss(loop, problem.params, update, steps)
    inputs = named(problem.params, update)
    gradient = torch.autograd.grad(value, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, gradient, strict=True))


def named(params: Params, update: Params) -> Params:
    return {f"model.{name}": p for name, p in params.items()} | {f"update.{name}": p for name, p in update.items()}


def slope(value: Callable[[Params], Tensor], at: Params, direction: Params, epsilon: float = 2e-7) -> float:
    """The derivative of `value` along a direction by central differences of fourth order."""

    def rise(step: float) -> float:
        ahead, behind = ({n: p + sign * step * direction[n] for n, p in at.items()} for sign in (1, -1))
        return value(leaves(ahead)).item() - value(leaves(behind)).item()

    return (8 * rise(epsilon) - rise(2 * epsilon)) / (12 * epsilon)


def directions(at: Params) -> Params:
    """A fixed random direction."""
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in at.items()}


def dot(a: Params, b: Params) -> float:
    return sum((a[name] * b[name]).sum().item() for name in a)


def relative_errors(loop: InnerLoop, problem: Problem, update: Params, steps: int) -> tuple[float, float]:
    """How far the meta-gradient is from finite differences: in the initial parameters and in the update rule's."""
    gradient = meta_gradient(loop, problem, update, steps)
    by_model = slope(lambda p: problem.meta_loss(loop, p, update, steps), problem.params, directions(problem.params))
    by_update = slope(lambda u: problem.meta_loss(loop, problem.params, u, steps), update, directions(update))
    model = dot({n: gradient[f"model.{n}"] for n in problem.params}, directions(problem.params))
    rule = dot({n: gradient[f"update.{n}"] for n in update}, directions(update))
    return abs(model / by_model - 1), abs(rule / by_update - 1)
