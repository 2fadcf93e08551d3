"""Lookahead-DQN as a whole: what it learns where the values are known, what it refuses, and that it stays pure."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from research import rng
from research.algorithms.outer import initial_params
from research.algorithms.value.learner import FlatNetwork, TDLearner
from research.algorithms.value.lookahead_dqn import ExplorationConfig, LookaheadDQN, LookaheadDQNConfig, ReplayConfig
from research.algorithms.value.maml_dqn import MAMLDQNConfig
from research.algorithms.value.reptile_dqn import ReptileDQN, ReptileDQNConfig
from research.per_task import expand
from research.policies.q_network import QNetworkConfig

DISCOUNT = 0.9


class Corridor(gymnasium.Env):
    """Always the same place, reward 1 a step; action 1 terminates, action 0 goes on until the time is up."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), 1.0, bool(action), False, {}


@pytest.fixture
def corridor():
    gymnasium.register("Corridor-v0", entry_point=Corridor)
    yield dict(task="gym_env", task_args={"env_id": "Corridor-v0"}, horizon=4)
    del gymnasium.registry["Corridor-v0"]


def make(**settings):
    given = dict(
        network=QNetworkConfig((5,)),
        horizon=20,
        batch_size=8,
        learning_starts=10,
        train_freq=10,
        gradient_steps=5,
        phases_per_iteration=2,
        rows_per_task=2,
        replay=ReplayConfig(100),
        num_iterations=10,
    )
    return LookaheadDQN(LookaheadDQNConfig(**{**given, **settings}))


def trained(algorithm, iterations):
    state = algorithm.init()
    for _ in range(iterations):
        state, _ = algorithm.step(state)
    return state


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [dict(), dict(double=True, replay=ReplayConfig(2000, priority_exponent=0.5))])
def test_what_follows_a_truncation_counts_and_what_follows_a_termination_does_not(corridor, settings):
    """Q(·, on) = 1/(1 − γ) although every episode is cut after 4 steps; Q(·, end) = 1."""
    algorithm = make(
        **corridor,
        discount=DISCOUNT,
        inner_lr=0.05,
        td_loss="mse",
        target="polyak",
        polyak=0.2,
        gradient_steps=40,
        exploration=ExplorationConfig(start=0.5, end=0.5),
        **settings,
    )
    state = trained(algorithm, 15)
    values = FlatNetwork(algorithm.network, state.meta.model).values(torch.ones(1, 1))[0]
    np.testing.assert_allclose(values, [1 / (1 - DISCOUNT), 1.0], atol=0.1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [
        dict(exploration=ExplorationConfig("exponential"), n_step=3, double=True),
        dict(
            target="slow", lookahead_k=3, lookahead_inner_state="pullback", network=QNetworkConfig((5,), dueling=True)
        ),
        dict(replay=ReplayConfig(23, priority_exponent=0.6), inner_optimizer="sgd"),
    ],
)
def test_a_step_is_a_function_of_the_state_in_every_form(settings):
    algorithm = make(**settings)
    state = trained(algorithm, 2)
    leaves = [leaf.clone() for leaf in pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    first, again = algorithm.step(state).state, make(**settings).step(state).state
    pairs = zip(pytree.tree_leaves(first), pytree.tree_leaves(again), strict=True)
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
    after = [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(leaves, after, strict=True))


def test_reptile_goes_towards_the_mean_of_where_tasks_lead():
    config = ReptileDQNConfig(
        task="grid_goals",
        horizon=9,
        network=QNetworkConfig((5,)),
        batch_size=6,
        target_interval=3,
        num_inner_steps=4,
        meta_lr=0.3,
        meta_batch_size=3,
        rows_per_task=2,
        adapt_transitions=20,
        num_eval_tasks=2,
        num_iterations=10,
    )
    algorithm = ReptileDQN(config)
    state = algorithm.init()._replace(iteration=5)
    tasks = algorithm.tasks.sample(3, rng.generator(config.seed, "tasks", 5))
    buffer = algorithm.collect_transitions(tasks, state.meta.model, "transitions", 5)
    batches = algorithm.minibatches(buffer, "minibatches", 5)
    learners = [TDLearner(config, algorithm.network, initial_params(algorithm.network)) for _ in range(3)]
    for _ in range(4):
        batch = next(batches)
        for task, learner in enumerate(learners):
            learner.step(type(batch)(*(field[task] for field in batch)))
    following, metrics = algorithm.step(state)
    for name, start in state.meta.model.items():
        mean = sum(learner.online.params()[name] for learner in learners) / 3
        expected = start + 0.15 * (mean - start)  # half of the training is over
        torch.testing.assert_close(following.meta.model[name], expected, rtol=1e-4, atol=1e-6)
    assert metrics["env_steps"] == 60


def test_transitions_of_a_task_are_its_own_and_least_tried_actions_leave_few_out():
    unseen = {}
    for kind in ("random", "least_tried"):
        config = ReptileDQNConfig(task="grid_goals", horizon=20, num_eval_tasks=2, adapt_actions=kind, rows_per_task=4)
        algorithm = ReptileDQN(config)
        grid, params = algorithm.tasks, initial_params(algorithm.network)
        tasks = grid.sample(5, rng.generator(0, "test"))
        buffer = algorithm.collect_transitions(tasks, params, "test")
        seen = buffer.take(np.arange(len(buffer)).reshape(50, 5, 4), 0.9)
        arrived = seen.next_observation.argmax(-1) == (grid.cells(tasks) @ [5, 1])[:, None]
        np.testing.assert_array_equal(seen.reward, arrived)
        pairs = seen.observation.argmax(-1) * 4 + seen.action
        unseen[kind] = np.mean([96 - len(np.unique(pairs[:, task])) for task in range(5)])
    assert unseen["least_tried"] < 5 < 12 < unseen["random"]
    batch = next(algorithm.minibatches(buffer, "test"))
    assert batch.observation.shape == (5, 64, 25)


def test_epsilon_goes_from_start_to_end():
    config = ExplorationConfig("linear", start=1.0, end=0.2, fraction=0.4)
    np.testing.assert_allclose(config.epsilon(np.array([0, 0.1, 0.2, 0.4, 1.0])), [1.0, 0.8, 0.6, 0.2, 0.2])
    falling = dataclasses.replace(config, schedule="exponential", end=0.01)
    np.testing.assert_allclose(falling.epsilon(np.array([0, 0.2, 0.4, 0.9])), [1.0, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(task="navigation_2d"), "action space Box.*: need Discrete"),
        (dict(batch_size=200), "batch_size=200: need at most 20, what the replay buffer holds at the first TD step"),
        (dict(replay=ReplayConfig(1)), "buffer_size=1: need at least 2"),
        (dict(lookahead_alpha=2.0), "lookahead_alpha=2.0: need a value above 0, at most 1"),
        (dict(lookahead_k=-1), "lookahead_k=-1: need at least 0"),
        (dict(target="slow"), "target='slow': need lookahead_k of at least 1"),
        (dict(target="soft"), "target='soft': need one of 'hard', 'polyak', 'slow'"),
        (dict(inner_lr=0.0), "inner_lr=0.0: need a value above 0"),
        (dict(inner_optimizer="lion"), "inner_optimizer='lion': need one of 'sgd', 'adam', 'adamw'"),
        (dict(exploration=ExplorationConfig("exponential"), polyak=0.0), "polyak=0.0: need a value above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: ExplorationConfig("sometimes"), "schedule='sometimes': need one of"),
        (lambda: ExplorationConfig("exponential", end=0.0), "end=0.0: need values above 0 with schedule='exponential'"),
        (lambda: MAMLDQNConfig(target="slow"), "target='slow': need one of 'hard', 'polyak'"),
        (lambda: MAMLDQNConfig(learn_inner_lr="per_parameter", inner_lr=(0.1, 0.2)), "starts from one rate"),
        (lambda: ReptileDQNConfig(num_inner_steps=0), "num_inner_steps=0: need at least 1"),
        (lambda: ReptileDQNConfig(adapt_transitions=10), "adapt_transitions=10: need a multiple of rows_per_task=4"),
    ],
)
def test_other_settings_that_cannot_be_are_refused(make_config, message):
    with pytest.raises(ValueError, match=message):
        make_config()


def test_parameters_that_are_expanded_are_not_shared():
    config = ReptileDQNConfig(task="grid_goals", horizon=9, num_eval_tasks=2)
    algorithm = ReptileDQN(config)
    learner = TDLearner(config, algorithm.network, expand(initial_params(algorithm.network), 3))
    before = learner.online.params()
    assert all(value.shape[0] == 3 for value in before.values())
    with torch.no_grad():
        next(learner.online.module.parameters())[0] += 1.0
    moved = learner.online.params()["value.0.weight"] - before["value.0.weight"]
    np.testing.assert_allclose(moved[0], 1.0, rtol=1e-5)
    assert not moved[1:].any()
