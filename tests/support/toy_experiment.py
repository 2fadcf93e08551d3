"""A toy algorithm as a whole experiment: gradient descent on a noisy quadratic, one per task."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from research import rng
from research.evaluation import AdaptationCurve
from research.tracking.experiment import Experiment, make_experiment
from research.tracking.session import add_commands
from research.types import Params, StepResult


@dataclass(frozen=True)
class Surface:
    size: int = 3
    curvature: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: need at least 1")


@dataclass(frozen=True)
class Config:
    seed: int = 0
    num_iterations: int = 10
    lr: float | tuple[float, ...] = 0.1
    surface: Surface = Surface()
    optimizer: Literal["sgd", "momentum"] = "momentum"
    extra: dict[str, float] = field(default_factory=dict)
    pause: float = 0.0
    nan_at: int | None = None
    remark: str = ""
    num_eval_tasks: int = 4
    num_adapt_steps: int = 2
    eval_interval: int = 0
    checkpoint_interval: int = 3

    def __post_init__(self) -> None:
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations={self.num_iterations}: need at least 1")


class Velocity(NamedTuple):
    value: torch.Tensor
    count: int


class State(NamedTuple):
    iteration: int
    params: Params
    velocity: Velocity


class Toy:
    Config = Config

    def __init__(self, config: Config):
        self.config = config

    def init(self) -> State:
        start = torch.randn(self.config.surface.size, generator=rng.torch_generator(self.config.seed, "init"))
        return State(0, {"x": start}, Velocity(torch.zeros_like(start), 0))

    def step(self, state: State) -> StepResult:
        noise = rng.torch_generator(self.config.seed, "noise", state.iteration)
        x = state.params["x"]
        gradient = x + 0.1 * torch.randn(x.shape, generator=noise)
        velocity = 0.9 * state.velocity.value + gradient
        x = x - (self.config.lr if isinstance(self.config.lr, float) else self.config.lr[0]) * velocity
        time.sleep(self.config.pause)
        iteration = state.iteration + 1
        loss = float("nan") if iteration == self.config.nan_at else float((x**2).sum())
        metrics = {"loss": loss, "gradient_norm": float(gradient.norm()), "time/seconds": time.perf_counter()}
        return StepResult(State(iteration, {"x": x}, Velocity(velocity, state.velocity.count + 1)), metrics)

    def evaluate(self, state: State, num_tasks: int, num_adapt_steps: int) -> AdaptationCurve:
        x = state.params["x"].double().numpy()
        tasks = rng.generator(self.config.seed, "eval").normal(size=(num_tasks, len(x)))
        score = np.stack([-np.square(0.5**step * (x - tasks)).sum(1) for step in range(num_adapt_steps + 1)])
        return AdaptationCurve("mean return", score, tasks)


def report(curve: AdaptationCurve, directory: Path | None) -> list[Path]:
    print("score", curve.score.mean(1))  # noqa: T201
    if directory is None:
        return []
    (directory / "curve.txt").write_text(str(curve.score.tolist()))
    return [directory / "curve.txt"]


def make() -> Experiment:
    named = {"long": {"num_iterations": 50, "surface": {"size": 5}}}
    experiment = make_experiment("toy", Config, script=__file__, description="A toy.", named_configs=named)
    add_commands(experiment, Toy, columns={"loss": "loss", "speed": "time/none"}, report=report)
    return experiment


def main() -> Any:
    return make().run_commandline()


if __name__ == "__main__":
    main()
