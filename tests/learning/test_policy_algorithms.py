"""MAML-PPO, FOMAML and Reptile learn to adapt: on held-out goals, over seeds, against the agents before training."""

import numpy as np
import pytest

from research.algorithms import ALGORITHMS
from research.policies import PolicyConfig

SEEDS = (0, 1, 2)
HELD_OUT = 20
CASES = {
    "maml": ("maml_ppo", dict(estimator="maml", meta_lr=5e-3)),
    "dice": ("maml_ppo", dict(estimator="dice", meta_lr=5e-3)),
    "lvc": ("maml_ppo", dict(estimator="lvc", meta_lr=5e-3)),
    "fomaml": ("fomaml", {}),
    "reptile": ("reptile", {}),
}


def curves(name, iterations, **changes):
    """Mean return on held-out goals after 0 and 1 gradient steps, `[seeds, 2]`, untrained and trained."""
    kind, untrained, trained = ALGORITHMS[name], [], []
    for seed in SEEDS:
        config = kind.Config(
            seed=seed,
            num_iterations=iterations,
            meta_batch_size=10,
            episodes_per_task=10,
            horizon=30,
            policy=PolicyConfig((32,)),
            inner_lr=0.3,
            eval_episodes=10,
            **changes,
        )
        algorithm = kind(config)
        state = algorithm.init()
        untrained.append(algorithm.evaluate(state, HELD_OUT, 1).score.mean(1))
        for _ in range(iterations):
            state, _ = algorithm.step(state)
        trained.append(algorithm.evaluate(state, HELD_OUT, 1).score.mean(1))
    return np.array(untrained), np.array(trained)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_after_twenty_five_iterations_one_gradient_step_leads_much_further(case):
    name, changes = CASES[case]
    untrained, trained = curves(name, 25, **changes)
    assert np.all(trained[:, 1] > untrained[:, 1] + 3.0), (untrained, trained)
    gain, before = trained[:, 1] - trained[:, 0], untrained[:, 1] - untrained[:, 0]
    assert gain.mean() > before.mean() + 0.5, "the step itself is worth more, not only the start"
