"""Batched MuJoCo as a Gymnasium vector environment: many simulations, whose states NumPy reads and rewards."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from research import rng
from research.sampling.acting import Acted, Acting, Columns, Network, until_the_end
from research.sampling.offscreen import Camera
from research.sampling.simulations import Robot, Simulations, State, load_robot
from research.sampling.vector import Options, Seed, Started, Stepped, TaskEnvs, reset_mask
from research.validation import at_least, positive

__all__ = ["Columns", "MujocoEnvs", "Robot", "State", "action_space", "load_robot", "observation_space"]

_STEPS_UNTIL_THE_HORIZON, _STEPS_BEFORE_AN_END = 25, 4


class MujocoEnvs(TaskEnvs):
    """Vector environments over batched simulations. A task family adds starts, observations, rewards and terminations.

    A row that is done costs no simulation. Row i of `reset(seed=s)` starts as a Gymnasium environment does after
    `reset(seed=s + i)`; if the rows are part of a larger batch (`options["rows"]`), i is the number in that batch. A
    row whose simulation diverges, or whose observation or reward is not finite, terminates with reward 0 and its last
    finite observation; `info["diverged"] [rows]` marks it in that step.

    Args:
        robot: The robot that is simulated.
        models: The model of each row, or a single one for all.
        num_envs: Number of rows.
        horizon: Number of steps after which an episode is truncated.
        observation_size: Length of an observation.
        frame_skip: Number of physics steps of an environment step.
        fields: Names of the `MjData` arrays that observations, rewards and terminations read; see `State`.
        contact_forces: Whether contact forces are computed, see `Simulations`.
        clip_actions: Whether rewards see actions clipped to the range of the actuators. The physics always clips.

    Attributes:
        dt: Seconds between two steps.

    Raises:
        ValueError: A number is not above 0, or `models` has neither one entry nor one per row.
    """

    def __init__(
        self,
        robot: Robot,
        models: Sequence[mujoco.MjModel],
        num_envs: int,
        *,
        horizon: int,
        observation_size: int,
        frame_skip: int,
        fields: Sequence[str] = ("qpos", "qvel"),
        contact_forces: bool = False,
        clip_actions: bool = False,
    ):
        positive(dict(num_envs=num_envs, horizon=horizon, frame_skip=frame_skip), "num_envs", "horizon", "frame_skip")
        if len(models) not in (1, num_envs):
            raise ValueError(f"models: got {len(models)}, need 1 or one for each of the {num_envs} rows")
        self._actions = action_space(robot.model)
        super().__init__(num_envs, observation_space(observation_size), self._actions)
        self.robot = robot
        self.models = list(models) * (num_envs if len(models) == 1 else 1)
        self.horizon = horizon
        self.dt = robot.model.opt.timestep * frame_skip
        self._clip_actions = clip_actions
        self._simulations = Simulations(robot, self.models, frame_skip, fields, contact_forces)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._state: State = {}
        self._observation = np.zeros((num_envs, observation_size))
        self._steps = np.zeros(num_envs, np.int64)
        self._done = np.ones(num_envs, bool)
        self._camera: Camera | None = None

    @abstractmethod
    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draws `qpos [nq]` and `qvel [nv]` at the start of an episode of `row`. All randomness comes from `rng`."""

    @property
    def observed(self) -> Sequence[Columns]:
        """The parts of the state that make an observation, in order. A family has these or its own `observe`."""
        return ()

    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        """Returns the observations `[rows, obs]` of the rows with these numbers and states, as a new array."""
        parts = []
        for field, start, stop, limit in self.observed:
            values = state[field]
            part = values.reshape(len(values), math.prod(values.shape[1:]))[:, start:stop]
            parts.append(part if math.isinf(limit) else np.clip(part, -limit, limit))
        return np.concatenate(parts, axis=1)

    @abstractmethod
    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the rewards `[rows]` of these rows for the step from the state `before` to the state `after`."""

    def has_ended(self, rows: NDArray[np.intp], state: State) -> NDArray[np.bool_]:
        """Returns whether the episodes of these rows terminate, `[rows]`. False, unless a family overrides it."""
        return np.zeros(len(rows), bool)

    @property
    def num_threads(self) -> int:
        """Number of threads that step the rows; 0 for one per core. Results do not depend on it."""
        return self._simulations.num_threads

    @num_threads.setter
    def num_threads(self, value: int) -> None:
        at_least(dict(num_threads=value), 0, "num_threads")
        self._simulations.num_threads = value

    def reset(self, *, seed: Seed = None, options: Options = None) -> Started:
        """Starts an episode in every row, or in those of `options["reset_mask"]`.

        Raises:
            ValueError: The mask is not a mask of some rows, or a seed is negative, or there is not one for each row.
        """
        super().reset(seed=seed if isinstance(seed, int) else None, options=options)
        rows = np.flatnonzero(reset_mask(options, self.num_envs))
        self._seed(rows, seed, rng.rows_of(options, self.num_envs).number)
        starts = [self.start(row, self._generators[row]) for row in rows]  # type: ignore[arg-type]
        qpos, qvel = (np.array(part) for part in zip(*starts, strict=True))
        state = self._simulations.reset(rows.tolist(), qpos, qvel)
        self._store(rows, state)
        self._observation[rows] = self.observe(rows, state)
        self._steps[rows], self._done[rows] = 0, False
        return self._observation.copy(), {}

    def step(self, actions: NDArray[Any]) -> Stepped:
        """Moves every row that is not done."""
        return self.begin(actions, slice(0, self.num_envs))()

    def begin(self, actions: NDArray[Any], rows: slice) -> Callable[[], Stepped]:
        """Begins a step of a slice of rows and returns at once; calling the result waits for it and returns the step.

        A policy can thus choose actions for some rows while others move. Wait for a slice before it begins again.

        Raises:
            ValueError: The actions have another shape than `[rows, ...]` of the slice.
            gymnasium.error.ResetNeeded: The environments were never reset, or are closed.
        """
        if not self._state:
            raise gymnasium.error.ResetNeeded("step: call reset first")
        chosen = np.arange(self.num_envs)[rows]
        needed = (len(chosen), *self._actions.shape)
        if np.shape(actions) != needed:
            raise ValueError(f"actions: got shape {np.shape(actions)}, need {needed}")
        moving: NDArray[np.intp] | slice = slice(None)  # cheaper than a list of all
        if self._done[rows].any():
            moving = np.flatnonzero(~self._done[rows])
        acting = np.asarray(actions)[moving]
        if self._clip_actions:
            acting = np.clip(acting, self._actions.low, self._actions.high)
        wait = self._simulations.step(chosen[moving].tolist(), acting)
        return functools.partial(self._finish, chosen, moving, acting, wait)

    def _finish(
        self,
        chosen: NDArray[np.intp],
        moving: NDArray[np.intp] | slice,
        action: NDArray[Any],
        wait: Callable[[], tuple[State, NDArray[np.bool_]]],
    ) -> Stepped:
        rows = chosen[moving]
        # A slice is read and written in place; a list of rows would be copied at every turn.
        place = slice(rows[0], rows[-1] + 1) if isinstance(moving, slice) else rows
        after, diverged = wait()
        before = {name: values[place] for name, values in self._state.items()}
        observation, reward = self.observe(rows, after), self.reward(rows, before, after, action)
        ended = self.has_ended(rows, after)
        if not (np.isfinite(reward).all() and np.isfinite(observation).all()):
            diverged |= ~(np.isfinite(reward) & np.isfinite(observation).all(1))
        if diverged.any():
            observation = np.where(diverged[:, None], self._observation[place], observation)
            reward = np.where(diverged, 0.0, reward)
        self._store(place, after)
        self._observation[place] = observation
        self._steps[place] += 1
        terminated = diverged | ended
        truncated = (self._steps[place] >= self.horizon) & ~terminated
        self._done[place] = terminated | truncated
        if isinstance(moving, slice):
            return observation, reward, terminated, truncated, {"diverged": diverged}
        own = self._observation[chosen]
        parts = (_spread(values, moving, len(chosen)) for values in (reward, terminated, truncated, diverged))
        reward, terminated, truncated, diverged = parts
        return own, reward, terminated, truncated, {"diverged": diverged}

    @property
    def can_terminate(self) -> bool:
        """Whether episodes may end before the horizon."""
        return type(self).has_ended is not MujocoEnvs.has_ended

    @property
    def steps_at_once(self) -> int:
        """Number of steps of a call of `act`: fewer where rows may end, as they are simulated up to the last step."""
        return _STEPS_BEFORE_AN_END if self.can_terminate else _STEPS_UNTIL_THE_HORIZON

    def acting(self, network: Network, rows: slice, horizon: int) -> Acting | None:
        """Returns what `act` needs and records, or None if the actions can only be chosen step by step.

        The reasons are observations that are no copies of numbers of the state, a family's own `reset` or `begin`, a
        network with other sizes than the spaces, or that there is no compiler.
        """
        count, sizes = len(range(self.num_envs)[rows]), network.sizes
        if any(getattr(type(self), name) is not getattr(MujocoEnvs, name) for name in ("observe", "reset", "begin")):
            return None
        if (sizes[0], sizes[-1]) != (self._observation.shape[1], self.robot.model.nu):
            return None  # as C would read and write beyond the arrays; a step from Python says what is wrong
        if not self._simulations.can_act(network.dtype.name):
            return None
        arrays = (np.zeros((count, horizon, size), network.dtype) for size in (sizes[0], sizes[-1], sizes[-1]))
        return Acting(network, network.packed(), self.observed, *arrays)

    def act(self, acting: Acting, first: int, noise: NDArray[Any], rows: slice) -> Callable[[], Acted]:
        """Begins several steps of a slice of rows under the actions of a network, and returns at once.

        Rewards, ends and observations are those of as many calls of `begin`. A row whose episode ends earlier is
        simulated up to the last of these steps.

        Args:
            acting: See the method `acting`, for the same rows.
            first: Number of steps that `acting` has recorded.
            noise: `[steps, rows, actions]`.
            rows: The slice.
        """
        chosen = np.arange(self.num_envs)[rows]
        # The present state stays where a row does not move: rewards and ends are computed of all entries.
        history = {name: np.repeat(values[None, rows], len(noise) + 1, 0) for name, values in self._state.items()}
        moving = chosen[~self._done[rows]]
        wait = self._simulations.act(moving, int(chosen[0]), acting, first, noise, history)
        action = acting.action[:, first : first + len(noise)]
        return functools.partial(self._finish_acting, rows, history, action, wait)

    def _finish_acting(
        self, rows: slice, history: State, action: NDArray[Any], wait: Callable[[], NDArray[np.bool_]]
    ) -> Acted:
        diverged, active = wait(), ~self._done[rows]
        steps, count = diverged.shape
        numbers = np.tile(np.arange(self.num_envs)[rows], steps)
        before, after = ({name: _flat(values[part]) for name, values in history.items()} for part in (_OLD, _NEW))
        acting = _flat(action.swapaxes(0, 1))
        if self._clip_actions:
            acting = np.clip(acting, self._actions.low, self._actions.high)
        observation, reward = self.observe(numbers, after), self.reward(numbers, before, after, acting)
        ended = self.has_ended(numbers, after).reshape(steps, count)
        diverged |= ~(np.isfinite(reward) & np.isfinite(observation).all(1)).reshape(steps, count)
        clock = self._steps[rows] + np.arange(1, steps + 1)[:, None]
        stepped, done = until_the_end(active, diverged | ended | (clock >= self.horizon))
        valid, moved = stepped & ~diverged, stepped.sum(0)
        some, last = np.arange(count), valid.sum(0) - 1
        latest = np.where(
            (last >= 0)[:, None], observation.reshape(steps, count, -1)[last, some], self._observation[rows]
        )
        for name, values in history.items():
            self._state[name][rows] = values[moved, some]
        self._observation[rows] = latest
        self._steps[rows] += moved
        self._done[rows] = done
        reward = np.where(valid, reward.reshape(steps, count), 0.0)
        return Acted(reward, valid & ended, stepped, valid, latest, ~done)

    def markers(self, row: int) -> Sequence[Sequence[float]]:
        """Returns points `[x, y, z]` that a picture of the row marks. None, unless a family overrides it."""
        return ()

    def draw(self, row: int) -> NDArray[np.uint8]:
        """Returns a picture `[height, width, 3]` of a row. Raises ValueError if no OpenGL works."""
        self._camera = self._camera or Camera(self.robot.model)
        return self._camera.draw(self.models[row], self._simulations.data(row), self.markers(row))

    def close_extras(self, **kwargs: Any) -> None:
        """Releases the simulations; the environments cannot be used afterwards."""
        if self._camera:
            self._camera.close()
        self._simulations.wait()
        self._state = {}

    def _store(self, rows: NDArray[np.intp] | slice, state: State) -> None:
        for name, values in state.items():
            if name not in self._state:
                self._state[name] = np.zeros((self.num_envs, *values.shape[1:]))
            self._state[name][rows] = values

    def _seed(self, rows: NDArray[np.intp], seed: Seed, numbers: NDArray[np.intp]) -> None:
        """Makes a generator for each of `rows` that gets a seed, or that has no generator yet."""
        if isinstance(seed, Sequence) and len(seed) != self.num_envs:
            raise ValueError(f"seed: got {len(seed)} seeds, need one for each of the {self.num_envs} rows")
        for row in rows:
            own = seed[row] if isinstance(seed, Sequence) else None if seed is None else seed + int(numbers[row])
            if own is not None and own < 0:
                raise ValueError(f"seed={own}: need an integer of at least 0")
            if own is not None or self._generators[row] is None:
                self._generators[row] = np.random.Generator(np.random.PCG64(own))  # as Gymnasium makes them


_OLD, _NEW = slice(None, -1), slice(1, None)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """`[steps, rows, ...]` as `[steps × rows, ...]`."""
    return values.reshape(-1, *values.shape[2:])


def _spread(values: NDArray[Any], where: NDArray[np.intp] | slice, count: int) -> NDArray[Any]:
    """An array of `count` zeros with `values` at the indices `where`."""
    spread = np.zeros(count, values.dtype)
    spread[where] = values
    return spread


def observation_space(size: int) -> gymnasium.spaces.Box:
    """Returns the space of all float64 vectors of length `size`, as Gymnasium's MuJoCo environments have it."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)


def action_space(model: mujoco.MjModel) -> gymnasium.spaces.Box:
    """Returns the space of the controls within the range of the model's actuators, float32 `[nu]`."""
    low, high = model.actuator_ctrlrange.astype(np.float32).T
    return gymnasium.spaces.Box(low, high, dtype=np.float32)
