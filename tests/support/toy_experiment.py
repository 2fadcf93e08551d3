"""A toy algorithm as a whole experiment: gradient descent on a noisy quadratic, one per task."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from research import rng
from research.evaluation import AdaptationCurve
from research.tasks.splits import Evaluated, SplitName
from research.tracking import session  # noqa: F401  commands import it: processes that are forked share it
from research.tracking.commands import add_commands
from research.tracking.experiment import Experiment, make_experiment
from research.types import Params, StepResult

OPTIONS = "num_iterations=12 eval_interval=4 checkpoint_interval=5 seed=2"
"""A run with evaluations and checkpoints that do not come together."""


@dataclass(frozen=True)
class Surface:
    size: int = 3
    curvature: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: need at least 1")


@dataclass(frozen=True)
class Config:
    evaluation_settings: ClassVar[frozenset[str]] = frozenset(
        {"seed", "num_eval_tasks", "eval_split", "num_adapt_steps", "device"}
    )
    resume_settings: ClassVar[frozenset[str]] = frozenset(
        {"num_iterations", "checkpoint_interval", "checkpoint_seconds", "device", "schedule_iterations"}
    )

    mutable_settings: ClassVar[frozenset[str]] = frozenset({"lr"})
    growing_settings: ClassVar[frozenset[str]] = frozenset()

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
    eval_split: SplitName = "test"
    num_adapt_steps: int = 2
    eval_interval: int = 0
    checkpoint_interval: int = 3
    checkpoint_seconds: float = 0.0
    schedule_iterations: int | None = None
    device: str = "cpu"

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
        lr = self.config.lr if isinstance(self.config.lr, float) else self.config.lr[0]
        x = x - lr * velocity
        time.sleep(self.config.pause)
        iteration = state.iteration + 1
        loss = float("nan") if iteration == self.config.nan_at else float((x**2).sum())
        metrics = {"loss": loss, "gradient_norm": float(gradient.norm()), "time/seconds": time.perf_counter()}
        return StepResult(State(iteration, {"x": x}, Velocity(velocity, state.velocity.count + 1)), metrics)

    def adopt(self, state: State, before: Config, own: State) -> State:
        return State(own.iteration, state.params, state.velocity)

    def evaluate(
        self, state: State, num_tasks: int, num_adapt_steps: int, split: SplitName = "test"
    ) -> AdaptationCurve:
        x = state.params["x"].double().numpy()
        tasks = rng.generator(self.config.seed, f"eval/{split}").normal(size=(num_tasks, len(x)))
        score = np.stack([-np.square(0.5**step * (x - tasks)).sum(1) for step in range(num_adapt_steps + 1)])
        return AdaptationCurve("mean return", score, tasks, evaluated=Evaluated(split, True))


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


def start_together(
    count: int, directory: Callable[[int], Path], environment: Mapping[str, str] | None = None
) -> list[int]:
    """Exit codes of processes that start a run of three iterations at the same instant, seeds 0 to count - 1.

    One process imports everything and forks them; they wait until all are there.
    """
    arguments = [str(directory(index)) for index in range(count)]
    command = [sys.executable, "-W", "ignore", __file__, "fork", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=True
    )
    return [int(code) for code in done.stdout.splitlines()[-1].split()]


def fork(directories: list[str]) -> list[int]:
    """See `start_together`."""
    ready, go = os.pipe(), os.pipe()
    children = []
    for seed, directory in enumerate(directories):
        child = os.fork()
        if child == 0:
            os.chdir(directory)
            os.write(ready[1], b".")
            os.close(go[1])
            os.read(go[0], 1)  # returns when the parent closes the other end
            os._exit(0 if make().run_commandline(["toy", "with", f"seed={seed}", "num_iterations=3"]) else 1)
        children.append(child)
    while directories:
        directories = directories[len(os.read(ready[0], 1 << 10)) :]
    os.close(go[1])
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> Any:
    if sys.argv[1:2] == ["fork"]:
        return print(*fork(sys.argv[2:]))  # noqa: T201
    return make().run_commandline()


if __name__ == "__main__":
    main()
