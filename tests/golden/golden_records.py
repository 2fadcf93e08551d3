"""Runs a case and digests it into a record; reads and writes records.

A record holds no bytes and no hashes, so that it survives another CPU. Of a tensor it keeps the dtype, the shape and,
in float64, the norm and the product with a fixed vector, uniform on [-√3, √3] (mean 0, variance 1). A changed element
or another order of the elements moves the product; the norm is the scale that a difference is compared with.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import golden_cases
import numpy as np
import torch
from torch.utils import _pytree as pytree

from research.algorithms import ALGORITHMS
from research.conversion import from_mapping
from research.tasks import REGRESSION_TASKS, TASKS, SolvedTasks, make_regression_tasks, make_tasks

RECORDS = Path(__file__).parent / "records"
ITERATIONS = 3
EVAL_TASKS, EVAL_STEPS = 3, 2
DIGITS = 10

TOLERANCES = {"float64": 1e-7, "float32": 1e-3, "tasks": 1e-6}
"""Relative differences up to these count as rounding errors: by the dtype of a training, and for the rollout of a task.

Measured on an AVX2 machine without the vector instructions in torch, MKL, OpenBLAS, NumPy and the C library, the
largest differences are 5e-10 in float64, which is the precision of the file, 4e-5 in float32 and none in tasks; two
threads instead of one change nothing. A changed draw is a difference of 0.1 or more, a damping of conjugate gradient
that is 10 % larger one of 2e-5.
"""


class Entry(NamedTuple):
    """A named quantity.

    Attributes:
        name: Its name.
        kind: Its dtype and shape, or "" for plain numbers.
        rows: Its numbers; a text for a number that is not finite, None for one that is missing. The rows of a leaf of
            the state belong to the iterations.
    """

    name: str
    kind: str
    rows: list[list[float | str | None]]


Record = dict[str, list[Entry]]
"""Entries by section."""


class Case(NamedTuple):
    """A case: its name, how it is run, and the largest relative difference that counts as rounding."""

    name: str
    run: Callable[[], Record]
    tolerance: float

    @property
    def file(self) -> Path:
        """Where its record is kept."""
        return RECORDS / f"{self.name}.json"


def all_cases() -> dict[str, Case]:
    """Every case by its name, `<algorithm>/<case>` or `tasks/<task>-<case>`."""
    found: list[Case] = []
    for algorithm, cases in golden_cases.ALGORITHM_CASES.items():
        for name, settings in cases.items():
            run = functools.partial(record_algorithm, algorithm, settings)
            found.append(Case(f"{algorithm}/{name}", run, TOLERANCES[settings["dtype"]]))
    for registry, named, default, record in (
        (TASKS, golden_cases.TASK_CASES, golden_cases.SHORT, record_task),
        (REGRESSION_TASKS, golden_cases.REGRESSION_TASK_CASES, {}, record_regression_task),
    ):
        for task in sorted(registry.keys() | named):
            for name, settings in named.get(task, {"default": default}).items():
                run = functools.partial(record, task, settings)
                found.append(Case(f"tasks/{task}-{name}", run, TOLERANCES["tasks"]))
    return {case.name: case for case in found}


def record_algorithm(name: str, settings: Mapping[str, Any]) -> Record:
    """The record of a training.

    The dtype of the settings is torch's default meanwhile. Networks draw their weights in the default dtype, and in
    float32 these differ from CPU to CPU by 1e-7, whatever dtype they are converted to.
    """
    kind, default = ALGORITHMS[name], torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, settings["dtype"]))
    try:
        return record_training(kind(from_mapping(kind.Config, settings)))
    finally:
        torch.set_default_dtype(default)


def record_training(algorithm: Any) -> Record:
    """Metrics and state of three iterations of an `Algorithm`, and the curve of an evaluation after them."""
    state, metrics, states = algorithm.init(), [], []
    for _ in range(ITERATIONS):
        state, measured = algorithm.step(state)
        metrics.append({key: value for key, value in measured.items() if not key.startswith("time/")})
        states.append(pytree.tree_flatten_with_path(state)[0])
    curve = algorithm.evaluate(state, EVAL_TASKS, EVAL_STEPS).by_task()
    names = sorted(set().union(*metrics))
    return {
        "metrics": [Entry(key, "", [[_number(each.get(key)) for each in metrics]]) for key in names],
        "state": [_leaf(leaves) for leaves in zip(*states, strict=True)],
        "evaluation": [
            Entry(key, "", [[_number(value) for value in row] for row in curve[key]])
            for key in ("score", "regret")
            if curve.get(key) is not None
        ],
    }


def record_task(name: str, settings: Mapping[str, Any]) -> Record:
    """The record of a task distribution: tasks of both splits, and an episode by fixed actions.

    A second episode starts with a reset of some rows.
    """
    distribution = make_tasks(name, **settings)
    tasks = distribution.sample(3, np.random.default_rng(1))
    envs = distribution.make_envs(tasks, 2)
    some = np.arange(envs.num_envs) % 3 != 1
    shown, actions = _episode(envs, distribution, 5, {})
    again, _ = _episode(envs, distribution, 6, {"reset_mask": some})
    envs.close()
    record = {
        "training tasks": _fields(tasks._asdict()),
        "held-out tasks": _fields(distribution.test_tasks(3)._asdict()),
        "episode": _fields(shown),
        "episode after a partial reset": _fields(again),
    }
    if isinstance(distribution, SolvedTasks):
        observation, action = (np.stack(part, 1) for part in (shown["observation"][:-1], actions))
        shape = (3, 2, len(actions))
        regret = distribution.action_regret(
            tasks, observation.reshape(*shape, -1), action.reshape(*shape, *action.shape[2:])
        )
        record["solution"] = _fields({"optimal_return": distribution.optimal_return(tasks), "action_regret": regret})
    return record


def record_regression_task(name: str, settings: Mapping[str, Any]) -> Record:
    """The record of a distribution over regression tasks: tasks of both splits, and examples."""
    distribution = make_regression_tasks(name, **settings)
    tasks = distribution.sample(3, np.random.default_rng(1))
    return {
        "training tasks": _fields(tasks._asdict()),
        "held-out tasks": _fields(distribution.test_tasks(3)._asdict()),
        "examples": _fields(distribution.examples(tasks, 4, np.random.default_rng(2))._asdict()),
    }


def _episode(
    envs: Any, distribution: Any, seed: int, options: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], list[Any]]:
    """What the environments return over time for actions that depend on nothing, and these actions."""
    draws, space = np.random.default_rng(7), distribution.action_space
    shown: dict[str, list[Any]] = {"observation": [envs.reset(seed=seed, options=dict(options))[0]]}
    actions = []
    for _ in range(distribution.horizon):
        if hasattr(space, "n"):
            action = np.floor(draws.random(envs.num_envs) * space.n).astype(np.int64)
        else:
            low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
            action = (low + (high - low) * draws.random((envs.num_envs, *space.shape))).astype(space.dtype)
        values = envs.step(action)[:4]
        for name, value in zip(("observation", "reward", "terminated", "truncated"), values, strict=True):
            shown.setdefault(name, []).append(value)
        actions.append(action)
    return shown, actions


def _fields(values: Mapping[str, Any]) -> list[Entry]:
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return [Entry(name, _kind(array), [_digest(array)]) for name, array in arrays.items()]


def _leaf(over_time: tuple[tuple[Any, Any], ...]) -> Entry:
    """A leaf of the state after each iteration."""
    (keys, _), values = over_time[0], [value for _, value in over_time]
    names = [next(str(getattr(key, part)) for part in ("name", "key", "idx") if hasattr(key, part)) for key in keys]
    return Entry(".".join(names), " → ".join(dict.fromkeys(map(_kind, values))), [_digest(value) for value in values])


def _kind(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value) if value is None or isinstance(value, str) else type(value).__name__


def _digest(value: Any) -> list[float | str | None]:
    """A number as it is; of several, their norm and their product with a fixed vector; nothing of a text."""
    if value is None or isinstance(value, str):
        return []
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    flat = array.astype(np.float64).ravel()
    if flat.size < 2:
        return [_number(each) for each in flat]
    direction = np.sqrt(12) * (np.random.default_rng(0).random(flat.size) - 0.5)
    return [_number(np.linalg.norm(flat)), _number((flat * direction).sum())]


def _number(value: float | None) -> float | str | None:
    if value is None:
        return None
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else str(float(value))


def save(record: Record, file: Path) -> None:
    """Writes a record, one entry a line."""
    sections = []
    for name, entries in record.items():
        lines = (json.dumps([entry.name, entry.kind, *entry.rows]) for entry in entries)
        sections.append(f"{json.dumps(name)}: [\n" + ",\n".join(lines) + "\n]")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


def load(file: Path) -> Record:
    """Reads a record."""
    sections = json.loads(file.read_text(encoding="utf-8"))
    return {name: [Entry(name, kind, rows) for name, kind, *rows in entries] for name, entries in sections.items()}
