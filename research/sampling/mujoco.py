"""Batched MuJoCo: many simulations side by side, stepped by every core, read and rewarded in NumPy.

Each row is an `MjData` of its own, so rows know nothing of each other and keep their solver's warm start: what a row
does is bit-identical to a Gymnasium environment in the same state. `mj_step` releases the GIL, and threads draw rows
from one iterator, so neither processes nor pickling are needed and the result does not depend on the threads.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from research.parallel import available_cores, start_sharing
from research.validation import at_least, positive

State = dict[str, NDArray[np.float64]]
"""Arrays of `MjData` by their names there, each with a leading `[rows]` axis: `state["qpos"] [rows, nq]`."""

_ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"

# MuJoCo counts a warning when a position, velocity, acceleration or control is not finite or huge. It prints it, and
# writes MUJOCO_LOG.TXT, only if the count was 0; so the count starts at another value.
_BLOWN_UP = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_SILENT = 1000


class Robot:
    """A MuJoCo model, and simulations of it that wait to be used again.

    Making an `MjData` costs as much as ten steps of it, so environments that are closed hand theirs back.

    Attributes:
        model: The model as it was loaded. Shared: edit a `copy.copy` of it.
    """

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self._spare: list[mujoco.MjData] = []

    def borrow(self, count: int) -> list[mujoco.MjData]:
        """`count` simulations in whatever state they were left in. They serve every edited copy of the model."""
        taken = [self._spare.pop() for _ in range(min(count, len(self._spare)))]
        return taken + [mujoco.MjData(self.model) for _ in range(count - len(taken))]

    def give_back(self, data: list[mujoco.MjData]) -> None:
        """Takes simulations that nobody uses any more."""
        self._spare.extend(data)


@functools.cache
def load_robot(name: str) -> Robot:
    """The model that Gymnasium ships as `name`, e.g. `"half_cheetah.xml"`."""
    return Robot(mujoco.MjModel.from_xml_path(str(_ASSETS / name)))


class Simulations:
    """Simulations side by side.

    Args:
        robot: What is simulated.
        models: The model of each row: the robot's own, or edited copies of it.
        frame_skip: Physics steps of one `step`.
        fields: The arrays of `MjData` to read after each step.
        contact_forces: Whether to compute `cfrc_ext` and its kin, as Gymnasium's environments do after each step.
    """

    def __init__(
        self,
        robot: Robot,
        models: Sequence[mujoco.MjModel],
        frame_skip: int,
        fields: Sequence[str],
        contact_forces: bool = False,
    ):
        self.num_threads = 0
        self._running: list[Callable[[], None]] = []
        self._robot = robot
        self._models = models
        self._frame_skip = frame_skip
        self._contact_forces = contact_forces
        self._data = robot.borrow(len(models))
        # Views made once: an attribute of MjData costs far more than the copy that reads it.
        self._control = [data.ctrl for data in self._data]
        self._core = [_span(data.qpos, data.qvel, data.ctrl) for data in self._data]
        self._places = {name: _place(self._data[0], name) for name in ("qpos", "qvel", "ctrl")}
        extra = [name for name in fields if name not in self._places]
        self._views = {name: [getattr(data, name) for data in self._data] for name in extra}

    def reset(self, rows: Sequence[int], qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> State:
        """Puts `rows` at the given positions and velocities, at rest in everything else. Returns their state."""
        self._wait()

        def work(items: Iterator[int]) -> None:
            for i in items:
                row = rows[i]
                model, data = self._models[row], self._data[row]
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
                mujoco.mj_forward(model, data)
                data.warning.number[_BLOWN_UP] = _SILENT
                core[i] = self._core[row]

        core = np.empty((len(rows), self._core[0].size))
        start_sharing(work, range(len(rows)), self._threads())()
        return self._state(rows, core)

    def step(self, rows: Sequence[int], control: NDArray[Any]) -> Callable[[], tuple[State, NDArray[np.bool_]]]:
        """Sets `rows` in motion under `control [rows, nu]`.

        Returns what to call to wait for them: it gives their state, and whether each has blown up. Those that have
        must be reset before they are stepped again.
        """
        models, data, controls, cores = self._models, self._data, self._control, self._core
        control = np.asarray(control, np.float64)
        core = np.empty((len(rows), cores[0].size))

        def work(items: Iterator[int]) -> None:
            for i in items:
                row = rows[i]
                controls[row][:] = control[i]
                mujoco.mj_step(models[row], data[row], self._frame_skip)
                if self._contact_forces:
                    mujoco.mj_rnePostConstraint(models[row], data[row])
                core[i] = cores[row]  # now, while the processor's cache holds it

        finish = start_sharing(work, range(len(rows)), self._threads())
        self._running.append(finish)

        def result() -> tuple[State, NDArray[np.bool_]]:
            try:
                finish()
            except Exception:  # of the work, which is over; after an interruption it is not
                self._running.remove(finish)
                raise
            self._running.remove(finish)
            return self._state(rows, core), self._blown_up(rows, core, control)

        return result

    def close(self) -> None:
        """Hands the simulations back to the robot."""
        self._wait()
        self._robot.give_back(self._data)
        self._data, self._control, self._core, self._views = [], [], [], {}

    def _wait(self) -> None:
        """Waits for rows that an error has left in motion."""
        for finish in self._running:
            finish()
        self._running = []

    def _threads(self) -> int:
        return self.num_threads or available_cores()

    def _state(self, rows: Sequence[int], core: NDArray[np.float64]) -> State:
        state = {name: core[:, place] for name, place in self._places.items()}
        return state | {name: _gather(views, rows) for name, views in self._views.items()}

    def _blown_up(
        self, rows: Sequence[int], core: NDArray[np.float64], control: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which of `rows` MuJoCo found to be not finite or huge in this step, `[rows]`.

        It resets such a row by itself, and the controls with it; or, if it is the controls that are bad, ignores them.
        So only rows whose controls are not what was set, or that cannot be told, need a look at the warnings, which
        lie far from everything else in memory.
        """
        suspect = (core[:, self._places["ctrl"]] != control).any(1) | ~control.any(1) | (np.abs(control) > 1e10).any(1)
        for i in np.flatnonzero(suspect).tolist():
            suspect[i] = (self._data[rows[i]].warning.number[_BLOWN_UP] != _SILENT).any()
        return suspect


def _span(*arrays: NDArray[np.float64]) -> NDArray[np.float64]:
    """One view from the first number of these arrays to the last. They belong to the one buffer of an MjData."""
    first = min(arrays, key=lambda array: array.ctypes.data)
    end = max(array.ctypes.data + array.nbytes for array in arrays)
    return np.lib.stride_tricks.as_strided(first, shape=((end - first.ctypes.data) // first.itemsize,))


def _place(data: mujoco.MjData, name: str) -> slice:
    """Where an array lies in the span of positions, velocities and controls."""
    array = getattr(data, name)
    start = min(data.qpos.ctypes.data, data.qvel.ctypes.data, data.ctrl.ctypes.data)
    offset = (array.ctypes.data - start) // array.itemsize
    return slice(offset, offset + array.size)


def _gather(views: list[NDArray[Any]], rows: Sequence[int]) -> NDArray[Any]:
    """The arrays of `rows` as one, `[rows, ...]`."""
    nothing = views[0][:0]  # so that there is something to concatenate when no row moves
    return np.concatenate([nothing, *[views[row] for row in rows]]).reshape(len(rows), *views[0].shape)


class Step(NamedTuple):
    """What a step shows, `[rows, ...]` each, as Gymnasium's `step` returns it."""

    observation: NDArray[np.float64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    info: dict[str, Any]


class MujocoEnvs(gymnasium.vector.VectorEnv[NDArray[np.float64], NDArray[Any], NDArray[Any]], ABC):
    """A Gymnasium vector environment over batched simulations; a task family adds start, observation, reward and end.

    Autoreset is off: a row that is done stands still at no cost, with reward 0, until `reset`, which takes
    `options={"reset_mask": rows}`. Row i of `reset(seed=s)` starts as a Gymnasium environment does after
    `reset(seed=s + i)`. A row whose simulation blows up, or whose observation or reward is not finite, terminates with
    reward 0 and its last finite observation; `info["diverged"] [rows]` says which did in this step.

    Args:
        robot: What is simulated.
        models: The model of each row, or a single one for all.
        num_envs: Rows.
        horizon: Steps after which an episode is truncated.
        observation_size: Size of an observation.
        frame_skip: Physics steps of an environment step.
        fields: Arrays of `MjData` that observations, rewards and ends read; see `State`.
        contact_forces: See `Simulations`.
        clip_actions: Whether rewards see actions clipped to the actuators' range. The physics always clips.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium declares it so

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
        self.num_envs = num_envs
        self.single_observation_space = observation_space(observation_size)
        self.single_action_space = self._actions = action_space(robot.model)
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
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

    @abstractmethod
    def start(self, row: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`qpos [nq]` and `qvel [nv]` at the start of an episode of `row`, drawn with `rng` alone."""

    @abstractmethod
    def observe(self, rows: NDArray[np.intp], state: State) -> NDArray[np.float64]:
        """Observations `[rows, obs]` of these rows, a new array. `state` is theirs."""

    @abstractmethod
    def reward(self, rows: NDArray[np.intp], before: State, after: State, action: NDArray[Any]) -> NDArray[np.float64]:
        """Rewards `[rows]` of these rows for the step that led from `before` to `after`."""

    def has_ended(self, rows: NDArray[np.intp], state: State) -> NDArray[np.bool_]:
        """Whether the task ends here, `[rows]`. Never, unless a family says otherwise."""
        return np.zeros(len(rows), bool)

    @property
    def num_threads(self) -> int:
        """Threads that step the rows; 0 for one per core. The numbers do not depend on it."""
        return self._simulations.num_threads

    @num_threads.setter
    def num_threads(self, value: int) -> None:
        at_least(dict(num_threads=value), 0, "num_threads")
        self._simulations.num_threads = value

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Starts a new episode in every row, or in those of `options["reset_mask"]`."""
        super().reset(seed=seed if isinstance(seed, int) else None, options=options)
        rows = np.flatnonzero(self._reset_mask(options))
        self._seed(rows, seed)
        starts = [self.start(row, self._generators[row]) for row in rows]  # type: ignore[arg-type]
        qpos, qvel = (np.array(part) for part in zip(*starts, strict=True))
        state = self._simulations.reset(rows.tolist(), qpos, qvel)
        self._store(rows, state)
        self._observation[rows] = self.observe(rows, state)
        self._steps[rows], self._done[rows] = 0, False
        return self._observation.copy(), {}

    def step(self, actions: NDArray[Any]) -> Step:
        """Moves every row that is not done."""
        return self.begin(actions, slice(0, self.num_envs))()

    def begin(self, actions: NDArray[Any], rows: slice) -> Callable[[], Step]:
        """Sets the rows of a slice in motion and returns at once; calling the result waits and gives their step.

        So a policy can decide for some rows while others move. Every slice must be waited for before it is begun again.
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
    ) -> Step:
        rows = chosen[moving]
        after, diverged = wait()
        before = {name: values[rows] for name, values in self._state.items()}
        observation, reward = self.observe(rows, after), self.reward(rows, before, after, action)
        ended = self.has_ended(rows, after)
        diverged |= ~(np.isfinite(reward) & np.isfinite(observation).all(1))
        if diverged.any():
            observation = np.where(diverged[:, None], self._observation[rows], observation)
            reward = np.where(diverged, 0.0, reward)
        self._store(rows, after)
        self._observation[rows] = observation
        self._steps[rows] += 1
        terminated = diverged | ended
        truncated = (self._steps[rows] >= self.horizon) & ~terminated
        self._done[rows] = terminated | truncated
        own = self._observation[chosen]
        parts = (_spread(values, moving, len(chosen)) for values in (reward, terminated, truncated, diverged))
        reward, terminated, truncated, diverged = parts
        return Step(own, reward, terminated, truncated, {"diverged": diverged})

    def close_extras(self, **kwargs: Any) -> None:
        """Hands the simulations back; the environments cannot be used any more."""
        self._simulations.close()
        self._state = {}

    def _store(self, rows: NDArray[np.intp], state: State) -> None:
        for name, values in state.items():
            self._state.setdefault(name, np.zeros((self.num_envs, *values.shape[1:])))[rows] = values

    def _seed(self, rows: NDArray[np.intp], seed: int | list[int | None] | None) -> None:
        """A generator of its own for each of `rows` that is given a seed, or that has none yet."""
        if isinstance(seed, Sequence) and len(seed) != self.num_envs:
            raise ValueError(f"seed: got {len(seed)} seeds, need one for each of the {self.num_envs} rows")
        for row in rows:
            own = seed[row] if isinstance(seed, Sequence) else None if seed is None else seed + int(row)
            if own is not None and own < 0:
                raise ValueError(f"seed={own}: need an integer of at least 0")
            if own is not None or self._generators[row] is None:
                self._generators[row] = np.random.Generator(np.random.PCG64(own))  # as Gymnasium makes them

    def _reset_mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if getattr(mask, "shape", None) != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"options['reset_mask']={mask!r}: need {self.num_envs} booleans, one of them true")
        return mask


def _spread(values: NDArray[Any], where: NDArray[np.intp] | slice, count: int) -> NDArray[Any]:
    """`count` zeros, with `values` at these places."""
    spread = np.zeros(count, values.dtype)
    spread[where] = values
    return spread


def observation_space(size: int) -> gymnasium.spaces.Box:
    """Any float64 vector of this size, as Gymnasium's own environments have it."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)


def action_space(model: mujoco.MjModel) -> gymnasium.spaces.Box:
    """The range of the model's actuators."""
    low, high = model.actuator_ctrlrange.astype(np.float32).T
    return gymnasium.spaces.Box(low, high, dtype=np.float32)
