"""Whether DQN learns, and whether meta-learned values adapt faster than others."""

import pytest

from experiments.lookahead_dqn import NAMED_CONFIGS, choose, experiment


def make(name, **changes):
    return choose(experiment.settings.typed({**NAMED_CONFIGS[name], **changes})[0])


def trained(algorithm, iterations=None):
    state = algorithm.init()
    while state.iteration < (iterations or algorithm.config.num_iterations):
        state, _ = algorithm.step(state)
    return state


def score(algorithm, state):
    config = algorithm.config
    return algorithm.evaluate(state, config.num_eval_tasks, config.num_adapt_steps).score.mean(1)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "variant", [pytest.param("half_rate", marks=SLOW), "fast_slow", pytest.param("slow_target", marks=SLOW)]
)
def test_eight_thousand_steps_of_cartpole_are_enough_to_see_that_it_learns(variant):
    """An untrained network balances for about 10 steps, chance for 22."""
    algorithm = make("cartpole", **NAMED_CONFIGS[variant])
    assert score(algorithm, trained(algorithm, 8))[0] > 50


def test_after_a_short_training_over_tasks_a_few_steps_lead_far():
    brief = dict(num_iterations=15, meta_batch_size=6, eval_episodes=100, td_steps_per_adapt_step=50, num_adapt_steps=1)
    algorithm = make("grid_goals_reptile", **brief)
    scratch, learned = (score(algorithm, state)[1] for state in (algorithm.init(), trained(algorithm)))
    assert learned > scratch + 0.15


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_reptile_adapts_to_held_out_goals_within_100_steps():
    algorithm = make("grid_goals_reptile")
    curve = score(algorithm, trained(algorithm))
    assert curve[1] >= 0.76
    assert curve[3] >= 0.78  # the best there is: 0.789


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_maml_is_twice_as_good_after_six_steps_as_training_from_scratch_and_better_after_thirty():
    algorithm = make("grid_goals_maml")
    scratch, curve = score(algorithm, algorithm.init()), score(algorithm, trained(algorithm))
    assert curve[1] >= 2 * scratch[1]
    assert curve[5] > curve[1] and curve[5] >= 2 * scratch[5]
