"""MAML-DQN's meta-gradient against finite differences, in all that is learned."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from td_problem import make_batch, make_config
from torch.func import functional_call

from research.algorithms.outer import learned, replaced
from research.algorithms.value.maml_dqn import MAMLDQN, MAMLDQNConfig
from research.policies.q_network import QNetworkConfig
from research.td import td_loss, td_target, values_at

TASKS, STEPS, H = 2, 3, 1e-5


def make(**settings):
    """On a task with as many observations and actions as the minibatches have."""
    given = dict(
        task="tabular_mdp",
        task_args={"num_states": 3, "num_actions": 4},
        network=QNetworkConfig((6, 5), "tanh"),
        inner_lr=0.3,
        num_inner_steps=STEPS,
        learn_inner_lr="scalar",
        num_eval_tasks=2,
        td_loss="mse",
    )
    return MAMLDQN(make_config(MAMLDQNConfig, **{**given, **settings}))


def one_task(tree, task):
    return type(tree)(*(field[task] for field in tree))


def values(network, params, observation):
    return functional_call(network, params, (observation,))


def adapted(algorithm, meta, batches, targets, task):
    """Inner steps of one task with these targets, by hand; also the targets that the network would have set itself."""
    config, network, params = algorithm.config, algorithm.network, meta.model
    slow, own = params, []
    for step, batch in enumerate(batches):
        batch = one_task(batch, task)
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        own.append(td_target(batch, values(network, leaves, batch.next_observation).detach()))
        target = own[-1] if targets is None else targets[step]
        error = values_at(values(network, leaves, batch.observation), batch.action) - target
        gradient = torch.autograd.grad(td_loss(error, batch.weight, config.td_loss), list(leaves.values()))
        rate = {name: meta.update.get("lr", meta.update.get(f"lr.{name}")) for name in params}
        params = {n: v - rate[n] * g for (n, v), g in zip(params.items(), gradient, strict=True)}
        if config.lookahead_k and (step + 1) % config.lookahead_k == 0:
            alpha = meta.update["lookahead_alpha"]
            slow = params = {name: slow[name] + alpha * (value - slow[name]) for name, value in params.items()}
    return params, own


def loss_by_hand(algorithm, meta, batches, query, target, inner_targets):
    losses = []
    for task in range(TASKS):
        params, _ = adapted(algorithm, meta, batches, inner_targets[task], task)
        own = one_task(query, task)
        error = values_at(values(algorithm.network, params, own.observation), own.action) - target[task]
        losses.append(td_loss(error, own.weight, algorithm.config.td_loss))
    return float(torch.stack(losses).mean())


def directional(function, meta, config, direction):
    """Central difference along a direction in all that is learned."""
    ends = []
    for sign in (1, -1):
        moved = {name: value + sign * H * direction[name] for name, value in learned(meta, config).items()}
        ends.append(function(replaced(meta, moved)))
    return (ends[0] - ends[1]) / (2 * H)


@pytest.mark.parametrize("inner_loop", ["func", "higher"])
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(learn_inner_lr="per_parameter"),
        dict(lookahead_k=2, lookahead_alpha=0.6, learn_lookahead_alpha=True),
        dict(network=QNetworkConfig((6, 5), "tanh", dueling=True), td_loss="huber", target_steps=2),
    ],
)
def test_the_meta_gradient_is_the_derivative_with_the_targets_held(settings, inner_loop):
    algorithm = make(inner_loop=inner_loop, **settings)
    meta = algorithm.init().meta
    batches = [make_batch(seed, TASKS) for seed in range(STEPS)]
    query, target = make_batch(99, TASKS), make_batch(98, TASKS).reward
    gradient, error = algorithm.gradient(meta, batches, query, target)
    inner_targets = [adapted(algorithm, meta, batches, None, task)[1] for task in range(TASKS)]
    function = functools.partial(
        loss_by_hand, algorithm, batches=batches, query=query, target=target, inner_targets=inner_targets
    )
    generator = torch.Generator().manual_seed(0)
    parts = (
        [gradient.keys()] if "lookahead_k" not in settings else [["update.lookahead_alpha"], ["update.lr"], gradient]
    )
    for part in parts:
        direction = {
            name: torch.randn(value.shape, generator=generator, dtype=value.dtype) * (name in part)
            for name, value in gradient.items()
        }
        expected = directional(function, meta, algorithm.config, direction)
        ours = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
        assert ours == pytest.approx(expected, rel=1e-6, abs=1e-10)
        assert abs(expected) > 1e-6
    losses = td_loss(error, query.weight, algorithm.config.td_loss)
    assert float(losses.mean()) == pytest.approx(function(meta), rel=1e-9)


def test_the_first_order_gradient_is_another_one():
    batches, query = [make_batch(seed, TASKS) for seed in range(STEPS)], make_batch(99, TASKS)
    gradients = []
    for first_order in (False, True):
        algorithm = make(first_order=first_order, learn_inner_lr="none")
        gradients.append(algorithm.gradient(algorithm.init().meta, batches, query, query.reward)[0])
    name = "model.value.2.weight"
    assert (gradients[0][name] - gradients[1][name]).norm() > 0.01 * gradients[0][name].norm()


@pytest.mark.parametrize("steps", [0, 2])
def test_the_target_is_that_of_a_network_so_many_steps_ahead(steps):
    algorithm = make(target_steps=steps)
    meta = algorithm.init().meta
    batches, query = [make_batch(seed, TASKS) for seed in range(STEPS + steps)], make_batch(99, TASKS)
    target = algorithm.target(meta, batches, query)
    for task in range(TASKS):
        params, _ = adapted(algorithm, meta, batches, None, task)
        own = one_task(query, task)
        expected = td_target(own, values(algorithm.network, params, own.next_observation))
        torch.testing.assert_close(target[task], expected)


def test_a_step_uses_what_it_says():
    algorithm = make(meta_batch_size=3, adapt_transitions=8, target_steps=1)
    start = algorithm.init()
    state, metrics = algorithm.step(start)
    assert metrics["env_steps"] == 3 * 2 * 8 and metrics["td_steps"] == STEPS
    again = MAMLDQN(dataclasses.replace(algorithm.config, target_steps=0)).step(start).state
    assert not torch.equal(again.meta.model["value.0.weight"], state.meta.model["value.0.weight"])


@pytest.mark.parametrize(
    ("settings", "share"), [(dict(target="polyak", polyak=0.25), 0.25), (dict(target="hard"), 0.0)]
)
def test_targets_come_from_a_slow_copy_of_what_is_learned(settings, share):
    algorithm = make(meta_batch_size=2, adapt_transitions=8, target_interval=2, **settings)
    start = algorithm.init()
    first, _ = algorithm.step(start)
    for name, value in first.target.model.items():
        expected = start.meta.model[name] + share * (first.meta.model[name] - start.meta.model[name])
        torch.testing.assert_close(value, expected)
    elsewhere = first._replace(target=first.meta)
    ours, theirs = (algorithm.step(state).state for state in (first, elsewhere))
    assert not torch.equal(ours.meta.model["value.0.weight"], theirs.meta.model["value.0.weight"])
    if "polyak" not in settings:
        assert all(torch.equal(ours.target.model[name], value) for name, value in ours.meta.model.items())
