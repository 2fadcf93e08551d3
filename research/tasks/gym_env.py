"""One Gymnasium environment as it is: a distribution with a single task.

There is nothing to adapt to. It serves algorithms that also learn a single task, such as DQN, and comparisons with
published results; `gym_tasks` makes many tasks of an environment.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.sampling.gym import DrawnGymEnvs, Env, GymEnvs, Row, make_env
from research.sampling.vector import per_row
from research.tasks.base import Split, TaskDistribution
from research.validation import choices, positive

Spaces = tuple[gymnasium.spaces.Box, gymnasium.Space[Any]]
"""Spaces of an observation and of an action."""


@dataclass(frozen=True)
class GymDistribution(TaskDistribution, ABC):
    """Settings of distributions whose environments Gymnasium makes; the field of their task batches is `[tasks, ...]`.

    Attributes:
        horizon: Number of steps of an episode, instead of the environment's own limit.
        env_id: A registered id, or `module:id`, which imports the module first.
        kwargs: Argument of `gymnasium.make` → its value in every task.
        vectorization: `"sync"`, or `"async"` for one process per row.
    """

    horizon: int = 100
    env_id: str = "Pendulum-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)
    vectorization: Literal["sync", "async"] = "sync"

    def __post_init__(self) -> None:
        positive(self, "horizon")
        choices(self)

    @abstractmethod
    def make_task_env(self, task: NDArray[Any]) -> Env:
        """Makes the environment of one task; `task [...]` is the entry of the batch's field. Raises ValueError."""

    @property
    @abstractmethod
    def spaces(self) -> Spaces:
        """Spaces of the vector observation and of the action, found by making environments."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The observation as a vector, without bounds."""
        return self.spaces[0]

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Actions of the environment: Discrete from 0, or a flat Box."""
        return self.spaces[1]

    def make_envs(self, tasks: Any, episodes: int) -> GymEnvs:
        return GymEnvs(self._makers(tasks, episodes), self.vectorization)

    def make_drawn_envs(self, tasks: Any, episodes: int) -> DrawnGymEnvs:
        drawn = dataclasses.replace(self, kwargs=self.kwargs | {"render_mode": "rgb_array"})
        return DrawnGymEnvs(drawn._makers(tasks, episodes), self.env_id)

    def _makers(self, tasks: Any, episodes: int) -> list[Callable[[], Env]]:
        return [functools.partial(self.make_task_env, task) for task in per_row(tasks, episodes)[0]]


class GymEnvTasks(NamedTuple):
    """The single task, repeated: `number [tasks]`, zeros."""

    number: NDArray[np.int64]


@dataclass(frozen=True)
class GymEnv(GymDistribution):
    """The task distribution. Settings: see `GymDistribution`."""

    horizon: int = 500
    env_id: str = "CartPole-v1"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.spaces  # makes the environment, so that wrong settings are refused here

    @property
    def split(self) -> Split:
        return Split(False, "there is one task, and evaluation has other episodes of it", False)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> GymEnvTasks:
        return self.test_tasks(num_tasks)

    def test_tasks(self, num_tasks: int) -> GymEnvTasks:
        return GymEnvTasks(np.zeros(num_tasks, np.int64))

    def validation_tasks(self, num_tasks: int) -> GymEnvTasks:
        return self.test_tasks(num_tasks)

    def make_task_env(self, task: NDArray[Any]) -> Env:
        return make_env(self.env_id, self.horizon, self.kwargs)

    @functools.cached_property
    def spaces(self) -> Spaces:
        row = Row(make_env(self.env_id, self.horizon, self.kwargs))
        try:
            row.try_reset()
            row.try_step()
        except ValueError as error:
            raise ValueError(f"env_id={self.env_id!r}: {error}") from error
        finally:
            row.close()
        return row.flat_space, row.action_space
