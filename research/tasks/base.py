"""Interfaces of task distributions: a batch of tasks, and environments or examples of it; and optional abilities.

Reinforcement learning needs a `TaskDistribution`, regression a `RegressionDistribution`. The other protocols are
optional: code that uses one asks with `isinstance` whether a distribution, a batch or an environment has the ability.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.rng import generator


class Split(NamedTuple):
    """Relation between the tasks of training and those of evaluation. Every text about an evaluation follows it.

    Attributes:
        disjoint: Whether training never draws a test task.
        how: The reason, for readers of the results.
        validation_disjoint: Whether training never draws a validation task; None: nothing is claimed.
        num_tasks: Number of tasks of the family, if evaluations have all of them in turn; None: they have others.
    """

    disjoint: bool
    how: str
    validation_disjoint: bool | None = None
    num_tasks: int | None = None


DRAWN = Split(True, "evaluation tasks are one fixed sequence that training never draws from", True)
"""Split of distributions with continuous parameters."""


class TaskSource(Protocol):
    """A distribution over tasks of any kind.

    A task batch is a NumPy NamedTuple whose every field has a leading `[tasks]` axis; one task is a batch of one.
    """

    def sample(self, num_tasks: int, rng: np.random.Generator) -> Any:
        """Draws a batch of training tasks. All randomness comes from `rng`."""

    def test_tasks(self, num_tasks: int) -> Any:
        """Returns the first `num_tasks` test tasks of one fixed sequence.

        Training never draws them, unless `split` says so.

        Raises:
            ValueError: The distribution holds out fewer tasks than `num_tasks`.
        """

    @property
    def split(self) -> Split:
        """Relation between `sample`, `test_tasks` and the tasks of validation."""


class TaskDistribution(TaskSource, Protocol):
    """A distribution over reinforcement-learning tasks that share observations, actions and a horizon."""

    @property
    def horizon(self) -> int:
        """Number of steps after which an episode is truncated."""

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Space of one observation."""

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Space of one action."""

    def make_envs(self, tasks: Any, episodes: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Makes environments with `tasks × episodes` rows; the episodes of a task are adjacent rows.

        A reset with a seed accepts `options={"rows": research.rng.Rows(...)}`: the rows are then part of a larger
        batch, and draw the random numbers that they would draw there.

        Raises:
            ValueError: `episodes` is not above 0.
        """


@runtime_checkable
class ValidationTasks(Protocol):
    """Distributions with validation tasks of their own; elsewhere they are draws of `sample` (`tasks/splits.py`)."""

    def validation_tasks(self, num_tasks: int) -> Any:
        """Returns the first `num_tasks` validation tasks of one fixed sequence, none of which is a held-out test task.

        Tasks may repeat where there are fewer.
        """


class ContinuousTasks(TaskDistribution):
    """Base of distributions with continuous parameters: each split is a sequence of draws from its own random stream.

    Two draws from a continuous distribution are different with probability 1, so the splits are disjoint.

    Attributes:
        test_stream: Name of the random stream of the test tasks, e.g. `"navigation_2d/test"`. Published results depend
            on it. The validation tasks have the stream `<test_stream>/validation`.
    """

    test_stream: ClassVar[str]

    @property
    def split(self) -> Split:
        return DRAWN

    def test_tasks(self, num_tasks: int) -> Any:
        return self.sample(num_tasks, generator(0, self.test_stream))

    def validation_tasks(self, num_tasks: int) -> Any:
        return self.sample(num_tasks, generator(0, f"{self.test_stream}/validation"))


@runtime_checkable
class SolvedTasks(Protocol):
    """Distributions whose optimal policies are known, so that regret has no noise from transitions and rewards."""

    def optimal_return(self, tasks: Any) -> NDArray[np.float64]:
        """Returns the expected undiscounted return of one episode under the optimal policy of each task, `[tasks]`."""

    def action_regret(self, tasks: Any, observation: NDArray[Any], action: NDArray[Any]) -> NDArray[np.float64]:
        """Returns V*_t(s) − Q*_t(s, a), the undiscounted return lost by each action if optimal actions follow it.

        For every policy the sum over an episode has the expectation `optimal_return` − E[return] (performance
        difference lemma: Kakade & Langford 2002).

        Args:
            tasks: A task batch.
            observation: `[tasks, ..., time, obs]`, whole episodes, one after the other.
            action: `[tasks, ..., time]`, or `[tasks, ..., time, act]` if actions are continuous.

        Returns:
            `[tasks, ..., time]`, at least 0.
        """


@runtime_checkable
class KnownOptimum(Protocol):
    """Solved distributions with a closed form of the mean optimal return."""

    def mean_optimal_return(self) -> float | None:
        """Returns E[`optimal_return`] over the distribution; None where these settings have no closed form."""


class Bounds(NamedTuple):
    """A number that is known exactly if both are equal, otherwise between them."""

    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Whether both are equal."""
        return self.low == self.high


@runtime_checkable
class KnownBayesOptimum(Protocol):
    """Distributions for which it is known what can be earned without knowing the task."""

    def bayes_optimal_return(self, episodes: int) -> Bounds | None:
        """Returns the expected return of all episodes of a trial under the Bayes-optimal policy.

        That policy knows the distribution of the tasks, but not the task. Its return is undiscounted.

        Args:
            episodes: Consecutive episodes of the trial, at least 1.

        Returns:
            Bounds, equal where it is known exactly; None where it is not known, e.g. for other tasks than training has.
        """


@runtime_checkable
class InferredTasks(Protocol):
    """Distributions that know parameters of their tasks which an agent can learn to predict (task inference)."""

    @property
    def inference_space(self) -> gymnasium.spaces.Box | gymnasium.spaces.Discrete:
        """Space of the parameters of one task: a Box `[numbers]`, or Discrete (from 0) for one of n kinds of task."""

    def inference_targets(self, tasks: Any) -> NDArray[Any]:
        """Returns the parameters of each task: `[tasks, numbers]` float64, or `[tasks]` int64 if they are Discrete."""


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
class GoalBeliefs(Protocol):
    """Distributions over finitely many goals on a plane, with a posterior; environments have no random numbers."""

    def goals(self) -> NDArray[np.float64]:
        """Returns the points that may be the goal, `[goals, 2]`."""

    def posterior(self, position: NDArray[Any], reward: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the probability of each goal after each step of trials, `[..., time, goals]`.

        Args:
            position: Position after each step, `[..., time, 2]`, see `PositionedEnvs`.
            reward: Reward of each step, `[..., time]`.
        """


@runtime_checkable
class DrawableEnvs(Protocol):
    """Vector environments that draw pictures of their rows.

    Attributes:
        dt: Seconds between two steps.
    """

    dt: float

    def draw(self, row: int) -> NDArray[np.uint8]:
        """Returns a picture `[height, width, 3]` of the current state of a row; all pictures have the same size."""


class Examples(NamedTuple):
    """Examples of a batch of tasks: `inputs [tasks, points, num_inputs]` and `targets [tasks, points, num_outputs]`."""

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]


class RegressionDistribution(TaskSource, Protocol):
    """A distribution over functions with the same sizes of inputs and outputs."""

    @property
    def num_inputs(self) -> int:
        """Number of entries of an input."""

    @property
    def num_outputs(self) -> int:
        """Number of entries of a target."""

    def examples(self, tasks: Any, num_points: int, rng: np.random.Generator) -> Examples:
        """Draws `num_points` independent examples of each task. All randomness comes from `rng`."""
