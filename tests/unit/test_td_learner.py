"""TD steps against an obvious loop, one task and many, and what the target network is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from td_problem import loop_loss, make_batch, make_config, make_network, params_of

from research.algorithms.value.learner import TDLearner, as_batch
from research.policies.q_network import QNetwork
from research.sampling.replay_buffer import ReplayBuffer, Transitions
from research.tasks.grid_goals import MOVES, GridGoals, GridTasks

STEPS = 12
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def stacked(*trees):
    return {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}


def assert_close(ours, theirs):
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)


def looped(config, network, batches, dueling=False):
    """The same steps with torch's plain optimisers, gradient clipping and a copied target."""
    params = [value.requires_grad_() for value in params_of(network).values()]
    names = list(params_of(network))
    target = params_of(network)
    optimizer = OPTIMIZERS[config.inner_optimizer](params, lr=config.inner_lr)
    for step, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        now = dict(zip(names, params, strict=True))
        loop_loss(network, now, target, batch, config.double, config.td_loss).backward()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(params, config.max_grad_norm)
        optimizer.step()
        detached = {name: value.detach().clone() for name, value in now.items()}
        if config.target == "polyak":
            target = {name: old + config.polyak * (detached[name] - old) for name, old in target.items()}
        elif step % config.target_interval == 0:
            target = detached
    return detached, target


@pytest.mark.thorough
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(double=True, td_loss="mse", inner_optimizer="sgd", inner_lr=0.1),
        dict(target="polyak", polyak=0.1, inner_optimizer="adamw", max_grad_norm=0.0),
    ],
)
def test_td_steps_are_those_of_an_obvious_loop(settings, dueling):
    config = make_config(**{"target_interval": 5, "inner_lr": 1e-2, "max_grad_norm": 0.3, **settings})
    network = make_network(dueling=dueling, activation="relu")
    learner = TDLearner(config, network, params_of(network))
    batches = [make_batch(seed) for seed in range(STEPS)]
    for batch in batches:
        learner.step(batch)
    params, target = looped(config, network, batches)
    assert_close(learner.online.params(), params)
    assert_close(learner.state().target, target)


@pytest.mark.parametrize(
    "settings",
    [
        dict(target_interval=5),
        dict(target_interval=100),
        dict(target="polyak", polyak=0.1),
        dict(target="slow", lookahead_k=3, lookahead_alpha=0.5),
    ],
)
def test_minibatches_come_with_what_the_target_network_says_at_their_step(settings):
    config, network = make_config(inner_lr=0.1, **settings), make_network(activation="relu")
    learner, before = (TDLearner(config, network, params_of(network)) for _ in range(2))
    for seed in range(2):
        learner.step(make_batch(seed))
        before.step(make_batch(seed))
    together = make_batch(2, 40)
    for step, (batch, values) in enumerate(learner.minibatches(together)):
        alone = type(batch)(*(field[step] for field in together))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch, alone, strict=True))
        torch.testing.assert_close(values, learner.target.values(batch.next_observation))
        learner.step(batch, values)
        before.step(alone)
    assert step == 39
    assert_close(learner.online.params(), before.online.params())


@pytest.mark.parametrize("dueling", [False, True])
def test_tasks_learn_as_each_would_alone(dueling):
    config = make_config(target_interval=5, inner_lr=1e-2, max_grad_norm=0.3, lookahead_k=3)
    networks = [make_network(seed, dueling) for seed in range(3)]
    batches = [make_batch(seed, 3) for seed in range(STEPS)]
    together = TDLearner(config, networks[0], stacked(*map(params_of, networks)))
    errors = [together.step(batch) for batch in batches]
    for task, network in enumerate(networks):
        alone = TDLearner(config, network, params_of(network))
        for batch, error in zip(batches, errors, strict=True):
            own = alone.step(type(batch)(*(field[task] for field in batch)))
            torch.testing.assert_close(own, error[task], rtol=1e-9, atol=1e-12)
        assert_close({name: value[task] for name, value in together.online.params().items()}, alone.online.params())


def test_slow_weights_as_target_are_hard_copies_bit_for_bit_where_the_slow_step_goes_all_the_way():
    hard = make_config(target_interval=4)
    slow = make_config(target="slow", lookahead_k=4, lookahead_alpha=1.0, target_interval=1000)
    network = make_network()
    learners = [TDLearner(config, network, params_of(network)) for config in (hard, slow)]
    for seed in range(14):
        errors = [learner.step(make_batch(seed)) for learner in learners]
        assert torch.equal(*errors)
        for ours, theirs in zip(
            (learners[1].online.params(), learners[1].state().target),
            (learners[0].online.params(), learners[0].state().target),
            strict=True,
        ):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    moved = make_config(target="slow", lookahead_k=4, lookahead_alpha=0.9)
    other = TDLearner(moved, network, params_of(network))
    for seed in range(14):
        other.step(make_batch(seed))
    assert not torch.equal(other.online.params()["value.0.weight"], learners[0].online.params()["value.0.weight"])


def test_slow_weights_as_target_move_a_share_of_the_way_every_k_steps():
    config = make_config(target="slow", lookahead_k=3, lookahead_alpha=0.25, inner_optimizer="sgd", inner_lr=0.1)
    network = make_network()
    learner = TDLearner(config, network, params_of(network))
    slow = params_of(network)
    fast = slow
    for seed in range(STEPS):
        leaves = {name: value.clone().requires_grad_() for name, value in fast.items()}
        gradient = torch.autograd.grad(loop_loss(network, leaves, slow, make_batch(seed)), list(leaves.values()))
        learner.step(make_batch(seed))
        fast = {name: value - 0.1 * g for (name, value), g in zip(fast.items(), gradient, strict=True)}
        if seed % 3 == 2:
            slow = fast = {name: value + 0.25 * (fast[name] - value) for name, value in slow.items()}
        assert_close(learner.online.params(), fast)
        assert_close(learner.state().target, slow)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_row_is_as_greedy_as_among_others(activation):
    network = make_network(activation=activation)
    learner = TDLearner(make_config(inner_lr=0.1), network, params_of(network))
    seen = np.random.default_rng(0).normal(size=(50, 3))
    for seed in range(3):  # the parameters move in place
        together = learner.online.greedy(seen)
        assert len(set(together.tolist())) > 1
        assert [int(learner.online.greedy(row[None])[0]) for row in seen] == together.tolist()
        learner.step(make_batch(seed))


def test_a_learner_goes_on_from_its_state():
    config = make_config(lookahead_k=3, target_interval=4)
    network = make_network()
    learner = TDLearner(config, network, params_of(network))
    for seed in range(5):
        learner.step(make_batch(seed))
    params, state = learner.online.params(), learner.state()
    for _ in range(2):  # twice: what is handed in is left as it was
        again = TDLearner(config, network, params, state)
        for seed in range(5, 12):
            again.step(make_batch(seed))
    for seed in range(5, 12):
        learner.step(make_batch(seed))
    assert all(torch.equal(again.online.params()[name], value) for name, value in learner.online.params().items())


@pytest.mark.thorough
def test_a_table_of_a_grid_converges_to_the_exact_values():
    """One-hot cells and no hidden layer: every action of every cell, in the same batch, until nothing moves."""
    grid = GridGoals(size=4)
    goal = GridTasks(np.array([[-0.5, 0.5]]))
    cells = np.argwhere(np.ones((4, 4)))
    start, action = (part.ravel() for part in np.meshgrid(np.arange(16), np.arange(4), indexing="ij"))
    following = np.clip(cells[start] + MOVES[action], 0, 3) @ [4, 1]
    reward = (following == 6).astype(np.float32)
    is_start = start != 6
    table = np.eye(16, dtype=np.float32)
    seen = [table[start], action, reward, table[following], following == 6, following == 6]
    buffer = ReplayBuffer(60, 1, table[0], 4)
    buffer.add(Transitions(*(field[is_start][:, None] for field in seen)))
    config = make_config(
        inner_optimizer="sgd", inner_lr=4.0, td_loss="mse", max_grad_norm=0.0, discount=0.9, target_interval=1
    )
    network = QNetwork((16, 4), "relu", generator=torch.Generator().manual_seed(0)).double()
    learner = TDLearner(config, network, params_of(network))
    batch = as_batch(buffer.take(np.arange(60), 0.9), config)
    for _ in range(1500):
        error = learner.step(batch)
    values = learner.online.values(torch.eye(16, dtype=torch.float64)).amax(1).numpy()
    expected = grid.optimal_values(goal, 0.9)[0]
    np.testing.assert_allclose(np.delete(values, 6), np.delete(expected, 6), atol=1e-6)
    assert error.abs().max() < 1e-6
