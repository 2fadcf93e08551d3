"""The gradient for a TD step's rate and discount against finite differences of real TD steps."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from td_problem import loop_loss, make_batch, make_config, make_network, params_of

from research.algorithms.value.learner import TDLearner
from research.algorithms.value.meta_gradient import TDMetaGradient

H = 1e-5


def make(**settings):
    given = dict(learn_td=("lr", "discount"), discount=0.9, reference_discount=0.95, inner_lr=1e-2, max_grad_norm=0.0)
    return make_config(**{**given, **settings})


def warmed(config, network):
    """A learner in the middle of training, whose moments are not those of a start."""
    learner = TDLearner(config, network, params_of(network))
    for seed in range(4):
        learner.step(make_batch(seed))
    return learner


def with_discount(batch, discount):
    return batch._replace(bootstrap=discount * (batch.bootstrap > 0).to(batch.bootstrap))


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("settings", [dict(td_loss="mse"), dict(double=True)])
def test_it_is_the_derivative_of_what_the_step_led_to(settings, dueling):
    config, network = make(**settings), make_network(dueling=dueling)
    batch, judged = make_batch(10), make_batch(11)

    def outcome(log_lr, logit):
        learner = warmed(config, network)
        learner.set_rate(math.exp(log_lr))
        learner.step(with_discount(batch, 1 / (1 + math.exp(-logit))))
        target = learner.state().target
        return float(
            loop_loss(network, learner.params(), target, with_discount(judged, 0.95), config.double, config.td_loss)
        )

    learner, meta_gradient = warmed(config, network), TDMetaGradient(config)
    at = {name: float(value) for name, value in meta_gradient.init().items()}
    learner.step(meta_gradient.prepare(learner, batch))
    gradient = meta_gradient.gradient(learner, judged)
    for name in ("lr", "discount"):
        shifts = [tuple(at[key] + sign * H * (key == name) for key in ("lr", "discount")) for sign in (1, -1)]
        expected = (outcome(*shifts[0]) - outcome(*shifts[1])) / (2 * H)
        assert float(gradient[name]) == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert abs(expected) > 1e-7


def test_with_one_discount_for_both_the_rate_alone_is_judged_by_the_same_loss():
    """And the judge's discount matters: with another one the gradient is another."""
    network, batch, judged = make_network(), make_batch(10), make_batch(11)
    found = []
    for reference in (None, 0.9, 0.5):
        config = make(learn_td=("lr",), reference_discount=reference)
        learner, meta_gradient = warmed(config, network), TDMetaGradient(config)
        learner.step(meta_gradient.prepare(learner, batch))
        found.append(float(meta_gradient.gradient(learner, judged)["lr"]))
    assert found[0] == found[1] != found[2]


def test_steps_follow_the_gradient_and_nothing_happens_where_nothing_is_learned():
    network = make_network()
    config = make(td_meta_lr=0.1)
    learner, meta_gradient = warmed(config, network), TDMetaGradient(config)
    learner.step(meta_gradient.prepare(learner, make_batch(10)))
    gradient = meta_gradient.gradient(learner, make_batch(11))
    learner, meta_gradient = warmed(config, network), TDMetaGradient(config)
    learner.step(meta_gradient.prepare(learner, make_batch(10)))
    batch = meta_gradient.prepare(learner, make_batch(11))
    for name, start in meta_gradient.init().items():
        moved = meta_gradient.learned()[name] - start
        torch.testing.assert_close(moved, -0.1 * gradient[name].sign(), rtol=1e-3, atol=1e-6)  # Adam's first step
    assert meta_gradient.metrics()["td_lr"] == pytest.approx(math.exp(float(meta_gradient.learned()["lr"])))
    expected = with_discount(make_batch(11), meta_gradient.discount).bootstrap
    torch.testing.assert_close(batch.bootstrap, expected)
    plain = TDMetaGradient(dataclasses.replace(config, learn_td=()))
    untouched = make_batch(12)
    assert plain.prepare(learner, untouched) is untouched and plain.learned() == {}
    assert plain.metrics() == {"td_lr": 1e-2, "td_discount": 0.9}
