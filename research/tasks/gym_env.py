"""One Gymnasium environment as it is: a distribution over tasks that has a single one.

There is nothing to adapt to. It is for algorithms that also learn a single task, such as DQN, and for comparisons with
published figures; `gym_tasks` makes many tasks of an environment.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.sampling.gym import DrawnGymEnvs, GymEnvs, Row, make_env
from research.tasks.base import Split
from research.validation import one_of, positive


class GymEnvTasks(NamedTuple):
    """The task, as often as asked for: `number [tasks]`, zeros."""

    number: NDArray[np.int64]


@dataclass(frozen=True)
class GymEnv:
    """The task distribution.

    Attributes:
        horizon: Steps of an episode, in place of the environment's own limit.
        env_id: A registered id, or `module:id`, which imports the module first.
        kwargs: Arguments of `gymnasium.make`.
        vectorization: `"sync"`, or `"async"`: every row in a process of its own.
    """

    horizon: int = 500
    env_id: str = "CartPole-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)
    vectorization: Literal["sync", "async"] = "sync"

    def __post_init__(self) -> None:
        positive(self, "horizon")
        one_of(self, "vectorization", ("sync", "async"))
        _ = self._row  # makes the environment, before a run has begun

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The flattened observation, declared without bounds."""
        return self._row.flat_space

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """That of the environment."""
        return self._row.action_space

    @property
    def split(self) -> Split:
        return Split(False, "there is one task: an evaluation sees other episodes of it")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> GymEnvTasks:
        """The task."""
        return GymEnvTasks(np.zeros(num_tasks, np.int64))

    def test_tasks(self, num_tasks: int) -> GymEnvTasks:
        """The task."""
        return GymEnvTasks(np.zeros(num_tasks, np.int64))

    def make_envs(self, tasks: GymEnvTasks, episodes: int) -> GymEnvs:
        """See `TaskDistribution.make_envs`."""
        positive(dict(episodes=episodes), "episodes")
        return GymEnvs([self._make] * (len(tasks.number) * episodes), self.vectorization)

    def make_drawn_envs(self, tasks: GymEnvTasks, episodes: int) -> DrawnGymEnvs:
        """The same environments, made so that they can be drawn. Raises ValueError if they cannot be."""
        positive(dict(episodes=episodes), "episodes")
        kwargs = self.kwargs | {"render_mode": "rgb_array"}
        make = functools.partial(make_env, self.env_id, self.horizon, kwargs)
        return DrawnGymEnvs([make] * (len(tasks.number) * episodes), self.env_id)

    @functools.cached_property
    def _row(self) -> Row:
        return Row(self._make())

    def _make(self) -> gymnasium.Env[Any, Any]:
        return make_env(self.env_id, self.horizon, self.kwargs)
