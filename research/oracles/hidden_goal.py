"""Search for a goal in one of finitely many cells: Bayes-optimal paths, proved by a lower bound.

All episodes of a trial start in the same cell, and moves are deterministic. The goal is one of some cells, each equally
likely. A step that ends there pays another reward than all others, so the goal is known once the agent was there. Until
then all histories are alike: a Bayes-optimal policy follows a path until it finds the goal, and from then on it acts
as the best policy that knows the goal. With d_g the steps from the start to g, at least 1, that policy is at g after
step d_g of each episode and stays. A path loses one such step for each step s ≥ d_g before it finds g:

    return = E[return that knows the goal] − (reward at the goal − reward elsewhere) · L / (number of goals)
    L      = Σ_episodes Σ_s |{g not on the path so far : d_g ≤ s}|

`best_path` minimises the integer L. A beam search finds a path; states are cells and sets of goals that are not found
yet, ordered by the L so far plus a lower bound of the rest. The bound has two constraints: a step finds at most one
goal, and no goal is found earlier than its distance. The path is optimal if its L equals the bound at the start, or if
the search left out no state that could be better.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from research.validation import at_least

Ints = NDArray[np.int64]
Masks = NDArray[np.bool_]

_WIDTHS = 300, 3000
"""Numbers of states that the search keeps after each step; the second one where the first proves nothing."""


class Search(NamedTuple):
    """A search for a hidden goal.

    Attributes:
        next_cell: Cell after each action, `[cells, actions]`. Every cell has an action that stays.
        start: Cell in which episodes start.
        goals: Cells that may be the goal, all different, `[goals]`.
        horizon: Steps of an episode.
    """

    next_cell: Ints
    start: int
    goals: Ints
    horizon: int


class Path(NamedTuple):
    """A path until the goal is found.

    Attributes:
        cells: Cell after each step, `[episodes, horizon]`.
        lost: Steps at the goal that it loses against the policies that know the goal, summed over goals: L.
        bound: Lower bound of L over all policies. The path is optimal if both are equal.
    """

    cells: Ints
    lost: int
    bound: int


class _Problem(NamedTuple):
    """A search with its distances: `reachable [cells, goals, horizon + 1]`, whether a goal is at most that far.

    `place [cells]` is the index of the goal in a cell, or −1; `first [goals]` is d_g.
    """

    search: Search
    episodes: int
    reachable: NDArray[np.float32]
    place: Ints
    first: Ints


class _Beam(NamedTuple):
    """States after a step: `cell`, `lost` and `code` (a hash of the goals found) `[states]`, `missing [states, goals]`.

    `parent [states]` is the index of the state one step earlier.
    """

    cell: Ints
    missing: Masks
    lost: Ints
    code: Ints
    parent: Ints


def arrival_steps(next_cell: Ints) -> Ints:
    """Returns the least number of steps, at least 1, from each cell to each other, `[cells, cells]`.

    Cells that cannot be reached are as many steps away as there are cells, plus 1.

    >>> arrival_steps(np.array([[0, 1], [1, 2], [2, 2]])).tolist()
    [[1, 1, 2], [4, 1, 1], [4, 4, 1]]
    """
    count = len(next_cell)
    adjacent = np.zeros((count, count), bool)
    adjacent[np.arange(count)[:, None], next_cell] = True
    steps = np.full((count, count), count + 1)
    reached = adjacent
    for step in range(1, count + 1):
        steps[reached & (steps > count)] = step
        reached = reached @ adjacent
    return steps


def best_path(search: Search, episodes: int) -> Path:
    """Returns the best path that was found for a trial of `episodes` episodes, and a lower bound of L. See the module.

    Raises:
        ValueError: A number is below 1, no action stays in some cell, or goals are repeated.
    """
    at_least(dict(episodes=episodes, horizon=search.horizon), 1, "episodes", "horizon")
    cells = np.arange(len(search.next_cell))
    if not (search.next_cell == cells[:, None]).any(1).all():
        raise ValueError("next_cell: need an action in every cell that stays there")
    if not len(search.goals) or len(np.unique(search.goals)) < len(search.goals):
        raise ValueError(f"goals={search.goals.tolist()}: need at least one cell, and none twice")
    arrival = arrival_steps(search.next_cell)[:, search.goals]
    reachable = (arrival[:, :, None] <= np.arange(search.horizon + 1)).astype(np.float32)
    place = np.full(len(cells), -1)
    place[search.goals] = np.arange(len(search.goals))
    problem = _Problem(search, episodes, reachable, place, arrival[search.start])
    path = _search(problem, _WIDTHS[0])
    return path if path.lost == path.bound else _search(problem, _WIDTHS[1], path)


def _search(problem: _Problem, width: int, known: Path | None = None) -> Path:
    """Returns the path of a beam search that keeps `width` states, or the known path if it finds none with less loss.

    States whose loss and bound are not below the loss of the known path are left out. If that and nothing else was left
    out, the result is optimal.
    """
    search = problem.search
    goals, start = len(search.goals), search.start
    rng = np.random.default_rng(0)
    codes = rng.integers(2**62, size=goals), rng.integers(2**62, size=len(search.next_cell))
    zero = np.zeros(1, np.int64)
    beam = _Beam(np.array([start]), np.ones((1, goals), bool), zero, zero, zero)
    bound, is_complete = int(_least_loss(problem, beam, 0, 0)[0]), True
    history: list[_Beam] = []
    for time in range(problem.episodes * search.horizon):
        episode, step = divmod(time + 1, search.horizon)  # after this step
        beam = _advance(problem, beam, step or search.horizon, codes)
        ahead = beam if step else beam._replace(cell=np.full_like(beam.cell, start))
        total = beam.lost + _least_loss(problem, ahead, episode, step)
        order = np.argsort(total, kind="stable")
        if known:
            order = order[total[order] < known.lost]
        is_complete &= len(order) <= width
        if not len(order):
            assert known is not None  # without it nothing is left out
            return known._replace(bound=known.lost) if is_complete else known
        history.append(_take(beam, order[:width]))
        beam = history[-1] if step else history[-1]._replace(cell=ahead.cell[order[:width]])
        if not step and not beam.missing[0].any():
            break
    lost = int(beam.lost[0])
    return Path(_trace(history, problem), lost, lost if is_complete else bound)


def _take(beam: _Beam, order: NDArray[np.intp]) -> _Beam:
    return _Beam(beam.cell[order], beam.missing[order], beam.lost[order], beam.code[order], beam.parent[order])


def _trace(history: list[_Beam], problem: _Problem) -> Ints:
    """Returns the cells of the best state, `[episodes, horizon]`. It is the first: they are ordered by their loss."""
    cells = np.full(problem.episodes * problem.search.horizon, problem.search.start)
    index = 0
    for time in reversed(range(len(history))):
        cells[time], index = history[time].cell[index], history[time].parent[index]
    return cells.reshape(problem.episodes, -1)


def _advance(problem: _Problem, beam: _Beam, step: int, codes: tuple[Ints, Ints]) -> _Beam:
    """Returns the states after every action, each once, with the least loss."""
    next_cell = problem.search.next_cell
    parent = np.repeat(np.arange(len(beam.cell)), next_cell.shape[1])
    cell = next_cell[beam.cell].ravel()
    goal = problem.place[cell]
    is_new = (goal >= 0) & beam.missing[parent, goal]
    code = beam.code[parent] ^ np.where(is_new, codes[0][goal], 0)
    lost = beam.lost[parent]
    key = code ^ codes[1][cell]
    order = np.lexsort((lost, key))
    kept = order[np.concatenate([[True], np.diff(key[order]) != 0])]
    missing = beam.missing[parent[kept]]
    finds = np.flatnonzero(is_new[kept])
    missing[finds, goal[kept][finds]] = False
    late = np.count_nonzero(missing & (problem.first <= step), 1)
    return _Beam(cell[kept], missing, lost[kept] + late, code[kept], parent[kept])


def _least_loss(problem: _Problem, beam: _Beam, episode: int, step: int) -> Ints:
    """Returns a lower bound of the loss after this step, `[states]`: a relaxation that bounds the goals found so far.

    With R_k the missing goals at most k steps away, at most m_k = min(m_{k−1} + 1, R_k) are found after k more steps of
    the episode. A later one, before which at most m were found, finds none with d_g > j in its first j steps. So of the
    A_D missing goals with d_g ≤ D, at most min(A_D, A_j + m + D − j), for any j ≤ D, are found after its step D.
    """
    horizon, missing = problem.search.horizon, beam.missing.astype(np.float32)
    active = missing @ problem.reachable[problem.search.start]
    near = np.empty_like(active)
    for cell in np.unique(beam.cell):
        rows = np.flatnonzero(beam.cell == cell)
        near[rows] = missing[rows] @ problem.reachable[cell]
    loss, found = np.zeros_like(active[:, 0]), np.zeros_like(active[:, 0])
    if episode < problem.episodes:
        for k in range(1, horizon - step + 1):
            found = np.minimum(found + 1, near[:, k])
            loss += np.maximum(active[:, step + k] - found, 0)
    for _ in range(episode + 1, problem.episodes):
        if (found >= active[:, horizon]).all():
            break
        most = found
        for k in range(1, horizon + 1):
            most = np.minimum(most + 1, active[:, k] + found)
            loss += np.maximum(active[:, k] - most, 0)
        found = np.minimum(active[:, horizon], most)
    return loss.astype(np.int64)
