"""Meta-learning algorithms, one file each. `ALGORITHMS` names them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from research.registry import Registry, attribute_of

if TYPE_CHECKING:  # they import torch, which takes seconds
    from research.distributed import Ranks
    from research.evaluation import AdaptationCurve
    from research.tasks.splits import SplitName
    from research.types import StepResult


class Algorithm(Protocol):
    """Interface of an algorithm for the training loop.

    `Config` is a frozen dataclass that checks its ranges and declares which settings may differ when a run is resumed
    or evaluated, see `AlgorithmConfig`; a state is a NamedTuple of tensors, numbers and containers of them, with
    `state.iteration` finished iterations. All randomness is a function of the seed and the iteration, so a checkpoint
    needs nothing but the state.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None: ...

    def init(self) -> Any:
        """Returns the state before the first iteration."""

    def step(self, state: Any) -> StepResult:
        """Returns the next state and the metrics of its iteration. Does not change `state`."""

    def evaluate(self, state: Any, num_tasks: int, num_adapt_steps: int, split: SplitName = "test") -> AdaptationCurve:
        """Returns the scores on tasks of a split after 0, 1, ..., `num_adapt_steps` steps of adaptation.

        Its random draws come from `evaluation_stream(split)`, so that each split has other episodes of the same task.
        """


@runtime_checkable
class SharesTasks(Protocol):
    """Algorithms that several processes can train together, each with its share of the tasks: an optional ability."""

    def with_ranks(self, ranks: Ranks) -> Algorithm:
        """Returns the same algorithm in one of the processes. Raises ValueError if there are too few tasks for them."""


@runtime_checkable
class ChecksStates(Protocol):
    """Algorithms whose training reads more than their settings, e.g. a file of data: an optional ability."""

    def check(self, state: Any) -> None:
        """Raises ValueError if a training cannot go on from a state, or cannot start from that of `init`.

        It is called before anything is recorded, so the run is refused and its record stays as it is; and before a
        sweep is submitted. Evaluations do not call it.
        """


@runtime_checkable
class AdoptsStates(Protocol):
    """Algorithms whose settings may change while they train: those with `mutable_settings`. An optional ability."""

    def adopt(self, state: Any, before: Any, own: Any) -> Any:
        """Returns a state of this algorithm that goes on with what was learned in a state of other settings.

        Everything that was learned is that of `state`: parameters, optimisers, running moments. Everything that belongs
        to the run that goes on is that of `own`: the iteration, environments in mid-episode, a replay buffer. With
        `state` as `own` and without a changed setting, the result is `state`.

        Args:
            state: A state of the same algorithm with other settings, perhaps from another run.
            before: Its settings; those that are no `mutable_settings` are those of this algorithm, except for the seed.
            own: The last state of the run that goes on, whose settings differ from those of this algorithm in
                `mutable_settings` alone.

        Raises:
            ValueError: A size is smaller than before, or two of the settings cannot change together.
        """


ALGORITHMS: Registry[Algorithm] = Registry(
    __name__,
    {
        "maml_trpo": "gradient.maml_trpo:MAMLTRPO",
        "maml_ppo": "gradient.maml_ppo:MAMLPPO",
        "fomaml": "gradient.fomaml:FOMAML",
        "reptile": "gradient.reptile:Reptile",
        "maml_regression": "regression.maml:MAMLRegression",
        "reptile_regression": "regression.reptile:ReptileRegression",
        "rl2": "memory.rl2:RL2",
        "varibad": "memory.varibad:VariBAD",
        "distillation": "memory.distillation:Distillation",
        "lookahead_games": "games:LookaheadGames",
        "lookahead_dqn": "value.lookahead_dqn:LookaheadDQN",
        "reptile_dqn": "value.reptile_dqn:ReptileDQN",
        "maml_dqn": "value.maml_dqn:MAMLDQN",
    },
)


def __getattr__(name: str) -> Any:
    """Returns a class of the registry: `from research.algorithms import MAMLTRPO` imports it."""
    return attribute_of(__name__, name, ALGORITHMS)


__all__ = ["ALGORITHMS", "AdoptsStates", "Algorithm", "ChecksStates", "SharesTasks"]
