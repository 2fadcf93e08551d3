"""Base of task families with a MuJoCo robot: settings, spaces, and environments whose rows know their tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from research.sampling.mujoco import MujocoEnvs, Robot, action_space, load_robot, observation_space
from research.sampling.vector import per_row
from research.tasks.base import TaskDistribution
from research.validation import choices, positive


@dataclass(frozen=True)
class RobotTasks(TaskDistribution, ABC):
    """Settings of all robots.

    Attributes:
        model_file: Name of the model among those that Gymnasium ships, e.g. `"ant.xml"`. A constant of each family.
        horizon: Number of steps of an episode.
        clip_actions: Whether control costs see actions clipped to the range of the motors, as in rllab's
            NormalizedEnv, or as they are, as in Gymnasium. The motors always clip.
    """

    model_file: ClassVar[str]
    horizon: int = 200
    clip_actions: bool = False

    def __post_init__(self) -> None:
        positive(self, "horizon")
        choices(self)

    @property
    def robot(self) -> Robot:
        """The robot of `model_file`, without the changes of a task."""
        return load_robot(self.model_file)

    @property
    @abstractmethod
    def observation_size(self) -> int:
        """Length of an observation."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return observation_space(self.observation_size)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Controls of the motors, in the units and the range of the model."""
        return action_space(self.robot.model)


D = TypeVar("D", bound=RobotTasks)
T = TypeVar("T", bound=tuple[Any, ...])


class RobotEnvs(MujocoEnvs, Generic[D, T]):
    """Environments of a `RobotTasks` distribution. A family adds the functions of `MujocoEnvs`.

    Args:
        distribution: The task distribution.
        tasks: A task batch.
        episodes: Rows of each task.
        models: The model of each task; the robot's own model without it.
        fields: See `MujocoEnvs`.

    Attributes:
        frame_skip: Number of physics steps of an environment step.
        contact_forces: Whether contact forces are computed, see `Simulations`.
        distribution: The task distribution.
        tasks: The task of each row: the batch with a leading `[rows]` axis.

    Raises:
        ValueError: `episodes` is not above 0.
    """

    frame_skip: ClassVar[int] = 5
    contact_forces: ClassVar[bool] = False

    def __init__(
        self,
        distribution: D,
        tasks: Any,
        episodes: int,
        models: Sequence[mujoco.MjModel] = (),
        fields: Sequence[str] = ("qpos", "qvel"),
    ):
        self.distribution = distribution
        self.tasks: T = per_row(tasks, episodes)
        super().__init__(
            distribution.robot,
            [model for model in models for _ in range(episodes)] or [distribution.robot.model],
            len(self.tasks[0]),
            horizon=distribution.horizon,
            observation_size=distribution.observation_size,
            frame_skip=self.frame_skip,
            fields=fields,
            contact_forces=self.contact_forces,
            clip_actions=distribution.clip_actions,
        )


def uniform_on_disc(radius: float, num_points: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws points that are uniform on the disc of this radius around the origin, `[points, 2]`."""
    area, turn = rng.random((num_points, 2)).T
    distance, angle = radius * np.sqrt(area), 2 * math.pi * turn
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)
