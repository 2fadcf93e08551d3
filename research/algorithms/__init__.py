"""Meta-learning algorithms, one file each. `ALGORITHMS` names them all."""

from typing import Any, ClassVar, Protocol, runtime_checkable

from research.algorithms.games import LookaheadGames
from research.algorithms.gradient.fomaml import FOMAML
from research.algorithms.gradient.maml_ppo import MAMLPPO
from research.algorithms.gradient.maml_trpo import MAMLTRPO
from research.algorithms.gradient.reptile import Reptile
from research.algorithms.memory.distillation import Distillation
from research.algorithms.memory.rl2 import RL2
from research.algorithms.memory.varibad import VariBAD
from research.algorithms.regression.maml import MAMLRegression
from research.algorithms.regression.reptile import ReptileRegression
from research.algorithms.value.lookahead_dqn import LookaheadDQN
from research.algorithms.value.maml_dqn import MAMLDQN
from research.algorithms.value.reptile_dqn import ReptileDQN
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


ALGORITHMS: dict[str, type[Algorithm]] = {
    "maml_trpo": MAMLTRPO,
    "maml_ppo": MAMLPPO,
    "fomaml": FOMAML,
    "reptile": Reptile,
    "maml_regression": MAMLRegression,
    "reptile_regression": ReptileRegression,
    "rl2": RL2,
    "varibad": VariBAD,
    "distillation": Distillation,
    "lookahead_games": LookaheadGames,
    "lookahead_dqn": LookaheadDQN,
    "reptile_dqn": ReptileDQN,
    "maml_dqn": MAMLDQN,
}

__all__ = ["ALGORITHMS", "Algorithm", "SharesTasks"]
