"""Sine waves, and the regression algorithms against plain loops over tasks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from research.algorithms.regression.agent import Learner, RegressionConfig
from research.algorithms.regression.maml import MAMLRegression, MAMLRegressionConfig
from research.algorithms.regression.reptile import ReptileRegression, ReptileRegressionConfig
from research.losses import ExampleBatch
from research.rng import generator
from research.tasks.sinusoid import Sinusoid, SinusoidTasks

TINY = dict(
    updates_per_iteration=3,
    meta_batch_size=2,
    shots=4,
    query_points=3,
    hidden_sizes=(6,),
    inner_lr=0.05,
    dtype="float64",
)


# --- tasks ---


def test_values_of_known_waves():
    tasks = SinusoidTasks(np.array([2.0, 3.0]), np.array([0.0, math.pi / 2]))
    inputs = np.array([0.0, math.pi / 2, math.pi]).reshape(1, 3, 1).repeat(2, 0)
    expected = [[0.0, 2.0, 0.0], [-3.0, 0.0, 3.0]]
    np.testing.assert_allclose(Sinusoid().values(tasks, inputs)[..., 0], expected, atol=1e-12)


def test_waves_and_examples_fill_their_ranges():
    waves = Sinusoid(amplitude_range=(1.0, 2.0), phase_range=(-1.0, 0.5), input_range=(3.0, 7.0))
    for tasks in (waves.sample(2000, generator(0, "t")), waves.test_tasks(2000)):
        inputs, targets = waves.examples(tasks, 5, generator(1, "x"))
        for values, (low, high) in ((tasks.amplitude, (1, 2)), (tasks.phase, (-1, 0.5)), (inputs, (3, 7))):
            assert low <= values.min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < values.max() <= high
        assert inputs.shape == targets.shape == (2000, 5, 1)
        np.testing.assert_array_equal(targets, waves.values(tasks, inputs))


def test_held_out_waves_are_a_fixed_sequence():
    waves = Sinusoid()
    for few, more in zip(waves.test_tasks(3), waves.test_tasks(7), strict=True):
        np.testing.assert_array_equal(few, more[:3])
    assert not np.isin(waves.test_tasks(50).phase, waves.sample(5000, generator(0, "examples", 0)).phase).any()


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (1.0,), (float("nan"), 1.0)])
def test_ranges_that_cannot_be_are_refused(bounds):
    with pytest.raises(ValueError, match=r"phase_range=.*: need two numbers, the lower one first"):
        Sinusoid(phase_range=bounds)


# --- what an update sees ---


@pytest.mark.parametrize("fresh", [True, False])
def test_every_update_samples_tasks_of_its_own(fresh):
    learner = Learner(RegressionConfig(**TINY, num_inner_steps=2))
    updates = list(learner.sample(iteration=5, fresh_per_step=fresh))
    assert len(updates) == 3
    seen = torch.cat([sampled.query.inputs for sampled in updates])
    assert len(seen.unique()) == seen.numel() == 3 * 2 * 3
    for first, second in [sampled.batches for sampled in updates]:
        assert first.inputs.shape == first.targets.shape == (2, 4, 1)
        assert torch.equal(first.inputs, second.inputs) is not fresh
    again, other = (next(learner.sample(iteration, fresh)).query.inputs for iteration in (5, 6))
    assert torch.equal(again, updates[0].query.inputs)
    assert not torch.equal(other, again)


def test_support_and_query_belong_to_one_wave():
    """Three of its points fix a sine wave: y = a sin x + b cos x has two unknowns."""
    sampled = next(Learner(RegressionConfig(**TINY)).sample(0, fresh_per_step=False))
    for task in range(2):
        x, y = (torch.cat([sampled.batches[0][leaf][task], sampled.query[leaf][task]]) for leaf in (0, 1))
        design = torch.cat([x.sin(), x.cos()], 1)
        weights = torch.linalg.lstsq(design[:3], y[:3]).solution
        torch.testing.assert_close(design @ weights, y)


# --- updates against loops over tasks ---


def forward(params, inputs):
    """The network with one hidden layer, by hand."""
    hidden = F.relu(inputs @ params["body.0.weight"].T + params["body.0.bias"])
    return hidden @ params["head.weight"].T + params["head.bias"]


def error(params, inputs, targets):
    return ((forward(params, inputs) - targets) ** 2).mean()


def descend(params, batches, task, rates, names, create_graph):
    """Gradient descent of one task on the named parameters."""
    for batch in batches:
        loss = error(params, batch.inputs[task], batch.targets[task])
        gradient = torch.autograd.grad(loss, [params[name] for name in names], create_graph=create_graph)
        step = {name: params[name] - rates[name] * grad for name, grad in zip(names, gradient, strict=True)}
        params = {**params, **step}
    return params


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def schedule(anneal_from, done, total):
    """1, then a straight line down to 0 after the last update."""
    return float(np.interp(done, [0, anneal_from * total, total], [1, 1, anneal_from == 1]))


def maml_by_loops(config, iterations):
    """Parameters and rates after some iterations: autograd for each task, torch's own Adam."""
    algorithm = MAMLRegression(config)
    model, update = algorithm.init().meta
    params = {name: leaf(value) for name, value in model.items()}
    adapted = [name for name in params if not config.adapt_only or name.startswith("head")]
    learned = {name: leaf(value) for name, value in update.items()}
    rates = {name: learned.get("lr", learned.get(f"lr.{name}")) for name in params}
    meta = [*params.values(), *(learned.values() if config.learn_inner_lr != "none" else ())]
    optimizer = torch.optim.Adam(meta, lr=config.meta_lr)
    total = config.num_iterations * config.updates_per_iteration
    sampled = [s for i in range(iterations) for s in algorithm.learner.sample(i, fresh_per_step=False)]
    for done, (batches, query) in enumerate(sampled):
        optimizer.param_groups[0]["lr"] = config.meta_lr * schedule(config.anneal_from, done, total)
        losses = []
        for task in range(config.meta_batch_size):
            moved = descend(params, batches, task, rates, adapted, create_graph=not config.first_order)
            losses.append(error(moved, query.inputs[task], query.targets[task]))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return params, learned


def run(algorithm, iterations=2):
    state = algorithm.init()
    for _ in range(iterations):
        state, _ = algorithm.step(state)
    return state


MAML_KIN = {
    "maml": dict(num_inner_steps=1),
    "two steps": dict(num_inner_steps=2),
    "fomaml": dict(first_order=True),
    "meta_sgd": dict(learn_inner_lr="per_parameter"),
    "anil": dict(adapt_only=("head.*",)),
    "learned rate": dict(learn_inner_lr="scalar", num_inner_steps=2),
    "pretrained": dict(num_inner_steps=0),
    "annealed": dict(anneal_from=0.5, num_iterations=2),
}


@pytest.mark.parametrize("kind", MAML_KIN)
def test_maml_and_its_kin_are_what_loops_over_tasks_compute(kind):
    config = MAMLRegressionConfig(**{**TINY, "meta_lr": 0.01, **MAML_KIN[kind]})
    meta = run(MAMLRegression(config)).meta
    params, learned = maml_by_loops(config, iterations=2)
    for ours, theirs in ((meta.model, params), (meta.update, learned)):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name].detach(), rtol=1e-9, atol=1e-11)


def test_first_order_is_another_gradient():
    first, second = (
        run(MAMLRegression(MAMLRegressionConfig(**TINY, first_order=flag))).meta.model for flag in (True, False)
    )
    assert max(float((first[name] - second[name]).abs().max()) for name in first) > 1e-6


def test_meta_sgd_learns_a_rate_for_each_element_and_maml_none():
    learning = MAMLRegression(MAMLRegressionConfig(**TINY, learn_inner_lr="per_parameter"))
    start, end = learning.init().meta, run(learning).meta
    assert {f"lr.{name}" for name in start.model} == set(start.update)
    assert all((end.update[name] != start.update[name]).any() for name in start.update)
    constant = MAMLRegression(MAMLRegressionConfig(**TINY))
    assert torch.equal(run(constant).meta.update["lr"], constant.init().meta.update["lr"])


def test_anil_adapts_the_last_layer_alone():
    learner = Learner(RegressionConfig(**TINY, adapt_only=("head.*",)))
    meta = learner.init()
    adapted = learner.adapt(meta, next(learner.sample(0, fresh_per_step=False)).batches, 2)
    moved = {name for name, value in adapted.items() if (value != meta.model[name]).any()}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize("anneal_from", [0.0, 0.5, 1.0])
def test_reptile_is_what_a_loop_over_tasks_computes(anneal_from):
    config = ReptileRegressionConfig(**TINY, num_inner_steps=3, meta_lr=0.25, anneal_from=anneal_from, num_iterations=2)
    algorithm = ReptileRegression(config)
    params = algorithm.init().meta.model
    rates = dict.fromkeys(params, config.inner_lr)
    sampled = [s for i in range(2) for s in algorithm.learner.sample(i, fresh_per_step=True)]
    for done, (batches, _) in enumerate(sampled):
        start = {name: leaf(value) for name, value in params.items()}
        ends = [descend(start, batches, task, rates, list(start), create_graph=False) for task in range(2)]
        step = 0.25 * schedule(anneal_from, done, total=6)
        params = {
            name: value + step * (sum(end[name].detach() for end in ends) / 2 - value) for name, value in params.items()
        }
    for name, value in run(algorithm).meta.model.items():
        torch.testing.assert_close(value, params[name].detach(), rtol=1e-9, atol=1e-11)


# --- evaluation ---


def test_the_curve_is_the_error_of_plain_gradient_descent_on_each_wave():
    learner = Learner(RegressionConfig(**TINY, eval_query_points=7))
    meta = learner.init()
    curve = learner.evaluate(meta, num_tasks=3, num_adapt_steps=2)
    assert curve.lower_is_better
    draws = generator(0, "evaluation")
    waves = learner.tasks.test_tasks(3)
    support, query = (ExampleBatch(*map(torch.as_tensor, learner.tasks.examples(waves, n, draws))) for n in (4, 7))
    for task in range(3):
        params = {name: leaf(value) for name, value in meta.model.items()}
        optimizer = torch.optim.SGD(params.values(), lr=0.05)
        for step in range(3):
            expected = error(params, query.inputs[task], query.targets[task]).item()
            assert curve.score[step, task] == pytest.approx(expected, rel=1e-12)
            optimizer.zero_grad()
            error(params, support.inputs[task], support.targets[task]).backward()
            optimizer.step()


# --- settings that cannot be ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(shots=0), "shots=0: need at least 1"),
        (dict(meta_lr=0.0), "meta_lr=0.0: need a value above 0"),
        (dict(hidden_sizes=(4, 0)), r"hidden_sizes=\(4, 0\): need at least 1 unit"),
        (dict(activation="sine"), "activation='sine': need one of 'tanh', 'relu'"),
        (dict(task="parabola"), "task='parabola': need one of sinusoid"),
        (dict(algorithm="reptile_regression"), "algorithm='reptile_regression': need one of 'maml_regression'$"),
        (
            dict(learn_inner_lr="each"),
            "learn_inner_lr='each': need one of 'none', 'scalar', 'per_step', 'per_parameter'",
        ),
        (dict(first_order="no"), "first_order='no': need one of False, True"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MAMLRegressionConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_inner_steps=0), "num_inner_steps=0: Reptile needs at least 1 step"),
        (dict(learn_inner_lr="scalar"), "learn_inner_lr='scalar': Reptile has no gradient"),
        (dict(inner_loop="learn2learn", transform="kronecker"), "transform='kronecker': Reptile has no gradient"),
    ],
)
def test_reptile_refuses_what_it_cannot_learn(change, message):
    with pytest.raises(ValueError, match=message):
        ReptileRegression(ReptileRegressionConfig(**change))


def test_a_pattern_that_names_no_parameter_is_refused_at_once():
    with pytest.raises(ValueError, match=r"adapt_only: 'last\.\*' matches no parameter"):
        MAMLRegression(MAMLRegressionConfig(**TINY, adapt_only=("last.*",)))
