"""Base of this library's vector environments: spaces of a batch, no autoreset, and resets of some rows."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from research.validation import positive

Seed = int | list[int | None] | None
"""Seed of a reset: one integer, or one for each row."""

Options = dict[str, Any] | None
"""Options of a reset: `reset_mask`, see `reset_mask`, and `rows`, see `research.rng.Rows`."""

Started = tuple[NDArray[Any], dict[str, Any]]
"""Result of a reset: observation `[rows, obs]` and info."""

Stepped = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Result of a step: observation `[rows, obs]`, reward, terminated and truncated `[rows]`, and info."""


class TaskEnvs(gymnasium.vector.VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]], ABC):
    """Vector environments whose rows stay at the end of an episode, with reward 0, until `reset` starts another.

    Args:
        num_envs: Number of rows.
        observation_space: Space of the observation of one row.
        action_space: Space of the action of one row.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(self, num_envs: int, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        batch = gymnasium.vector.utils.batch_space
        self.observation_space, self.action_space = batch(observation_space, num_envs), batch(action_space, num_envs)


def per_row(tasks: Any, episodes: int) -> Any:
    """Returns a task batch whose every field has a `[rows]` axis instead of `[tasks]`, as copies.

    Args:
        tasks: A task batch, with at least one field.
        episodes: Rows of each task, which are adjacent.

    Raises:
        ValueError: `episodes` is not above 0.
    """
    positive(dict(episodes=episodes), "episodes")
    return type(tasks)(*(np.repeat(field, episodes, axis=0) for field in tasks))


def reset_mask(options: Mapping[str, Any] | None, num_rows: int) -> NDArray[np.bool_]:
    """Returns the rows to reset, `[rows]`: `options["reset_mask"]`, or all rows without it.

    Raises:
        ValueError: The mask is not an array of `num_rows` booleans, or selects no row.
    """
    mask = (options or {}).get("reset_mask")
    if mask is None:
        return np.ones(num_rows, bool)
    is_mask = isinstance(mask, np.ndarray) and mask.shape == (num_rows,) and mask.dtype == np.bool_
    if not is_mask or not np.count_nonzero(mask):
        raise ValueError(f"options['reset_mask']={mask!r}: need {num_rows} booleans, one of them true")
    return mask
