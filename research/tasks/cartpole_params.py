"""CartPole whose cart, pole and gravity differ from task to task; the agent has to identify what it balances.

Dynamics, start, reward and termination are those of Gymnasium's CartPole-v1 (Barto, Sutton & Anderson 1983), with Euler
steps of `TIME_STEP` seconds: reward 1 for every step, termination when the pole leans more than 12° or the cart is
farther than 2.4 from the middle. With the total mass M = m_cart + m_pole and the half-length l of the pole:

    temp = (F + m_pole l θ̇² sin θ) / M
    θ̈ = (g sin θ − cos θ temp) / (l (4/3 − m_pole cos² θ / M)),   ẍ = temp − m_pole l θ̈ cos θ / M
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from research.sampling.vector import Options, Seed, Started, reset_mask
from research.tasks.base import ContinuousTasks
from research.tasks.rows import Moved, RowEnvs
from research.validation import positive, positive_ranges

TIME_STEP = 0.02
"""Seconds between two steps."""

MAX_ANGLE = 12 * 2 * math.pi / 360
"""Largest angle from the vertical, in radians; an episode terminates beyond it."""

MAX_POSITION = 2.4
"""Largest distance of the cart from the middle; an episode terminates beyond it."""

START_RANGE = 0.05
"""Start position, velocity, angle and angular velocity are uniform in [-START_RANGE, START_RANGE]."""

_RANGES = ("half_length_range", "pole_mass_range", "gravity_range", "cart_mass_range", "force_range")


class CartPoleTasks(NamedTuple):
    """Tasks of CartPole; every field is `[tasks]`.

    Attributes:
        half_length: Half the length of the pole, m.
        pole_mass: Mass of the pole, kg.
        gravity: Gravitational acceleration, m/s².
        cart_mass: Mass of the cart, kg.
        force: Force of a push, N.
    """

    half_length: NDArray[np.float64]
    pole_mass: NDArray[np.float64]
    gravity: NDArray[np.float64]
    cart_mass: NDArray[np.float64]
    force: NDArray[np.float64]


@dataclass(frozen=True)
class CartPoleParams(ContinuousTasks):
    """The task distribution. Each quantity is uniform in its range; equal ends fix it.

    Attributes:
        horizon: Number of steps of an episode.
        half_length_range: Half the length of the pole, m. CartPole-v1 has 0.5.
        pole_mass_range: Mass of the pole, kg. CartPole-v1 has 0.1.
        gravity_range: Gravitational acceleration, m/s². CartPole-v1 has 9.8.
        cart_mass_range: Mass of the cart, kg. CartPole-v1 has 1.
        force_range: Force of a push, N. CartPole-v1 has 10.
    """

    test_stream = "cartpole_params/test"
    horizon: int = 200
    half_length_range: tuple[float, float] = (0.25, 1.5)
    pole_mass_range: tuple[float, float] = (0.05, 0.5)
    gravity_range: tuple[float, float] = (5.0, 15.0)
    cart_mass_range: tuple[float, float] = (1.0, 1.0)
    force_range: tuple[float, float] = (10.0, 10.0)

    def __post_init__(self) -> None:
        positive(self, "horizon")
        positive_ranges(self, *_RANGES)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Position (m), velocity (m/s), angle (rad) and angular velocity (rad/s)."""
        high = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """0: push to the left, 1: push to the right."""
        return gymnasium.spaces.Discrete(2)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> CartPoleTasks:
        low, high = np.transpose([getattr(self, name) for name in _RANGES])
        return CartPoleTasks(*np.ascontiguousarray(rng.uniform(low, high, (num_tasks, len(_RANGES))).T))

    def make_envs(self, tasks: CartPoleTasks, episodes: int) -> CartPoleEnvs:
        return CartPoleEnvs(self, tasks, episodes)


class CartPoleEnvs(RowEnvs[CartPoleParams, CartPoleTasks]):
    """Carts with poles. The state is (position, velocity, angle, angular velocity), `[rows, 4]`.

    Attributes:
        dt: Seconds between two steps.
    """

    dt = TIME_STEP
    _renderer: Any = None  # Gymnasium's environment, made when the first picture is drawn

    def generator(self, seed: int) -> np.random.Generator:
        """Returns Gymnasium's generator for this seed."""
        return np_random(seed)[0]

    def start(self) -> NDArray[np.float64]:
        return self.np_random.uniform(-START_RANGE, START_RANGE, (self.batch.total, 4))[self.batch.number]

    def reset(self, *, seed: Seed = None, options: Options = None) -> Started:
        """Starts episodes as `RowEnvs.reset`; a list of seeds gives each row the start of Gymnasium's CartPole."""
        if not isinstance(seed, list):
            return super().reset(seed=seed, options=options)
        start = np.stack([np_random(own)[0].uniform(-START_RANGE, START_RANGE, 4) for own in seed])
        self._begin(reset_mask(options, self.num_envs), start)
        return self.observe(self.state), {}

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        state = euler_step(state, action, self.tasks)
        fell = (np.abs(state[:, 0]) > MAX_POSITION) | (np.abs(state[:, 2]) > MAX_ANGLE)
        return state, 1.0, fell

    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(state, np.float32)

    def draw(self, row: int) -> NDArray[np.uint8]:
        """Returns Gymnasium's picture `[height, width, 3]` of a row. Raises ValueError without pygame."""
        self._renderer = self._renderer or CartPoleEnv(render_mode="rgb_array")
        self._renderer.state, self._renderer.length = self.state[row], float(self.tasks.half_length[row])
        try:
            return np.asarray(self._renderer.render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise ValueError(f"task='cartpole_params': it cannot be drawn: {error}") from error

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the renderer."""
        if self._renderer:
            self._renderer.close()


def euler_step(state: NDArray[np.float64], action: NDArray[Any], tasks: CartPoleTasks) -> NDArray[np.float64]:
    """Returns the states `[rows, 4]` one time step later, in Gymnasium's order of operations: bitwise its results."""
    position, velocity, angle, angular_velocity = state.T
    half_length, pole_mass, gravity, cart_mass, force = tasks
    total_mass = pole_mass + cart_mass
    mass_length = pole_mass * half_length
    push = np.where(action == 1, force, -force)
    cos, sin = np.cos(angle), np.sin(angle)
    temp = (push + mass_length * np.square(angular_velocity) * sin) / total_mass
    inertia = half_length * (4.0 / 3.0 - pole_mass * np.square(cos) / total_mass)
    angular_acceleration = (gravity * sin - cos * temp) / inertia
    acceleration = temp - mass_length * angular_acceleration * cos / total_mass
    return np.stack(
        [
            position + TIME_STEP * velocity,
            velocity + TIME_STEP * acceleration,
            angle + TIME_STEP * angular_velocity,
            angular_velocity + TIME_STEP * angular_acceleration,
        ]
    ).T
