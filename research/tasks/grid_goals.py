"""Square grid with a hidden goal: the agent has to find the goal of each task and learn the way to it.

Four actions move one cell up, down, left or right; walls stop a move. Arriving at the goal pays 1 and terminates the
episode, every other step pays 0. Episodes start in any cell but the goal, with equal probability. With discount γ the
optimal value of a cell at distance d is γ^(d − 1), so the optimal mean return of a goal g is
mean_{s ≠ g} γ^(|s − g|₁ − 1).

The evaluation goals are drawn once, and training never has one of them. On the 5×5 grid there are 8, whose optimal
discounted return at γ = 0.9 is 0.789 on average (all 25 goals: 0.793).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.rng import generator
from research.spaces import OneHot
from research.tasks.base import Split, TaskDistribution
from research.tasks.rows import Moved, RowEnvs
from research.validation import at_least, in_open_unit_interval, positive

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
"""Moves up, down, left and right as (row, column), `[actions, 2]`."""

_TEST_SEED = 29
"""Chosen so that the evaluation goals are about as far away as all goals are on average."""


class GridTasks(NamedTuple):
    """Goals: `goal [tasks, 2]`, (row, column) from the middle of the grid; half-integers where `size` is even."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class GridGoals(TaskDistribution):
    """The task distribution.

    Attributes:
        horizon: Number of steps of an episode.
        size: Number of cells along a side, at least 2.
        test_fraction: Fraction of the cells that are evaluation goals, in (0, 1).
    """

    horizon: int = 20
    size: int = 5
    test_fraction: float = 0.32

    def __post_init__(self) -> None:
        positive(self, "horizon")
        at_least(self, 2, "size")
        in_open_unit_interval(self, "test_fraction")
        if not 0 < self._num_held_out < self.size**2:
            raise ValueError(f"test_fraction={self.test_fraction}: that is {self._num_held_out} of {self.size**2} "
                             "cells; need at least 1 goal to evaluate and 1 to train")  # fmt: skip

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The one-hot cell."""
        return OneHot(self.size**2)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Index of a move in `MOVES`."""
        return gymnasium.spaces.Discrete(len(MOVES))

    @property
    def split(self) -> Split:
        held_out, cells = self._num_held_out, self.size**2
        how = f"{held_out} of the {cells} cells are test goals, training and validation have the others"
        return Split(True, how, validation_disjoint=False)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> GridTasks:
        """Draws goals for training: different ones if `num_tasks` is at most the number of training goals."""
        goals = self._training_goals()
        return GridTasks(goals[rng.choice(len(goals), num_tasks, replace=num_tasks > len(goals))])

    def test_tasks(self, num_tasks: int) -> GridTasks:
        if num_tasks > self._num_held_out:
            raise ValueError(f"num_eval_tasks={num_tasks}: need at most {self._num_held_out}, as many as are held out")
        return GridTasks((self._shuffled()[:num_tasks] - self.middle).astype(np.float64))

    def validation_tasks(self, num_tasks: int) -> GridTasks:
        """Returns the goals of training, one after the other and again from the first."""
        goals = self._training_goals()
        return GridTasks(goals[np.arange(num_tasks) % len(goals)])

    @property
    def inference_space(self) -> gymnasium.spaces.Discrete:
        """Index of the goal's cell, row by row. See `InferredTasks`."""
        return gymnasium.spaces.Discrete(self.size**2)

    def inference_targets(self, tasks: GridTasks) -> NDArray[np.int64]:
        return self.cells(tasks) @ np.array([self.size, 1])

    def make_envs(self, tasks: GridTasks, episodes: int) -> GridEnvs:
        return GridEnvs(self, tasks, episodes)

    def optimal_values(self, tasks: GridTasks, discount: float) -> NDArray[np.float64]:
        """Returns V*(s) = γ^(|s − g|₁ − 1) of every cell, `[tasks, cells]`; 0 at the goal, where episodes terminate."""
        distance = np.abs(self._cells() - self.cells(tasks)[:, None]).sum(-1)
        return np.where(distance > 0, discount ** (distance - 1.0), 0.0)

    @property
    def middle(self) -> np.float64:
        """Row and column of the middle of the grid, counted from 0."""
        return np.float64((self.size - 1) / 2)

    def cells(self, tasks: GridTasks) -> NDArray[np.int64]:
        """Returns (row, column) of each goal, counted from 0, `[tasks, 2]`."""
        return np.rint(tasks.goal + self.middle).astype(np.int64)

    @property
    def _num_held_out(self) -> int:
        return round(self.test_fraction * self.size**2)

    def _training_goals(self) -> NDArray[np.float64]:
        return (self._shuffled()[self._num_held_out :] - self.middle).astype(np.float64)

    def _cells(self) -> NDArray[np.int64]:
        return np.stack(np.divmod(np.arange(self.size**2), self.size), -1)

    def _shuffled(self) -> NDArray[np.int64]:
        return generator(_TEST_SEED, "grid_goals/test").permutation(self._cells())


class GridEnvs(RowEnvs[GridGoals, GridTasks]):
    """Episodes on the grid. The state is the cell (row, column), counted from 0, `[rows, 2]`."""

    def __init__(self, distribution: GridGoals, tasks: GridTasks, episodes: int):
        super().__init__(distribution, tasks, episodes)
        self._size, self._goal = distribution.size, distribution.cells(self.tasks)
        self._one_hot = np.eye(self._size**2, dtype=np.float32)

    def positions(self) -> NDArray[np.float64]:
        """Returns the cell of each row relative to the middle, as goals are given, `[rows, 2]`."""
        return (self.state - self.distribution.middle).astype(np.float64)

    def start(self) -> NDArray[np.int64]:
        drawn = self.np_random.integers(self._size**2 - 1, size=self.batch.total)[self.batch.number]
        drawn += drawn >= self._goal @ [self._size, 1]  # any cell but the goal
        return np.stack(np.divmod(drawn, self._size), -1)

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        cell = np.clip(state + MOVES[action], 0, self._size - 1)
        arrived = (cell == self._goal).all(1)
        return cell, arrived.astype(np.float64), arrived

    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        return self._one_hot[state @ [self._size, 1]]
