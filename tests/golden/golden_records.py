"""From a case to its record, from a record to its file, and from two records to what differs.

A record holds no bytes and no hashes, so that it survives another CPU: of a tensor it keeps, in float64, its norm and
its product with a fixed vector that is uniform on [-√3, √3] (mean 0, variance 1). Any changed element, and any changed
order, moves the product; the norm is the size that a difference is compared with.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import golden_cases
import numpy as np
import torch
from torch.utils import _pytree as pytree

from research.algorithms import ALGORITHMS, Algorithm
from research.tasks import REGRESSION_TASKS, TASKS, make_regression_tasks, make_tasks
from research.tracking.config import from_mapping

RECORDS = Path(__file__).parent / "records"
ITERATIONS = 3
EVAL_TASKS, EVAL_STEPS = 3, 2
DIGITS = 10

BY_POSITION = ("state", "evaluation")
"""Sections whose entries are compared in their order: the names of their entries only help the reader."""

TOLERANCES = {"float64": 1e-7, "float32": 1e-3, "tasks": 1e-5}
LEAST_SCALE = 1e-3


class Entry(NamedTuple):
    """A named quantity: its dtype and shape, or "" for plain numbers, and rows of numbers (texts if not finite)."""

    name: str
    kind: str
    rows: list[list[Any]]


Record = dict[str, list[Entry]]
"""Entries by section."""


class Case(NamedTuple):
    """What is recorded, and the largest relative difference that is none."""

    name: str
    run: Callable[[], Record]
    tolerance: float

    @property
    def file(self) -> Path:
        return RECORDS / f"{self.name}.json"


class Difference(NamedTuple):
    """A number that changed. `relative` is to the largest number of its row; None where one of the two is missing."""

    where: str
    old: Any
    new: Any
    relative: float | None

    def __str__(self) -> str:
        by = "" if self.relative is None else f"   relative difference {self.relative:.1e}"
        return f"{self.where}: {_text(self.old)} → {_text(self.new)}{by}"


def all_cases() -> dict[str, Case]:
    """Every case by its name, `family/case`."""
    found: list[Case] = []
    for algorithm, cases in golden_cases.ALGORITHM_CASES.items():
        for name, settings in cases.items():
            run = functools.partial(record_algorithm, algorithm, settings)
            found.append(Case(f"{algorithm}/{name}", run, TOLERANCES[settings["dtype"]]))
    for registry, named, default, record in (
        (TASKS, golden_cases.TASK_CASES, golden_cases.SHORT, record_task),
        (REGRESSION_TASKS, golden_cases.REGRESSION_TASK_CASES, {}, record_regression_task),
    ):
        for task in sorted(registry | named):
            for name, settings in named.get(task, {"default": default}).items():
                found.append(
                    Case(f"tasks/{task}-{name}", functools.partial(record, task, settings), TOLERANCES["tasks"])
                )
    return {case.name: case for case in found}


def record_algorithm(name: str, settings: Mapping[str, Any]) -> Record:
    """The training of an algorithm with the default dtype of its settings: weights are drawn in that one."""
    kind, before = ALGORITHMS[name], torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, settings["dtype"]))
    try:
        return record_training(kind(from_mapping(kind.Config, settings)))
    finally:
        torch.set_default_dtype(before)


def record_training(algorithm: Algorithm) -> Record:
    """Metrics and state of three iterations, and the curve of an evaluation after them."""
    state, metrics, states = algorithm.init(), [], []
    for _ in range(ITERATIONS):
        state, measured = algorithm.step(state)
        metrics.append({key: value for key, value in measured.items() if not key.startswith("time/")})
        states.append(pytree.tree_flatten_with_path(state)[0])
    names = sorted(set().union(*metrics))
    curve = algorithm.evaluate(state, EVAL_TASKS, EVAL_STEPS)
    shown = curve.by_task()
    return {
        "metrics": [
            Entry(key, "", [[_number(each[key]) if key in each else None for each in metrics]]) for key in names
        ],
        "state": [_leaf(leaves) for leaves in zip(*states, strict=True)],
        "evaluation": [
            Entry(f"{shown['label']} by {shown['unit']}", "", _rows(shown["score"])),
            *([Entry("regret", "", _rows(shown["regret"]))] if shown.get("regret") else []),
        ],
    }


def record_task(name: str, settings: Mapping[str, Any]) -> Record:
    """Tasks of training and of evaluation, and two episodes of each by fixed actions, the second of some rows only."""
    distribution = make_tasks(name, **settings)
    tasks = distribution.sample(3, np.random.default_rng(1))
    envs = distribution.make_envs(tasks, 2)
    some = np.arange(envs.num_envs) % 3 != 1
    seen, acted = _episode(envs, distribution, 5, {})
    again, _ = _episode(envs, distribution, 6, {"reset_mask": some})
    envs.close()
    record = {
        "training tasks": _fields(tasks),
        "held-out tasks": _fields(distribution.test_tasks(3)),
        "episode": _fields(seen),
        "episode after a reset of some rows": _fields(again),
    }
    if hasattr(distribution, "action_regret"):
        by_task = [np.stack(part, 1).reshape(3, 2, len(acted), -1) for part in (seen["observation"][:-1], acted)]
        regret = distribution.action_regret(tasks, by_task[0], by_task[1][..., 0])
        record["solution"] = _fields({"optimal_return": distribution.optimal_return(tasks), "action_regret": regret})
    return record


def record_regression_task(name: str, settings: Mapping[str, Any]) -> Record:
    """Tasks of training and of evaluation, and examples."""
    distribution = make_regression_tasks(name, **settings)
    tasks = distribution.sample(3, np.random.default_rng(1))
    return {
        "training tasks": _fields(tasks),
        "held-out tasks": _fields(distribution.test_tasks(3)),
        "examples": _fields(distribution.examples(tasks, 4, np.random.default_rng(2))),
    }


def _episode(
    envs: Any, distribution: Any, seed: int, options: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], list[Any]]:
    """What the environments show by actions that depend on nothing, over time; and the actions."""
    draws, space = np.random.default_rng(7), distribution.action_space
    shown: dict[str, list[Any]] = {"observation": [envs.reset(seed=seed, options=dict(options))[0]]}
    acted = []
    for _ in range(distribution.horizon):
        if hasattr(space, "n"):
            action = np.floor(draws.random(envs.num_envs) * space.n).astype(np.int64)
        else:
            low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
            action = (low + (high - low) * draws.random((envs.num_envs, *space.shape))).astype(space.dtype)
        observation, reward, terminated, truncated, _ = envs.step(action)
        shown["observation"].append(observation)
        for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            shown.setdefault(name, []).append(value)
        acted.append(action)
    return shown, acted


def _fields(values: Any) -> list[Entry]:
    named = values if isinstance(values, Mapping) else values._asdict()
    return [Entry(name, _kind(np.asarray(value)), [_digest(np.asarray(value))]) for name, value in named.items()]


def _leaf(over_time: tuple[tuple[Any, Any], ...]) -> Entry:
    """A leaf of the state after each iteration."""
    values = [value for _, value in over_time]
    kinds = list(dict.fromkeys(map(_kind, values)))
    return Entry(_path(over_time[0][0]), " → ".join(kinds), [_digest(value) for value in values])


def _path(keys: tuple[Any, ...]) -> str:
    return ".".join(
        str(next(getattr(key, name) for name in ("name", "key", "idx") if hasattr(key, name))) for key in keys
    )


def _kind(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value) if value is None or isinstance(value, str) else type(value).__name__


def _digest(value: Any) -> list[Any]:
    """The number itself; of several, their norm and their product with a fixed vector; of a text, nothing."""
    if value is None or isinstance(value, str):
        return []
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    flat = array.astype(np.float64).ravel()
    if flat.size < 2:
        return [_number(each) for each in flat]
    direction = np.sqrt(12) * (np.random.default_rng(0).random(flat.size) - 0.5)
    return [_number(np.linalg.norm(flat)), _number((flat * direction).sum())]


def _rows(table: list[list[float]]) -> list[list[Any]]:
    return [[_number(value) for value in row] for row in table]


def _number(value: float) -> float | str:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else str(float(value))


def save(record: Record, file: Path) -> None:
    """Writes a record, one entry a line."""
    sections = []
    for name, entries in record.items():
        lines = (json.dumps([entry.name, entry.kind, *entry.rows], ensure_ascii=False) for entry in entries)
        sections.append(f"{json.dumps(name)}: [\n" + ",\n".join(lines) + "\n]")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


def load(file: Path) -> Record:
    """The record of a file."""
    sections = json.loads(file.read_text(encoding="utf-8"))
    return {name: [Entry(*entry[:2], entry[2:]) for entry in entries] for name, entries in sections.items()}


def differences(old: Record, new: Record) -> Iterator[Difference]:
    """All numbers that are not the same, however near; shapes, dtypes, and what is in one record only."""
    for section in dict.fromkeys([*old, *new]):
        ours, theirs = old.get(section, []), new.get(section, [])
        if section in BY_POSITION and len(ours) == len(theirs):
            pairs = [(f"{there.name}", here, there) for here, there in zip(ours, theirs, strict=True)]
        else:
            before, after = ({entry.name: entry for entry in entries} for entries in (ours, theirs))
            pairs = [(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]
        for name, here, there in pairs:
            yield from _between(f"{section} › {name}", here, there)


def _between(where: str, old: Entry | None, new: Entry | None) -> Iterator[Difference]:
    if old is None or new is None:
        yield Difference(where, old and _shape(old), new and _shape(new), None)
        return
    if _shape(old) != _shape(new):
        yield Difference(where, _shape(old), _shape(new), None)
        return
    for row, (ours, theirs) in enumerate(zip(old.rows, new.rows, strict=True)):
        finite = [abs(value) for value in ours if isinstance(value, float)]
        scale = max([LEAST_SCALE, *finite])
        for column, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a != b:
                both = isinstance(a, float) and isinstance(b, float)
                yield Difference(f"{where} [{row}][{column}]", a, b, abs(a - b) / scale if both else None)


def _shape(entry: Entry) -> str:
    return f"{entry.kind} {[len(row) for row in entry.rows]}".strip()


def changes(old: Record, new: Record, tolerance: float) -> list[Difference]:
    """The differences that are no rounding."""
    return [each for each in differences(old, new) if each.relative is None or each.relative > tolerance]


def _text(value: Any) -> str:
    return "nothing" if value is None else f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
