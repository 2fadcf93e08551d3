"""Learning histories: all episodes of a learner on one task, from its first one on; and the files that hold them.

A file is NumPy's `.npz` (`np.savez`) without pickled objects:

    format        1
    task          text: name of the task distribution
    settings      text: its settings, a JSON object
    source        text: the learner, for readers
    observation   [histories, episodes, time] integers, the index of the 1 where observations are one-hot, 0 where all
                  are equal; else [histories, episodes, time, obs] floats
    action        [histories, episodes, time] integers, or [histories, episodes, time, act] floats
    reward        [histories, episodes, time] floats
    length        [histories, episodes] integers: the steps of each episode; what is beyond them has no meaning

Observations are those before the action. Each history has one task, and the same number of whole episodes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.spaces import OneHot, is_constant

FORMAT = 1
_ARRAYS = ("observation", "action", "reward", "length")
_TEXTS = ("task", "settings", "source")
_MEMBERS = ("format", *_TEXTS, *_ARRAYS)
_CHECKSUM_BYTES = 6


class Tasks(Protocol):
    """The properties of a task distribution, a dataclass, that histories have to fit; see `TaskDistribution`."""

    @property
    def horizon(self) -> int: ...

    @property
    def observation_space(self) -> gymnasium.spaces.Box: ...

    @property
    def action_space(self) -> gymnasium.Space[Any]: ...


class Histories(NamedTuple):
    """Learning histories, see the module; zeros beyond the length of an episode.

    Attributes:
        observation: `[histories, episodes, time]` int32, or `[histories, episodes, time, obs]` float32.
        action: `[histories, episodes, time]` int32, or `[histories, episodes, time, act]` float32.
        reward: `[histories, episodes, time]` float32.
        length: `[histories, episodes]` int32.
    """

    observation: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[np.float32]
    length: NDArray[np.int32]

    def valid(self) -> NDArray[np.bool_]:
        """Returns whether each step belongs to its episode, `[histories, episodes, time]`."""
        steps: NDArray[np.bool_] = np.arange(self.reward.shape[2]) < self.length[..., None]
        return steps

    def returns(self) -> NDArray[np.float64]:
        """Returns the undiscounted return of every episode, `[histories, episodes]`."""
        return self.reward.sum(-1, dtype=np.float64)

    def keep(self, history: NDArray[np.integer], first: NDArray[np.integer], every: int, count: int) -> Histories:
        """Returns episodes `first`, `first + every`, ... of some histories, `count` of each: `[rows, count, ...]`.

        Args:
            history: Index of the history of each row, `[rows]`.
            first: Index of the first episode of each row, `[rows]`.
            every: Distance of two episodes that are kept.
            count: Number of episodes of each row.
        """
        episode = first[:, None] + every * np.arange(count)
        return Histories(*(field[history[:, None], episode] for field in self))

    def checksum(self) -> int:
        """Returns a number from 1 to 2⁴⁸ − 1 that other histories almost surely do not have."""
        digest = hashlib.sha256()
        for field in self:
            digest.update(f"{field.dtype.str} {field.shape}".encode())
            digest.update(np.ascontiguousarray(field).data)
        return int.from_bytes(digest.digest()[:_CHECKSUM_BYTES], "big") or 1


def make_histories(
    observation: NDArray[Any], action: NDArray[Any], reward: NDArray[Any], length: NDArray[Any]
) -> Histories:
    """Returns histories of arrays of any integer and floating types; see `Histories` for the shapes."""
    valid = np.arange(reward.shape[2]) < length[..., None]

    def plain(values: NDArray[Any]) -> NDArray[Any]:
        is_whole = np.issubdtype(values.dtype, np.integer)
        own = valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim))
        return np.where(own, values, 0).astype(np.int32 if is_whole else np.float32)

    rewards = np.where(valid, reward, 0).astype(np.float32)
    return Histories(plain(observation), plain(action), rewards, length.astype(np.int32))


def state_table(space: gymnasium.spaces.Box) -> NDArray[np.float32] | None:
    """Returns the observations of a space of one-hot or of equal observations, `[states, obs]`; None for another."""
    if is_constant(space):
        return np.ravel(space.low)[None].astype(np.float32)
    return np.eye(len(space.low), dtype=np.float32) if isinstance(space, OneHot) else None


def num_discrete_actions(space: gymnasium.Space[Any]) -> int:
    """Returns the number of actions of a space of discrete ones; 0 for another space."""
    return int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else 0


def state_index(table: NDArray[np.float32], observation: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the index in `state_table` of each observation `[..., obs]`.

    Raises:
        ValueError: An observation is not in the table.
    """
    index: NDArray[np.int64] = observation.argmax(-1) if len(table) > 1 else np.zeros(observation.shape[:-1], np.int64)
    if not np.array_equal(table[index], observation):
        wrong = observation[(table[index] != observation).any(-1)][0]
        raise ValueError(f"observation: got {wrong.tolist()}; need a vector with one 1 and zeros, as its space says")
    return index


def write_histories(file: IO[bytes], histories: Histories, task: str, distribution: Tasks, source: str) -> None:
    """Writes histories to an open file, see the module.

    Args:
        file: The file.
        histories: The histories.
        task: Name of the task distribution.
        distribution: The task distribution.
        source: Text about the learner.
    """
    texts = dict(task=task, settings=json.dumps(_settings(distribution)), source=source)
    np.savez_compressed(file, format=np.array(FORMAT), **texts, **histories._asdict())  # type: ignore[arg-type]


def read_histories(path: str, task: str, distribution: Tasks) -> Histories:
    """Returns the histories of a file, which fit the tasks.

    Args:
        path: The file, the setting `histories`.
        task: Name of the task distribution.
        distribution: The task distribution.

    Raises:
        ValueError: The file cannot be read, lacks an array, is of other tasks, or has arrays that do not fit.
    """
    key = f"histories={path!r}"
    content = _load(path, key)
    _check_task(key, content, task, distribution)
    arrays: dict[str, NDArray[Any]] = {name: content[name] for name in _ARRAYS}
    _check_shapes(key, arrays, distribution)
    _check_ranges(key, arrays, distribution)
    with np.errstate(over="ignore", invalid="ignore"):  # the check follows
        histories = make_histories(**arrays)
    for name, values in histories._asdict().items():
        if not np.isfinite(values).all():
            raise ValueError(f"{key}: {name} has values that are not finite in float32; need finite numbers")
    return histories


def _load(path: str, key: str) -> dict[str, Any]:
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            content = {name: file[name] for name in _MEMBERS if name in file.files}
    except FileNotFoundError:
        raise ValueError(f"{key}: no such file; need one that `write_histories` wrote, or '' for the source") from None
    except MemoryError:
        raise
    except Exception as error:  # NumPy and the archive have many errors for a file that is damaged, or none of the kind
        raise ValueError(f"{key}: it cannot be read ({error}); need an .npz file without pickled objects") from error
    if missing := [name for name in _MEMBERS if name not in content]:
        raise ValueError(f"{key}: it has no {', '.join(missing)}; need {', '.join(_MEMBERS)}")
    for name, values in content.items():
        if not isinstance(values, np.ndarray):
            raise ValueError(f"{key}: {name} is no array; need a file that np.savez wrote")
        if name in _TEXTS and (values.shape or values.dtype.kind != "U"):
            raise ValueError(f"{key}: {name} has {values.dtype} of shape {list(values.shape)}; need one text")
    version = content["format"]
    if version.shape or version.dtype.kind not in "iu" or version != FORMAT:
        raise ValueError(f"{key}: it has format={version!s} ({version.dtype}); need the integer {FORMAT}")
    return content


def _settings(distribution: Tasks) -> Any:
    """Returns the settings of a task distribution as they are after a way through JSON."""
    return json.loads(json.dumps(dataclasses.asdict(distribution)))  # type: ignore[call-overload]


def _check_task(key: str, content: Mapping[str, Any], task: str, distribution: Tasks) -> None:
    made_for = str(content["task"])
    if made_for != task:
        raise ValueError(f"{key}: its task is {made_for!r}, got task={task!r}; need task={made_for!r}, or another file")
    try:
        theirs = json.loads(str(content["settings"]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}: its settings are no JSON ({error}); need the settings of the task") from error
    for name, ours in _settings(distribution).items():
        if not isinstance(theirs, dict) or name not in theirs or theirs[name] != ours:
            found = theirs.get(name) if isinstance(theirs, dict) else theirs
            setting = name if name == "horizon" else f"task_args.{name}"
            raise ValueError(f"{key}: its {name} is {found!r}, got {setting}={ours!r}; need {found!r}, or another file")


def _check_shapes(key: str, arrays: Mapping[str, NDArray[Any]], distribution: Tasks) -> None:
    shape, dtype = arrays["reward"].shape, arrays["reward"].dtype
    if dtype.kind not in "iuf":
        raise ValueError(f"{key}: reward has {dtype}; need floats or integers")
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"{key}: reward has the shape {list(shape)}; need [histories, episodes, time], none of them 0")
    if shape[2] > distribution.horizon:
        raise ValueError(f"{key}: it has {shape[2]} steps in an episode; need at most {distribution.horizon}, the "
                         "horizon of the task")  # fmt: skip
    observations, actions = distribution.observation_space, distribution.action_space
    needed = {
        "observation": () if state_table(observations) is not None else (math.prod(observations.shape),),
        "action": () if num_discrete_actions(actions) else (math.prod(actions.shape or ()),),
    }
    for name, end in needed.items():
        kind = "floats" if end else "integers"
        values = arrays[name]
        if values.shape != (*shape, *end) or values.dtype.kind not in ("f" if end else "iu"):
            raise ValueError(f"{key}: {name} has {values.dtype} of shape {list(values.shape)}; need {kind} of shape "
                             f"{[*shape, *end]}")  # fmt: skip
    if arrays["length"].shape != shape[:2] or arrays["length"].dtype.kind not in "iu":
        raise ValueError(f"{key}: length has {arrays['length'].dtype} of shape {list(arrays['length'].shape)}; need "
                         f"integers of shape {list(shape[:2])}")  # fmt: skip


def _check_ranges(key: str, arrays: Mapping[str, NDArray[Any]], distribution: Tasks) -> None:
    length, time = arrays["length"], arrays["reward"].shape[2]
    _check_range(key, "length", length, 1, time)
    valid = np.arange(time) < length[..., None]
    table, num_actions = state_table(distribution.observation_space), num_discrete_actions(distribution.action_space)
    if table is not None:
        _check_range(key, "observation", arrays["observation"][valid], 0, len(table) - 1)
    if num_actions:
        _check_range(key, "action", arrays["action"][valid], 0, num_actions - 1)


def _check_range(key: str, name: str, values: NDArray[Any], low: int, high: int) -> None:
    wrong = values[(values < low) | (values > high)]
    if wrong.size:
        raise ValueError(f"{key}: {name} has {wrong.flat[0]}; need integers from {low} to {high}")
