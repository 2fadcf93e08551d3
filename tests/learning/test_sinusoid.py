"""Whether meta-learning on sine waves makes new ones easy: the point of it all."""

import pytest

from experiments.maml_sinusoid import choose, experiment

BRIEF = dict(num_iterations=3, num_inner_steps=1, inner_lr=0.02, meta_lr=5e-3, anneal_from=0.0)


def curve(name, num_adapt_steps, **changes):
    """Mean error on held-out waves after each gradient step, once trained with a named config."""
    config, _ = experiment.settings.typed(experiment.settings.given(changes, [name]))
    algorithm = choose(config)
    state = algorithm.init()
    while state.iteration < config.num_iterations:
        state, _ = algorithm.step(state)
    return algorithm.evaluate(state, 600, num_adapt_steps).score.mean(1)


@pytest.mark.parametrize(
    ("name", "changes", "most"),
    [
        ("maml", BRIEF, 0.7),
        ("fomaml", BRIEF, 0.8),
        ("meta_sgd", BRIEF, 0.5),
        ("anil", {**BRIEF, "inner_lr": 0.1}, 0.9),
        ("reptile", dict(num_iterations=1, anneal_from=1.0), 0.7),
    ],
)
def test_after_a_short_training_one_gradient_step_helps(name, changes, most):
    before, after = curve(name, 1, **changes)
    assert after < most * before


def test_after_training_one_network_for_all_waves_it_does_not():
    """The control: without an inner step there is nothing to learn but the mean wave."""
    before, after = curve("pretrained", 1, **{**BRIEF, "num_inner_steps": 0})
    assert after > 0.93 * before


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_training_reaches_the_published_errors():
    """5 shots, seed 0, errors after 1, 5 and 10 steps: Finn et al. 2017, arXiv:1703.03400, table 2."""
    maml = curve("maml", 10)
    assert maml[1] <= 0.67
    assert maml[5] <= 0.38
    assert maml[10] <= 0.35
    assert curve("meta_sgd", 1, num_iterations=100)[1] < maml[1]
