"""CartPole with another cart, pole and gravity in every task: the agent must find out what it balances.

Dynamics, start, reward and end are those of Gymnasium's CartPole-v1 (Barto, Sutton & Anderson 1983), with Euler steps
of `TIME_STEP` seconds: 1 for every step, done when the pole leans more than 12° or the cart is farther than 2.4 from
the middle. With the total mass M = m_cart + m_pole and the pole's half-length l:

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
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from research import rng as random
from research.tasks.base import Split
from research.validation import ordered, positive

TIME_STEP = 0.02
"""Seconds between observations."""

MAX_ANGLE = 12 * 2 * math.pi / 360
"""Radians from the vertical at which an episode ends."""

MAX_POSITION = 2.4
"""Distance from the middle at which an episode ends."""

START_RANGE = 0.05
"""Position, velocity, angle and angular velocity start uniformly within this of 0."""

_TEST_SEED = 0
_RANGES = ("half_length_range", "pole_mass_range", "gravity_range", "cart_mass_range", "force_range")


class CartPoleTasks(NamedTuple):
    """Tasks of CartPole, every field `[tasks]`.

    Attributes:
        half_length: Half the pole's length, m.
        pole_mass: kg.
        gravity: m/s².
        cart_mass: kg.
        force: Of a push to the left or right, N.
    """

    half_length: NDArray[np.float64]
    pole_mass: NDArray[np.float64]
    gravity: NDArray[np.float64]
    cart_mass: NDArray[np.float64]
    force: NDArray[np.float64]


@dataclass(frozen=True)
class CartPoleParams:
    """The task distribution. Each quantity is uniform in its range; a range with equal ends fixes it.

    Attributes:
        horizon: Steps of an episode.
        half_length_range: Half the pole's length, m. CartPole-v1 has 0.5.
        pole_mass_range: kg. CartPole-v1 has 0.1.
        gravity_range: m/s². CartPole-v1 has 9.8.
        cart_mass_range: kg. CartPole-v1 has 1.
        force_range: N. CartPole-v1 has 10.
    """

    horizon: int = 200
    half_length_range: tuple[float, float] = (0.25, 1.5)
    pole_mass_range: tuple[float, float] = (0.05, 0.5)
    gravity_range: tuple[float, float] = (5.0, 15.0)
    cart_mass_range: tuple[float, float] = (1.0, 1.0)
    force_range: tuple[float, float] = (10.0, 10.0)

    def __post_init__(self) -> None:
        positive(self, "horizon")
        ordered(self, *_RANGES)
        for name in _RANGES:
            low, high = getattr(self, name)
            if low <= 0:
                raise ValueError(f"{name}=({low!r}, {high!r}): need values above 0")
        if all(low == high for low, high in self._ranges()):
            raise ValueError(f"half_length_range={self.half_length_range!r}: every task is the same, so none can be "
                             f"held out; need one of {', '.join(_RANGES)} to be wider than a point")  # fmt: skip

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Position, velocity, angle and angular velocity."""
        high = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """0: push to the left, 1: push to the right."""
        return gymnasium.spaces.Discrete(2)

    @property
    def split(self) -> Split:
        return Split(True, "carts and poles of one fixed sequence that training never draws from")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> CartPoleTasks:
        """Carts and poles for training."""
        low, high = np.transpose(self._ranges())
        return CartPoleTasks(*np.ascontiguousarray(rng.uniform(low, high, (num_tasks, len(_RANGES))).T))

    def test_tasks(self, num_tasks: int) -> CartPoleTasks:
        """The first `num_tasks` of a fixed sequence of its own."""
        return self.sample(num_tasks, random.generator(_TEST_SEED, "cartpole_params/test"))

    def make_envs(self, tasks: CartPoleTasks, episodes: int) -> CartPoleEnvs:
        """See `TaskDistribution.make_envs`."""
        return CartPoleEnvs(self, tasks, episodes)

    def _ranges(self) -> list[tuple[float, float]]:
        return [getattr(self, name) for name in _RANGES]


class CartPoleEnvs(gymnasium.vector.VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """Carts with poles, all rows in one NumPy operation.

    A row that is done stands still with reward 0 until it is reset (autoreset is off, `reset(options={"reset_mask":
    rows})` resets some rows). Starts are a function of the seed.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(self, distribution: CartPoleParams, tasks: CartPoleTasks, episodes: int):
        positive(dict(episodes=episodes), "episodes")
        self.distribution = distribution
        self.num_envs = len(tasks.half_length) * episodes
        self.single_observation_space = distribution.observation_space
        self.single_action_space = distribution.action_space
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, self.num_envs)
        self.action_space = batch(self.single_action_space, self.num_envs)
        self._tasks = CartPoleTasks(*(np.repeat(np.asarray(field, np.float64), episodes) for field in tasks))
        self._state = np.zeros((4, self.num_envs))
        self._steps = np.zeros(self.num_envs, np.int64)
        self._done = np.zeros(self.num_envs, bool)
        self._drawn: gymnasium.Env[Any, Any] | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Puts every row, or those of `options["reset_mask"]`, near the upright balance.

        A list of seeds gives each row the start that Gymnasium's CartPole has with that seed.
        """
        super().reset(seed=seed if isinstance(seed, int) else None, options=options)
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if isinstance(seed, list):
            generators = [np_random(row_seed)[0] for row_seed in seed]
            start = np.stack([own.uniform(-START_RANGE, START_RANGE, 4) for own in generators])
        else:
            drawn, total = random.rows_of(options, self.num_envs)
            start = self.np_random.uniform(-START_RANGE, START_RANGE, (total, 4))[drawn]
        self._state[:, rows], self._steps[rows], self._done[rows] = start.T[:, rows], 0, False
        return self._observation(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Pushes every cart that is not done: to the right for action 1, to the left for 0."""
        active = ~self._done
        self._state = np.where(active, moved(self._state, np.asarray(actions), self._tasks), self._state)
        self._steps += active
        position, _, angle, _ = self._state
        terminated = ((np.abs(position) > MAX_POSITION) | (np.abs(angle) > MAX_ANGLE)) & active
        truncated = (self._steps >= self.distribution.horizon) & active & ~terminated
        self._done |= terminated | truncated
        return self._observation(), active.astype(np.float64), terminated, truncated, {}

    @property
    def dt(self) -> float:
        """Seconds between two steps."""
        return TIME_STEP

    def draw(self, row: int) -> NDArray[np.uint8]:
        """A picture `[height, width, 3]` of a row as it stands, by Gymnasium. Raises ValueError without pygame."""
        drawn: Any = self._drawn or CartPoleEnv(render_mode="rgb_array")
        drawn.state, drawn.length, self._drawn = self._state[:, row], float(self._tasks.half_length[row]), drawn
        try:
            return np.asarray(drawn.render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise ValueError(f"task='cartpole_params': it cannot be drawn: {error}") from error

    def close_extras(self, **kwargs: Any) -> None:
        """Frees what pictures took."""
        if self._drawn:
            self._drawn.close()

    def _observation(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._state.T, np.float32)


def moved(state: NDArray[np.float64], actions: NDArray[Any], tasks: CartPoleTasks) -> NDArray[np.float64]:
    """The states `[4, rows]` one time step later. The operations are in Gymnasium's order: bitwise its results."""
    position, velocity, angle, angular_velocity = state
    half_length, pole_mass, gravity, cart_mass, force = tasks
    total_mass = pole_mass + cart_mass
    mass_length = pole_mass * half_length
    push = np.where(actions == 1, force, -force)
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
    )
