"""MAML-TRPO learns to adapt: on held-out goals, over seeds, against the same agent before training."""

import numpy as np
import pytest

from analysis.stats import estimate
from experiments.maml_trpo import NAMED_CONFIGS
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from research.conversion import from_mapping
from research.policies import PolicyConfig

SEEDS = (0, 1, 2)
HELD_OUT = 20


def curves(iterations, **changes):
    """Mean return on held-out goals after 0 and 1 gradient steps, `[seeds, 2]`, untrained and trained."""
    untrained, trained = [], []
    for seed in SEEDS:
        config = MAMLTRPOConfig(
            seed=seed,
            meta_batch_size=10,
            episodes_per_task=10,
            horizon=30,
            policy=PolicyConfig((32,)),
            inner_lr=0.3,
            eval_episodes=10,
            **changes,
        )
        algorithm = MAMLTRPO(config)
        state = algorithm.init()
        untrained.append(algorithm.evaluate(state, HELD_OUT, 1).score.mean(1))
        for _ in range(iterations):
            state, _ = algorithm.step(state)
        trained.append(algorithm.evaluate(state, HELD_OUT, 1).score.mean(1))
    return np.array(untrained), np.array(trained)


def test_one_gradient_step_comes_to_halve_the_cost_of_reaching_a_goal():
    untrained, trained = curves(iterations=20)
    assert np.all(trained[:, 1] > -7.5), trained
    assert np.all(untrained[:, 1] < -11.0), untrained
    gain = trained[:, 1] - trained[:, 0]
    low = estimate(gain, np.random.default_rng(0), "mean").low
    assert low > 4.0, "adaptation is worth this much; a policy that ignores the goal gains nothing"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_inner_steps_exceed_the_published_returns_after_every_step():
    """`navigation_2d_two_steps`, two seeds. docs/results/navigation_2d.md has five, and the authors' script."""
    returns = []
    for seed in (1, 2):
        config = MAMLTRPOConfig(
            seed=seed,
            meta_batch_size=40,
            num_inner_steps=2,
            inner_lr=(0.5, 0.15),
            eval_inner_lr=(0.52, 0.14, 0.1),
            gae_lambda=0.9,
            policy=PolicyConfig((100, 100), activation="relu", output_scale=0.01),
        )
        algorithm = MAMLTRPO(config)
        state = algorithm.init()
        for _ in range(config.num_iterations):
            state, _ = algorithm.step(state)
        returns.append(algorithm.evaluate(state, 40, 3).score.mean(1))
    _, one, two, three = np.median(returns, 0)
    assert one > -11.68
    assert two > -3.33
    assert three > -3.23


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_half_cheetahs_that_run_either_way_exceed_the_published_returns_after_every_step():
    """`cheetah_dir_quick`, one seed. docs/results/cheetah.md has three."""
    config = from_mapping(MAMLTRPOConfig, {**NAMED_CONFIGS["cheetah_dir_quick"], "seed": 1})
    algorithm = MAMLTRPO(config)
    state = algorithm.init()
    for _ in range(config.num_iterations):
        state, _ = algorithm.step(state)
    score = algorithm.evaluate(state, 40, 3).score.mean(1)
    assert np.all(score >= (-50.69, 293.19, 313.48, 315.65)), score
