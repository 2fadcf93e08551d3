"""What a task distribution offers: a batch of tasks, and environments that carry it out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray


class Split(NamedTuple):
    """How the tasks of training and of evaluation relate.

    Attributes:
        disjoint: Whether training never draws a task of evaluation.
        how: What sees to it, or why it is not so, for a reader of the results.
    """

    disjoint: bool
    how: str


class TaskDistribution(Protocol):
    """A distribution over reinforcement-learning tasks that share observations, actions and a horizon.

    A task batch is a NumPy NamedTuple whose every field has a leading `[tasks]` axis; one task is a batch of one.
    """

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Space of one observation."""

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Space of one action."""

    @property
    def split(self) -> Split:
        """How `sample` and `test_tasks` relate."""

    def sample(self, num_tasks: int, rng: np.random.Generator) -> Any:
        """Training tasks, drawn with `rng` alone."""

    def test_tasks(self, num_tasks: int) -> Any:
        """The tasks of evaluation: always the same ones, none of which training draws unless `split` says so."""

    def make_envs(self, tasks: Any, episodes: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Environments with `tasks × episodes` rows, the episodes of a task next to each other.

        Rows that are part of a larger batch draw what they would draw there: a reset with a seed may be given
        `options={"rows": research.rng.Rows}`.
        """


@runtime_checkable
class SolvedTasks(Protocol):
    """Tasks whose best policies are known: regret can be measured without the luck of moves and rewards."""

    def optimal_return(self, tasks: Any) -> NDArray[np.float64]:
        """The expected return of one episode under the best policy for each known task, `[tasks]`."""

    def action_regret(self, tasks: Any, observation: NDArray[Any], action: NDArray[Any]) -> NDArray[np.float64]:
        """V*_t(s) − Q*_t(s, a): what each action gives away, if the best ones follow it; undiscounted.

        Its sum over an episode has the expectation `optimal_return` − E return, whatever the policy (the performance
        difference lemma: Kakade & Langford 2002).

        Args:
            tasks: A batch.
            observation: `[tasks, ..., time, obs]`, of whole episodes, one after the other.
            action: `[tasks, ..., time]`.

        Returns:
            `[tasks, ..., time]`, none below 0.
        """


@runtime_checkable
class KnownOptimum(Protocol):
    """Solved tasks whose best returns have a known mean over the whole distribution."""

    def mean_optimal_return(self) -> float | None:
        """E `optimal_return` over the distribution, exactly; None where these settings have no closed form."""


@runtime_checkable
class DescribedTasks(Protocol):
    """Distributions that describe their tasks in words; elsewhere the fields of the batch serve as description."""

    def describe(self, tasks: Any) -> dict[str, list[Any]]:
        """Returns one text or number per task for each name, e.g. `{"velocity": ["1.20 m/s", "0.35 m/s"]}`."""


@runtime_checkable
class RenderableTasks(Protocol):
    """Distributions whose environments have pictures only if they are made for it, as those of Gymnasium."""

    def make_drawn_envs(self, tasks: Any, episodes: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Makes the environments of `make_envs` as `DrawableEnvs`. Raises ValueError if they have no pictures."""


@runtime_checkable
class GoalTasks(Protocol):
    """Task batches with a goal on a plane. Paths to it are plotted if the environments are `PositionedEnvs`."""

    @property
    def goal(self) -> NDArray[np.float64]:
        """Goal of each task, `[tasks, 2]`."""


@runtime_checkable
class PositionedEnvs(Protocol):
    """Vector environments whose rows have a position on the plane of the goals."""

    def positions(self) -> NDArray[np.float64]:
        """Returns the position of each row, `[rows, 2]`, in the units of the goals; a copy."""


@runtime_checkable
class DrawableEnvs(Protocol):
    """Vector environments that draw pictures of their rows.

    Attributes:
        dt: Seconds between two steps.
    """

    dt: float

    def draw(self, row: int) -> NDArray[np.uint8]:
        """Returns a picture `[height, width, 3]` of the current state of a row; all pictures have the same size."""
