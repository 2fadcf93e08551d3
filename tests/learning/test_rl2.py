"""Whether RL² learns to learn: the totals that the named configs are reported with."""

import pytest

from experiments.rl2 import NAMED_CONFIGS
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.rl2 import RL2
from research.conversion import from_mapping


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("bandit_k5_n10", 6.6),
        ("bandit_k5_n100", 78.0),
        ("bandit_k10_n100", 82.0),
        ("tabular_n10", 152.0),
        ("tabular_n25", 428.0),
    ],
)
def test_the_whole_training_earns_what_is_reported(name, least):
    algorithm = RL2(from_mapping(RL2Config, NAMED_CONFIGS[name] | {"seed": 1}))
    state = algorithm.init()
    while state.iteration < algorithm.config.num_iterations:
        state, _ = algorithm.step(state)
    assert algorithm.evaluate(state, algorithm.config.num_eval_tasks, None).totals["total"].mean() >= least
