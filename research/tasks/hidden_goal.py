"""Square grids with a hidden goal that pays as long as the agent stays there: `gridnavi` and `dark_room`.

Five actions stay or move one cell; walls stop a move. A step that ends on the goal pays 1, any other step −0.1 in
`gridnavi` and 0 in `dark_room`. Episodes end at the horizon only, and all start in the same cell.

    gridnavi:   5×5, 15 steps, start in the corner (0, 0); goals are the 21 cells that do not touch it
    dark_room:  9×9, 20 steps, start in the middle; goals are all 81 cells

gridnavi is that of variBAD (Zintgraf et al. 2020, arXiv:1910.08348, section 5.1), which observes the coordinates of the
cell. dark_room is Dark Room of Algorithm Distillation (Laskin et al. 2022, arXiv:2210.14215, section 4): 9×9 cells, 20
steps, moves and no-op, start in the middle, reward 1 whenever the goal is reached and else 0, coordinates observed, and
some goals held out. Chosen here: all cells are goals, the one in the middle too; every step that ends on the goal pays,
also one that stays there; none is held out unless `test_fraction` says so.

Knowing the goal at distance d = max(|g − start|₁, 1), the best return is (horizon − d + 1) − cost · (d − 1), with the
cost of a step elsewhere. What can be earned without knowing it: `bayes_optimal_return`, by `oracles/hidden_goal.py`.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.oracles.hidden_goal import Path, Search, best_path
from research.rng import generator
from research.spaces import OneHot
from research.tasks.base import Bounds, Split, TaskDistribution
from research.tasks.rows import Moved, RowEnvs
from research.validation import at_least, choices, positive

MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
"""Stay, up, right, down, left as (x, y), `[actions, 2]`."""

_AT_GOAL = 1.0


class HiddenGoalTasks(NamedTuple):
    """Goals: `goal [tasks, 2]`, (x, y) from the middle of the grid; half-integers where `size` is even."""

    goal: NDArray[np.float64]


@dataclass(frozen=True)
class HiddenGoal(TaskDistribution):
    """Settings of both families.

    A batch of training tasks has each goal equally often, up to one, in random order.

    Attributes:
        horizon: Number of steps of an episode.
        size: Number of cells along a side.
        observation: `"one_hot"` cell, or its `"coordinates"` (x, y) counted from 0, as the papers have it.
    """

    elsewhere: ClassVar[float]
    """Reward of a step that does not end on the goal."""

    horizon: int = 15
    size: int = 5
    observation: Literal["one_hot", "coordinates"] = "one_hot"

    def __post_init__(self) -> None:
        positive(self, "horizon")
        at_least(self, 3, "size")
        choices(self)

    @property
    @abstractmethod
    def start(self) -> int:
        """Cell in which episodes start; cell x · size + y has the coordinates (x, y)."""

    @property
    @abstractmethod
    def goal_cells(self) -> NDArray[np.int64]:
        """Cells that may be the goal, `[goals]`."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The one-hot cell, or its coordinates."""
        if self.observation == "one_hot":
            return OneHot(self.size**2)
        return gymnasium.spaces.Box(0.0, self.size - 1.0, (2,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Index of a move in `MOVES`."""
        return gymnasium.spaces.Discrete(len(MOVES))

    @property
    def inference_space(self) -> gymnasium.spaces.Discrete:
        """Index of the goal's cell."""
        return gymnasium.spaces.Discrete(self.size**2)

    def inference_targets(self, tasks: HiddenGoalTasks) -> NDArray[np.int64]:
        return self.cells(tasks)

    @property
    def split(self) -> Split:
        count = len(self.goal_cells)
        return Split(False, f"there are only {count} goals, and training has all of them", False, count)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> HiddenGoalTasks:
        goals = self._training_cells()
        rounds = -(-num_tasks // len(goals))
        return self._tasks(rng.permuted(np.tile(goals, (rounds, 1)), axis=1).ravel()[:num_tasks])

    def test_tasks(self, num_tasks: int) -> HiddenGoalTasks:
        """Returns the goals one after the other, and again from the first."""
        return self.validation_tasks(num_tasks)

    def validation_tasks(self, num_tasks: int) -> HiddenGoalTasks:
        """Returns the goals of training one after the other, and again from the first."""
        goals = self._training_cells()
        return self._tasks(goals[np.arange(num_tasks) % len(goals)])

    def make_envs(self, tasks: HiddenGoalTasks, episodes: int) -> HiddenGoalEnvs:
        return HiddenGoalEnvs(self, tasks, episodes)

    def describe(self, tasks: HiddenGoalTasks) -> dict[str, list[Any]]:
        """Returns the goals counted from (0, 0). See `DescribedTasks`."""
        return {"goal": [f"({cell // self.size}, {cell % self.size})" for cell in self.cells(tasks).tolist()]}

    def optimal_return(self, tasks: HiddenGoalTasks) -> NDArray[np.float64]:
        """Returns that of the shortest path to the goal, `[tasks]`. See `SolvedTasks`."""
        steps = self._steps_at_goal(self._distance(np.array(self.start), self.cells(tasks)), self.horizon)
        return self.elsewhere * self.horizon + (_AT_GOAL - self.elsewhere) * steps.astype(np.float64)

    def mean_optimal_return(self) -> float | None:
        """Returns the mean over all goals. See `KnownOptimum`."""
        return float(self.optimal_return(self._tasks(self.goal_cells)).mean())

    def action_regret(
        self, tasks: HiddenGoalTasks, observation: NDArray[Any], action: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Returns the steps at the goal that each action loses, times their reward. See `SolvedTasks`."""
        goal = self.cells(tasks).reshape(-1, *[1] * (np.ndim(action) - 1))
        cell = self._observed_cells(np.asarray(observation))
        left = self.horizon - np.arange(np.shape(action)[-1]) % self.horizon
        following = self.next_cell()[cell, action]
        most = self._steps_at_goal(self._distance(cell, goal), left)
        taken = (following == goal) + self._steps_at_goal(self._distance(following, goal), left - 1)
        return (_AT_GOAL - self.elsewhere) * (most - taken)

    def bayes_optimal_return(self, episodes: int) -> Bounds | None:
        """Returns bounds of the best expected return of a trial, equal for `gridnavi`. See `KnownBayesOptimum`."""
        known, path = self.mean_optimal_return(), self.bayes_optimal_path(episodes)
        if known is None:
            return None
        each = (_AT_GOAL - self.elsewhere) / len(self.goal_cells)
        return Bounds(episodes * known - each * path.lost, episodes * known - each * path.bound)

    def bayes_optimal_path(self, episodes: int) -> Path:
        """Returns the best known path of an agent that has not found the goal, in a trial of `episodes` episodes."""
        return _best_path(self, episodes)

    def goals(self) -> NDArray[np.float64]:
        """Returns all goals, `[goals, 2]`. See `GoalBeliefs`."""
        return self._tasks(self.goal_cells).goal

    def posterior(self, position: NDArray[Any], reward: NDArray[Any]) -> NDArray[np.float64]:
        """Returns equal probabilities of the goals that agree with all rewards so far. See `GoalBeliefs`."""
        here = (position[..., None, :] == self.goals()).all(-1)
        paid = np.asarray(reward)[..., None] > (_AT_GOAL + self.elsewhere) / 2
        possible = np.logical_and.accumulate(here == paid, -2)
        return possible / np.maximum(possible.sum(-1, keepdims=True), 1)

    def next_cell(self) -> NDArray[np.int64]:
        """Returns the cell after each action, `[cells, actions]`."""
        place = np.stack(np.divmod(np.arange(self.size**2), self.size), -1)
        return np.clip(place[:, None] + MOVES, 0, self.size - 1) @ np.array([self.size, 1])

    def cells(self, tasks: HiddenGoalTasks) -> NDArray[np.int64]:
        """Returns the cell of each goal, `[tasks]`."""
        return np.rint(tasks.goal + self.middle).astype(np.int64) @ np.array([self.size, 1])

    def positions(self, cell: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns (x, y) of cells from the middle of the grid, `[..., 2]`."""
        return np.stack(np.divmod(cell, self.size), -1) - self.middle

    @property
    def middle(self) -> np.float64:
        """Both coordinates of the middle of the grid, counted from 0."""
        return np.float64((self.size - 1) / 2)

    def _training_cells(self) -> NDArray[np.int64]:
        return self.goal_cells

    def _tasks(self, cells: NDArray[np.int64]) -> HiddenGoalTasks:
        return HiddenGoalTasks(self.positions(cells))

    def _distance(self, cell: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
        (x, y), (other_x, other_y) = np.divmod(cell, self.size), np.divmod(other, self.size)
        return np.abs(x - other_x) + np.abs(y - other_y)

    def _steps_at_goal(self, distance: NDArray[np.int64], left: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Most of the `left` steps that end on a goal at a distance: the first one that can is number max(d, 1)."""
        return np.maximum(left - np.maximum(distance, 1) + 1, 0)

    def _observed_cells(self, observation: NDArray[Any]) -> NDArray[np.int64]:
        if self.observation == "one_hot":
            return observation.argmax(-1)
        return np.rint(observation).astype(np.int64) @ np.array([self.size, 1])


@functools.lru_cache(maxsize=32)
def _best_path(tasks: HiddenGoal, episodes: int) -> Path:
    return best_path(Search(tasks.next_cell(), tasks.start, tasks.goal_cells, tasks.horizon), episodes)


@dataclass(frozen=True)
class GridNavi(HiddenGoal):
    """variBAD's grid, see the module. Settings: see `HiddenGoal`."""

    elsewhere = -0.1

    @property
    def start(self) -> int:
        return 0

    @property
    def goal_cells(self) -> NDArray[np.int64]:
        cells = np.arange(self.size**2)
        return cells[np.maximum(*np.divmod(cells, self.size)) > 1]


@dataclass(frozen=True)
class DarkRoom(HiddenGoal):
    """Dark Room, see the module. Further settings: see `HiddenGoal`.

    Attributes:
        test_fraction: Fraction of the cells that are test goals, which training never has; 0 trains on all cells.
    """

    elsewhere = 0.0
    horizon: int = 20
    size: int = 9
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 == 0:
            raise ValueError(f"size={self.size}: need an odd number, as episodes start in the cell in the middle")
        held_out, cells = self._num_held_out, self.size**2
        if not 0 <= self.test_fraction < 1 or held_out == cells or (self.test_fraction > 0 and not held_out):
            raise ValueError(f"test_fraction={self.test_fraction}: need 0, or at least 1 of {cells} goals to evaluate "
                             "and 1 to train")  # fmt: skip

    @property
    def start(self) -> int:
        return self.size**2 // 2

    @property
    def goal_cells(self) -> NDArray[np.int64]:
        return np.arange(self.size**2)

    @property
    def split(self) -> Split:
        if not self.test_fraction:
            return super().split
        how = (
            f"{self._num_held_out} of the {self.size**2} cells are test goals, training and validation have the others"
        )
        return Split(True, how, validation_disjoint=False)

    def test_tasks(self, num_tasks: int) -> HiddenGoalTasks:
        if not self.test_fraction:
            return super().test_tasks(num_tasks)
        if num_tasks > self._num_held_out:
            raise ValueError(f"num_eval_tasks={num_tasks}: need at most {self._num_held_out}, as many as are held out")
        return self._tasks(self._shuffled()[:num_tasks])

    def mean_optimal_return(self) -> float | None:
        """Returns the mean over all goals; None if some are held out, as evaluations then have other goals."""
        return None if self.test_fraction else super().mean_optimal_return()

    @property
    def _num_held_out(self) -> int:
        return round(self.test_fraction * self.size**2)

    def _training_cells(self) -> NDArray[np.int64]:
        return self._shuffled()[self._num_held_out :] if self.test_fraction else self.goal_cells

    def _shuffled(self) -> NDArray[np.int64]:
        return generator(0, "dark_room/test").permutation(self.goal_cells)


class HiddenGoalEnvs(RowEnvs[HiddenGoal, HiddenGoalTasks]):
    """Episodes on the grid. The state is the cell, `[rows]`."""

    def __init__(self, distribution: HiddenGoal, tasks: HiddenGoalTasks, episodes: int):
        super().__init__(distribution, tasks, episodes)
        self._next, self._goal = distribution.next_cell(), distribution.cells(self.tasks)
        cells = np.arange(distribution.size**2)
        coordinates = np.stack(np.divmod(cells, distribution.size), -1)
        shown = np.eye(len(cells)) if distribution.observation == "one_hot" else coordinates
        self._shown = shown.astype(np.float32)

    def positions(self) -> NDArray[np.float64]:
        """Returns the cell of each row relative to the middle, as goals are given, `[rows, 2]`."""
        return self.distribution.positions(self.state)

    def start(self) -> NDArray[np.int64]:
        return np.full(self.num_envs, self.distribution.start)

    def move(self, state: NDArray[Any], action: NDArray[Any]) -> Moved:
        cell = self._next[state, action]
        return cell, np.where(cell == self._goal, _AT_GOAL, self.distribution.elsewhere), False

    def observe(self, state: NDArray[Any]) -> NDArray[np.float32]:
        return self._shown[state]
