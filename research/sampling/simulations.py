"""Many simulations, stepped by all cores.

A row is MuJoCo's integration state: time, positions, velocities, activations and the solver's warm start. Each thread
has one `MjData`; it writes a row into it, steps it and reads the row back. So the 47 KB that a step of a half-cheetah
uses stay in the cache, and the 0.45 MB of an `MjData` are needed per thread instead of per row. Rows are independent:
a row is bit-identical to a Gymnasium environment in the same state, for any number of threads.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from research.parallel import available_cores, start_sharing
from research.sampling.acting import Acting
from research.sampling.stepping import Job, StepRows, load

State = dict[str, NDArray[np.float64]]
"""Arrays of `MjData` by name, each with a leading `[rows]` axis: `state["qpos"]` is `[rows, nq]`."""

_ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"

# MuJoCo counts a warning when a position, velocity, acceleration or control is not finite or too large. It prints the
# warning, and writes MUJOCO_LOG.TXT, only if the count was 0; so the count starts at another value.
_BLOWN_UP = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_SILENT = 1000

# The part of the state from which MuJoCo continues exactly.
_KEPT = int(mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)


class Robot:
    """A MuJoCo model, and a pool of simulations (`MjData`) of it for threads.

    Attributes:
        model: The loaded model. It is shared, so edit a `copy.copy` of it.
    """

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self._spare: list[mujoco.MjData] = []

    @contextlib.contextmanager
    def lend(self) -> Iterator[mujoco.MjData]:
        """A simulation for one thread, in an arbitrary state; it can simulate every edited copy of the model.

        It returns to the pool unless an error occurs.
        """
        try:
            data = self._spare.pop()
        except IndexError:
            data = mujoco.MjData(self.model)
            data.warning.number[_BLOWN_UP] = _SILENT
        yield data
        self._spare.append(data)


@functools.cache
def load_robot(name: str) -> Robot:
    """Loads the model that Gymnasium ships as `name`, e.g. `"half_cheetah.xml"`, once."""
    return Robot(mujoco.MjModel.from_xml_path(str(_ASSETS / name)))


class Simulations:
    """Many simulations of a robot, one per row.

    Args:
        robot: The robot.
        models: The model of each row: the robot's model, or edited copies of it.
        frame_skip: Number of physics steps of one `step`.
        fields: Names of the `MjData` arrays to read after each step, in addition to `qpos` and `qvel`.
        contact_forces: Whether `mj_rnePostConstraint` computes `cfrc_ext` after each step, as Gymnasium does.

    Attributes:
        num_threads: Number of threads of a step; 0 for one per core.
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
        model = robot.model
        self._places = {"qpos": slice(1, 1 + model.nq), "qvel": slice(1 + model.nq, 1 + model.nq + model.nv)}
        self._kept = np.zeros((len(models), mujoco.mj_stateSize(model, _KEPT)))
        self._fields = [name for name in fields if name not in self._places]
        function = load()
        self._step_rows = StepRows(function, contact_forces) if function else None
        self._addresses = np.array([model._address for model in models], np.uintp)

    def reset(self, rows: Sequence[int], qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> State:
        """Resets `rows` to positions `qpos [rows, nq]` and velocities `qvel [rows, nv]`. Returns their state."""
        self.wait()
        with self._robot.lend() as data:
            extra = self._room(data, len(rows))
            sources = [getattr(data, name) for name in self._fields]
            for i, row in enumerate(rows):
                model = self._models[row]
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
                mujoco.mj_forward(model, data)
                mujoco.mj_getState(model, data, self._kept[row], _KEPT)
                for room, source in zip(extra, sources, strict=True):
                    room[i] = source
            data.warning.number[_BLOWN_UP] = _SILENT
        return self._state(rows, extra)

    def step(self, rows: Sequence[int], control: NDArray[Any]) -> Callable[[], tuple[State, NDArray[np.bool_]]]:
        """Begins a step of `rows` with the controls `control [rows, nu]`.

        Returns:
            A function that waits for the step and returns the state of the rows, and which of them diverged `[rows]`:
            a position, velocity, acceleration or control is not finite or too large. Reset a row that diverged before
            its next step.
        """
        control = np.ascontiguousarray(control, np.float64)
        blown_up = np.zeros(len(rows), np.bool_)
        with self._robot.lend() as data:
            extra = self._room(data, len(rows))
        finish = self._start(self._work(np.array(rows, np.int64), control, extra, blown_up), len(rows))

        def result() -> tuple[State, NDArray[np.bool_]]:
            finish()
            return self._state(rows, extra), blown_up

        return result

    def can_act(self, dtype: str) -> bool:
        """Returns whether `act` works with a network of this type."""
        return load(dtype) is not None

    def act(
        self, rows: NDArray[np.int64], first_row: int, acting: Acting, first: int, noise: NDArray[Any], history: State
    ) -> Callable[[], NDArray[np.bool_]]:
        """Begins several steps of `rows` under the actions of a network: mean + std ∘ noise.

        Args:
            rows: The rows that move.
            first_row: The row of the first entry of the arrays, which also have rows that do not move.
            acting: The network, and the arrays to write into at the steps from `first` on.
            first: Position of the first step in the arrays of `acting`.
            noise: `[steps, rows, actions]`, of the network's type.
            history: `[steps + 1, rows, ...]` of every field. The first entry is the present state, the others are
                written, up to the step in which a row blows up.

        Returns:
            A function that waits for the steps and returns in which of them a row diverged, `[steps, rows]`.
        """
        sizes = np.array([values[0, 0].size for values in history.values()], np.int64)
        blown_up = np.zeros(noise.shape[:2], np.bool_)
        loop = acting.loop(first_row, first, noise, history, sizes, blown_up)
        job = self._job(rows, np.empty((0, 0)), np.empty(0, np.bool_), [], sizes)
        function = StepRows(load(acting.network.dtype.name), self._contact_forces)

        def work(items: Iterator[int]) -> None:
            with self._robot.lend() as data:
                sources = np.array([getattr(data, name).ctypes.data for name in history], np.uintp)
                function(job, data, sources, loop)

        finish = self._start(work, len(rows))

        def result() -> NDArray[np.bool_]:
            finish()
            return blown_up

        return result

    def data(self, row: int) -> mujoco.MjData:
        """Returns a simulation in the state of a row, as a copy with all derived quantities."""
        self.wait()
        data = mujoco.MjData(self._models[row])
        mujoco.mj_setState(self._models[row], data, self._kept[row], _KEPT)
        mujoco.mj_forward(self._models[row], data)
        return data

    def wait(self) -> None:
        """Waits for the steps that have begun, also for those that an error has left unfinished."""
        for finish in self._running:
            finish()
        self._running = []

    def _start(self, work: Callable[[Iterator[int]], None], count: int) -> Callable[[], None]:
        """Starts work on `count` rows in all threads, and returns the function that finishes it."""
        finish = start_sharing(work, range(count), self.num_threads or available_cores())
        self._running.append(finish)

        def result() -> None:
            try:
                finish()
            except Exception:  # the work is over; after an interruption, which is not caught here, it is not
                self._running.remove(finish)
                raise
            self._running.remove(finish)

        return result

    def _work(
        self,
        rows: NDArray[np.int64],
        control: NDArray[np.float64],
        extra: list[NDArray[np.float64]],
        blown_up: NDArray[np.bool_],
    ) -> Callable[[Iterator[int]], None]:
        """The function of every thread: it steps rows until none is left."""
        if self._step_rows is None:
            return functools.partial(self._step_from_python, rows, control, extra, blown_up)
        sizes = np.array([room[0].size if len(room) else 0 for room in extra], np.int64)
        return functools.partial(self._step_in_c, self._job(rows, control, blown_up, extra, sizes))

    def _job(
        self,
        rows: NDArray[np.int64],
        control: NDArray[np.float64],
        blown_up: NDArray[np.bool_],
        extra: list[NDArray[np.float64]],
        sizes: NDArray[np.int64],
    ) -> Job:
        """The job of a call in C; `sizes` are the numbers of every field of a row."""
        places = np.array([room.ctypes.data for room in extra], np.uintp)
        job = Job(
            *(self._addresses.ctypes.data, self._kept.ctypes.data, self._kept.shape[1], _KEPT),
            *(rows.ctypes.data, len(rows), 0, self._frame_skip, control.ctypes.data, control.shape[1]),
            *(_BLOWN_UP.start, _BLOWN_UP.stop - 1, _SILENT, blown_up.ctypes.data),
            *(len(sizes), sizes.ctypes.data, places.ctypes.data),
        )
        job.arrays = (rows, control, extra, blown_up, sizes, places)  # keeps them alive
        return job

    def _step_in_c(self, job: Job, items: Iterator[int]) -> None:
        assert self._step_rows is not None
        with self._robot.lend() as data:
            sources = np.array([getattr(data, name).ctypes.data for name in self._fields], np.uintp)
            self._step_rows(job, data, sources)

    def _step_from_python(
        self,
        rows: NDArray[np.int64],
        control: NDArray[np.float64],
        extra: list[NDArray[np.float64]],
        blown_up: NDArray[np.bool_],
        items: Iterator[int],
    ) -> None:
        with self._robot.lend() as data:
            sources, warnings = [getattr(data, name) for name in self._fields], data.warning.number
            for i in items:
                model, kept = self._models[rows[i]], self._kept[rows[i]]
                mujoco.mj_setState(model, data, kept, _KEPT)
                data.ctrl[:] = control[i]
                mujoco.mj_step(model, data, self._frame_skip)
                if self._contact_forces:
                    mujoco.mj_rnePostConstraint(model, data)
                mujoco.mj_getState(model, data, kept, _KEPT)
                for room, source in zip(extra, sources, strict=True):
                    room[i] = source
                blown_up[i] = (warnings[_BLOWN_UP] != _SILENT).any()
                warnings[_BLOWN_UP] = _SILENT

    def _room(self, data: mujoco.MjData, count: int) -> list[NDArray[np.float64]]:
        """An empty array for each extra field of `count` rows."""
        return [np.empty((count, *getattr(data, name).shape)) for name in self._fields]

    def _state(self, rows: Sequence[int], extra: list[NDArray[np.float64]]) -> State:
        kept = self._kept[rows]
        state = {name: kept[:, place] for name, place in self._places.items()}
        return state | dict(zip(self._fields, extra, strict=True))
