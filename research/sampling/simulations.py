"""Simulations side by side: an `MjData` for each row, stepped by every core.

Rows know nothing of each other and keep their solver's warm start: what a row does is bit-identical to a Gymnasium
environment in the same state. `mj_step` releases the GIL, and threads draw rows from one iterator, so neither processes
nor pickling are needed and the result does not depend on the threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from research.parallel import available_cores, start_sharing
from research.sampling.native import StepRows, load

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
        self._native = self._make_native()
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
        control = np.ascontiguousarray(control, np.float64)
        core = np.empty((len(rows), self._core[0].size))
        if self._native:
            work = self._native.begin(np.array(rows, np.int64), control, core)
        else:
            work = functools.partial(self._step_from_python, rows, control, core)
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

    def _step_from_python(
        self, rows: Sequence[int], control: NDArray[np.float64], core: NDArray[np.float64], items: Iterator[int]
    ) -> None:
        for i in items:
            row = rows[i]
            self._control[row][:] = control[i]
            mujoco.mj_step(self._models[row], self._data[row], self._frame_skip)
            if self._contact_forces:
                mujoco.mj_rnePostConstraint(self._models[row], self._data[row])
            core[i] = self._core[row]  # now, while the processor's cache holds it

    def _make_native(self) -> StepRows | None:
        function = load()
        if function is None:
            return None
        first, core = self._data[0].qpos, self._core[0]
        start = (core.ctypes.data - first.ctypes.data) // first.itemsize
        return StepRows(function, self._models, self._data, self._frame_skip, self._contact_forces, start, core.size)

    def data(self, row: int) -> mujoco.MjData:
        """The simulation of a row, as it stands."""
        self._wait()
        return self._data[row]

    def close(self) -> None:
        """Hands the simulations back to the robot."""
        self._wait()
        self._robot.give_back(self._data)
        self._data, self._control, self._core, self._views, self._native = [], [], [], {}, None

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
    arrays = tuple(array for array in arrays if array.size)  # an empty one lies anywhere
    first = min(arrays, key=lambda array: array.ctypes.data)
    end = max(array.ctypes.data + array.nbytes for array in arrays)
    return np.lib.stride_tricks.as_strided(first, shape=((end - first.ctypes.data) // first.itemsize,))


def _place(data: mujoco.MjData, name: str) -> slice:
    """Where an array lies in the span of positions, velocities and controls."""
    array = getattr(data, name)
    if not array.size:
        return slice(0, 0)
    start = _span(data.qpos, data.qvel, data.ctrl).ctypes.data
    offset = (array.ctypes.data - start) // array.itemsize
    return slice(offset, offset + array.size)


def _gather(views: list[NDArray[Any]], rows: Sequence[int]) -> NDArray[Any]:
    """The arrays of `rows` as one, `[rows, ...]`."""
    nothing = views[0][:0]  # so that there is something to concatenate when no row moves
    return np.concatenate([nothing, *[views[row] for row in rows]]).reshape(len(rows), *views[0].shape)
