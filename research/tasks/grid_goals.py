"""A square grid with a goal that the agent does not see: in each task it has to be found, and the way to it learned.

Four actions move one cell up, down, left or right; walls stop. Arriving at the goal gives 1 and ends the episode, every
other step 0. Episodes start in any cell but the goal, all equally likely. With discount γ the best value of a cell d
moves away is γ^(d − 1), so the best mean return of a goal g is mean_{s ≠ g} γ^(|s − g|₁ − 1).

The goals of evaluation are drawn once, and training never has one of them. On the 5×5 grid there are 8, whose best
discounted return at γ = 0.9 is 0.789 on average (all 25: 0.793).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research import rng as random
from research.oracles.planning import optimal_action_values
from research.tasks.base import Split
from research.tasks.rows import RowEnvs
from research.validation import at_least, in_open_unit_interval, positive

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
"""Up, down, left, right, as (row, column)."""

_TEST_SEED = 29
"""Whose goals are about as far away as all goals are on average: by chance, 8 of them may lie in the middle."""


class GridTasks(NamedTuple):
    """Goals, `goal [tasks, 2]` as (row, column), counted from the middle of the grid: halves where `size` is even."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class GridGoals:
    """The task distribution.

    Attributes:
        horizon: Steps of an episode.
        size: Cells along a side, at least 2.
        test_fraction: Share of the cells that are goals of evaluation.
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
        """The cell, one-hot."""
        return gymnasium.spaces.Box(0.0, 1.0, (self.size**2,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """See `MOVES`."""
        return gymnasium.spaces.Discrete(len(MOVES))

    @property
    def split(self) -> Split:
        held_out, cells = self._num_held_out, self.size**2
        return Split(True, f"{held_out} of the {cells} cells are goals of evaluation, training draws from the others")

    def sample(self, num_tasks: int, rng: np.random.Generator) -> GridTasks:
        """Goals for training: all different as long as there are enough."""
        goals = (self._shuffled()[self._num_held_out :] - self.middle).astype(np.float64)
        return GridTasks(goals[rng.choice(len(goals), num_tasks, replace=num_tasks > len(goals))])

    def test_tasks(self, num_tasks: int) -> GridTasks:
        """The first `num_tasks` goals of evaluation. Raises ValueError if so many do not exist."""
        if num_tasks > self._num_held_out:
            raise ValueError(f"num_eval_tasks={num_tasks}: need at most {self._num_held_out}, as many as are held out")
        return GridTasks((self._shuffled()[:num_tasks] - self.middle).astype(np.float64))

    def make_envs(self, tasks: GridTasks, episodes: int) -> GridEnvs:
        """See `TaskDistribution.make_envs`."""
        return GridEnvs(self, tasks, episodes)

    def optimal_values(self, tasks: GridTasks, discount: float) -> NDArray[np.float64]:
        """V* of every cell by value iteration, `[tasks, cells]`; 0 at the goal, where an episode has ended."""
        cells, count = self._cells(), self.size**2
        goal = self.cells(tasks) @ [self.size, 1]
        following = np.clip(cells[:, None] + MOVES, 0, self.size - 1) @ [self.size, 1]
        reward = (following == goal[:, None, None]).astype(np.float64)
        reward[np.arange(len(goal)), goal] = 0
        stay = discount * (1 - reward)
        stay[np.arange(len(goal)), goal] = 0
        transition = np.eye(count)[following] * stay[..., None]
        return optimal_action_values(transition, reward, 2 * self.size)[:, 0].max(-1)

    def best_return(self, tasks: GridTasks, discount: float) -> NDArray[np.float64]:
        """The mean of V* over where episodes start, `[tasks]`."""
        return self.optimal_values(tasks, discount).sum(1) / (self.size**2 - 1)

    @property
    def middle(self) -> np.float64:
        """Row and column of the middle, counted from 0."""
        return np.float64((self.size - 1) / 2)

    def cells(self, tasks: GridTasks) -> NDArray[np.int64]:
        """(row, column) of each goal, counted from 0: `[tasks, 2]`."""
        return np.rint(tasks.goal + self.middle).astype(np.int64)

    @property
    def _num_held_out(self) -> int:
        return round(self.test_fraction * self.size**2)

    def _cells(self) -> NDArray[np.int64]:
        return np.stack(np.divmod(np.arange(self.size**2), self.size), -1)

    def _shuffled(self) -> NDArray[np.int64]:
        return random.generator(_TEST_SEED, "grid_goals/test").permutation(self._cells())


class GridEnvs(RowEnvs):
    """Walks on the grid, all rows in one NumPy operation."""

    def __init__(self, distribution: GridGoals, tasks: GridTasks, episodes: int):
        positive(dict(episodes=episodes), "episodes")
        super().__init__(distribution, len(tasks.goal) * episodes)
        self._size, self._middle = distribution.size, distribution.middle
        self._goal = np.repeat(distribution.cells(tasks), episodes, 0)
        self._cell = np.zeros((self.num_envs, 2), np.int64)
        self._rows = np.arange(self.num_envs)

    def positions(self) -> NDArray[np.float64]:
        """Where every row is, counted as goals are: `[rows, 2]`."""
        return (self._cell - self._middle).astype(np.float64)

    def _start(self, rows: NDArray[np.bool_]) -> None:
        drawn = self.np_random.integers(self._size**2 - 1, size=self._drawn_rows)[self._drawn]
        drawn += drawn >= self._goal @ [self._size, 1]
        self._cell[rows] = np.stack(np.divmod(drawn, self._size), -1)[rows]

    def _move(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> NDArray[np.float64]:
        moved = np.clip(self._cell + MOVES[actions], 0, self._size - 1)
        self._cell = np.where(active[:, None], moved, self._cell)
        return self._has_arrived().astype(np.float64)

    def _has_arrived(self) -> NDArray[np.bool_]:
        return np.asarray((self._cell == self._goal).all(1))

    def _observe(self) -> NDArray[np.float32]:
        observation = np.zeros((self.num_envs, self._size**2), np.float32)
        observation[self._rows, self._cell @ [self._size, 1]] = 1.0
        return observation
