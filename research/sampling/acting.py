"""The records of environments that compute the actions themselves, for several steps (step.c): networks and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.sampling.stepping import Loop, lanes


class Columns(NamedTuple):
    """A part of an observation: consecutive numbers of an array of `MjData`, in the order of memory.

    Attributes:
        field: Name of the array.
        start: The first number.
        stop: The end of the numbers; None for the end of the array.
        limit: They are clipped to ±limit.
    """

    field: str
    start: int = 0
    stop: int | None = None
    limit: float = np.inf


class Network(NamedTuple):
    """Normal distributions over actions, one network for each task: the mean is the output of a perceptron.

    Attributes:
        weights: `[tasks, out, in]` of each layer.
        biases: `[tasks, out]` of each layer.
        is_relu: Whether the activation between the layers is relu, or tanh.
        std: Standard deviation, `[tasks, actions]`.
    """

    weights: list[NDArray[Any]]
    biases: list[NDArray[Any]]
    is_relu: bool
    std: NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of all numbers, float32 or float64."""
        return self.std.dtype

    def packed(self) -> NDArray[Any]:
        """Returns the parameters as step.c reads them, `[tasks, numbers]`."""
        width = lanes(self.dtype.name)
        layers = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            tasks, outputs, inputs = weight.shape
            layer = np.zeros((tasks, inputs + 1, -(-outputs // width) * width), self.dtype)
            layer[:, :inputs, :outputs], layer[:, inputs, :outputs] = weight.swapaxes(1, 2), bias
            layers.append(layer.reshape(tasks, -1))
        return np.concatenate(layers, 1)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Sizes of the observation and of the outputs of each layer."""
        return np.array([self.weights[0].shape[2], *(weight.shape[1] for weight in self.weights)], np.int64)


class Acting(NamedTuple):
    """Several steps of a slice of rows under the actions of a network; the arrays have its rows.

    Attributes:
        network: The network of each task; the rows of a task are adjacent.
        packed: Its parameters as step.c reads them.
        columns: The parts of the fields that make an observation, in order.
        observation: `[rows, horizon, obs]`, C-contiguous like all arrays and of the network's type: written.
        mean: `[rows, horizon, actions]`: written.
        action: `[rows, horizon, actions]`: written.
    """

    network: Network
    packed: NDArray[Any]
    columns: Sequence[Columns]
    observation: NDArray[Any]
    mean: NDArray[Any]
    action: NDArray[Any]

    def loop(
        self,
        first_row: int,
        first: int,
        noise: NDArray[Any],
        history: dict[str, NDArray[np.float64]],
        sizes: NDArray[np.int64],
        blown_up: NDArray[np.bool_],
    ) -> Loop:
        """Returns the arguments of step.c.

        Args:
            first_row: See `Simulations.act`, like the next three.
            first: Position of the first step.
            noise: `[steps, rows, actions]`.
            history: The fields, `[steps + 1, rows, ...]`.
            sizes: The numbers of every field of a row.
            blown_up: `[steps, rows]`, false: written.
        """
        (steps, count), names, network = noise.shape[:2], list(history), self.network
        parts = []
        for name, start, stop, _ in self.columns:
            field = names.index(name)
            first_number, end, _ = slice(start, stop).indices(int(sizes[field]))
            parts.append((field, first_number, max(end - first_number, 0)))
        arrays = [
            *(network.sizes, self.packed, network.std, *np.array(parts, np.int64).T.copy()),
            *(np.array([column.limit for column in self.columns]), noise, self.observation, self.mean, self.action),
            *(np.array([history[name].ctypes.data for name in names], np.uintp), blown_up),
        ]
        size, packed, std, field, start, number, limit, *written = (array.ctypes.data for array in arrays)
        loop = Loop(
            *(len(network.weights), network.is_relu, int(network.sizes.max()), size, packed, self.packed.shape[1]),
            *(std, count // len(network.std), len(parts), field, start, number, limit),
            *(first_row, count, steps, first, self.action.shape[1], *written),
        )
        loop.dtype, loop.arrays = network.dtype.name, (arrays, history)  # keeps the arrays alive
        return loop


class Acted(NamedTuple):
    """Several steps of a slice of rows.

    Attributes:
        reward: `[steps, rows]`, 0 where `valid` is false.
        terminated: `[steps, rows]`; a step that diverged is no termination.
        stepped: `[steps, rows]`: the row was not done before the step.
        valid: `[steps, rows]`: that, and the step did not diverge.
        observation: `[rows, obs]`, the observation after the last valid step.
        active: `[rows]`: the row is not done.
    """

    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    stepped: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    observation: NDArray[np.float64]
    active: NDArray[np.bool_]


def until_the_end(active: NDArray[np.bool_], ends: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns in which steps a row moves, `[steps, rows]`, and which rows are done after them, `[rows]`.

    Args:
        active: `[rows]`, the rows that are not done before the first step.
        ends: `[steps, rows]`, whether a step ends the episode if the row gets so far.
    """
    over = ~active | np.logical_or.accumulate(ends, 0)
    return np.concatenate([active[None], ~over[:-1]]), over[-1]
