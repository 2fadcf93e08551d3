"""LunarLander whose gravity, wind and turbulence differ from task to task. Needs Box2D (extra `box2d`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from research.tasks.gym_tasks import GymTasks


@dataclass(frozen=True)
class LunarLanderParams(GymTasks):
    """The task distribution: `GymTasks` with other defaults.

    Gymnasium allows gravity from −12 to 0 and recommends wind up to 20 and turbulence up to 2. The range of gravity
    excludes values near 0, with which the lander never lands.
    """

    horizon: int = 1000
    env_id: str = "LunarLander-v3"
    randomize_kwargs: dict[str, Any] = field(
        default_factory=lambda: {
            "gravity": [-11.9, -6.0],
            "wind_power": [0.0, 15.0],
            "turbulence_power": [0.0, 1.5],
        }
    )
    kwargs: dict[str, Any] = field(default_factory=lambda: {"enable_wind": True})
