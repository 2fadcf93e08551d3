"""Twin of our DQN on CartPole-v1: environment, replay buffer and TD steps under one jit.

    4 times: 256 ε-greedy steps of one environment into the buffer; then 128 times, once there are 1,000 transitions:
        θ ← Adam(θ, clipped ∇ mean huber(Q(s, a; θ) − r − γ max_a' Q(s', a'; θ̄)));  θ̄ ← θ every 128 TD steps

The same steps as research/algorithms/value/lookahead_dqn.py with its default settings, those of rl-baselines3-zoo; only
the random numbers differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_parts import Tree, adam, adam_start, clipped, difference, glorot, main

CAPACITY, LEARNING_STARTS, BATCH, TARGET_INTERVAL = 100_000, 1000, 64, 128
PHASES, STEPS, TD_STEPS, HORIZON = 4, 256, 128, 500
DISCOUNT, LEARNING_RATE, MAX_GRAD_NORM = 0.99, 2.3e-3, 10.0
EPSILON_END, EPSILON_STEPS = 0.04, 8028  # 0.16 of 49 iterations of 1,024 steps


class Batch(NamedTuple):
    """Transitions, `[batch, ...]`; the reward is always 1."""

    observation: Tree
    action: Tree
    following: Tree
    terminated: Tree


def initial_params(key: Tree) -> Tree:
    """Returns a relu network 4 → 256 → 256 → 2."""
    sizes = [(4, 256), (256, 256), (256, 2)]
    keys = jax.random.split(key, len(sizes))
    return [(glorot(k, *size, fan=sum(size)), jnp.zeros(size[1])) for k, size in zip(keys, sizes, strict=True)]


def values(params: Tree, observation: Tree) -> Tree:
    """Returns Q(s, ·)."""
    *hidden, (weight, bias) = params
    for inner_weight, inner_bias in hidden:
        observation = jax.nn.relu(observation @ inner_weight + inner_bias)
    return observation @ weight + bias


def move(state: Tree, action: Tree) -> tuple[Tree, Tree]:
    """Returns the next state of the cart and its pole, and whether the episode terminates (Gymnasium's CartPole-v1)."""
    place, speed, angle, turn = jnp.moveaxis(state, -1, 0)
    force, cosine, sine = jnp.where(action == 1, 10.0, -10.0), jnp.cos(angle), jnp.sin(angle)
    push = (force + 0.05 * turn**2 * sine) / 1.1
    turn_change = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    speed_change = push - 0.05 * turn_change * cosine / 1.1
    moved = [place + 0.02 * speed, speed + 0.02 * speed_change, angle + 0.02 * turn, turn + 0.02 * turn_change]
    fell = (jnp.abs(moved[0]) > 2.4) | (jnp.abs(moved[2]) > 12 * 2 * jnp.pi / 360)
    return jnp.stack(moved, -1), fell


def collect(params: Tree, world: Tree, key: Tree) -> tuple[Tree, Tree]:
    """Returns buffer, number of steps, state and length of the episode after 256 steps; and the finished lengths."""

    def act(world: Tree, key: Tree) -> Tree:
        buffer, count, state, length = world
        explore_key, action_key, start_key = jax.random.split(key, 3)
        epsilon = jnp.maximum(EPSILON_END, 1 - (1 - EPSILON_END) * count / EPSILON_STEPS)
        random_action = jax.random.randint(action_key, (), 0, 2)
        explores = jax.random.uniform(explore_key) < epsilon
        action = jnp.where(explores, random_action, values(params, state).argmax())
        following, fell = move(state, action)
        row = Batch(state, action, following, fell.astype(state.dtype))
        buffer = jax.tree.map(lambda column, value: column.at[count % CAPACITY].set(value), buffer, row)
        ended = fell | (length + 1 >= HORIZON)
        start = jax.random.uniform(start_key, (4,), minval=-0.05, maxval=0.05)
        world = buffer, count + 1, jnp.where(ended, start, following), jnp.where(ended, 0, length + 1)
        return world, (ended, length + 1)

    return jax.lax.scan(act, world, jax.random.split(key, STEPS))


def td_step(params: Tree, target: Tree, optimizer: Tree, batch: Batch) -> tuple[Tree, Tree]:
    """Returns parameters and optimiser after one TD step."""
    wanted = 1.0 + DISCOUNT * (1 - batch.terminated) * values(target, batch.following).max(-1)

    def loss(params: Tree) -> Tree:
        own = jnp.take_along_axis(values(params, batch.observation), batch.action[:, None], 1)[:, 0]
        size = jnp.abs(own - wanted)
        return jnp.where(size < 1, size**2 / 2, size - 0.5).mean()

    return adam(params, clipped(jax.grad(loss)(params), MAX_GRAD_NORM, 1e-6), optimizer, LEARNING_RATE)


def learn(learner: Tree, buffer: Batch, count: Tree, key: Tree) -> Tree:
    """Returns parameters, target and optimiser after 128 TD steps on random minibatches."""

    def step(learner: Tree, key: Tree) -> Tree:
        params, target, optimizer = learner
        index = jax.random.randint(key, (BATCH,), 0, jnp.minimum(count, CAPACITY))
        params, optimizer = td_step(params, target, optimizer, jax.tree.map(lambda column: column[index], buffer))
        copies = optimizer[0] % TARGET_INTERVAL == 0
        target = jax.lax.cond(copies, lambda: params, lambda: target)
        return (params, target, optimizer), None

    return jax.lax.scan(step, learner, jax.random.split(key, TD_STEPS))[0]


def prepare(options: argparse.Namespace) -> Callable[[], float]:
    """Returns an iteration of 1,024 environment steps, which returns the mean length of the episodes that ended."""

    def phase(state: Tree, key: Tree) -> Tree:
        learner, world = state
        act_key, learn_key = jax.random.split(key)
        world, finished = collect(learner[0], world, act_key)
        buffer, count, *_ = world
        ready = count >= LEARNING_STARTS
        learner = jax.lax.cond(ready, lambda: learn(learner, buffer, count, learn_key), lambda: learner)
        return (learner, world), finished

    @jax.jit
    def iteration(state: Tree, key: Tree) -> Tree:
        state, (ended, length) = jax.lax.scan(phase, state, jax.random.split(key, PHASES))
        return state, (ended * length).sum() / ended.sum()

    key = jax.random.PRNGKey(options.seed)
    params = initial_params(key)
    numbers = jnp.zeros(CAPACITY)
    buffer = Batch(jnp.zeros((CAPACITY, 4)), jnp.zeros(CAPACITY, jnp.int32), jnp.zeros((CAPACITY, 4)), numbers)
    zero = jnp.zeros((), jnp.int32)
    state = (params, params, adam_start(params)), (buffer, zero, jnp.zeros(4), zero)
    compiled = iteration.lower(state, key).compile()
    number = 0

    def iterate() -> float:
        nonlocal state, number
        number += 1
        state, value = jax.block_until_ready(compiled(state, jax.random.fold_in(key, number)))
        return float(value)

    return iterate


def check(record: dict[str, Any]) -> dict[str, float]:
    """Returns the relative differences of environment and TD steps from a record of ours."""
    field = {name: record[f"transitions.{name}"] for name in ("observation", "action", "next_observation")}
    following, fell = move(jnp.asarray(field["observation"], jnp.float64), field["action"])
    wrong = fell != record["transitions.terminated"]
    before, after = params_of(record, "before"), params_of(record, "after")
    names = ("observation", "action", "next_observation", "bootstrap")
    observation, action, next_observation, bootstrap = (jnp.asarray(record[f"batches.{name}"]) for name in names)
    batches = Batch(observation, action, next_observation, 1 - bootstrap / DISCOUNT)

    def step(learner: Tree, batch: Batch) -> Tree:
        return td_step(learner[0], before, learner[1], batch), None

    (moved, _), _ = jax.lax.scan(step, (before, adam_start(before)), batches)
    return {
        "state": difference(field["next_observation"], following),
        "terminated": float(wrong.sum()),
        "update": difference(jax.tree.map(jnp.subtract, after, before), jax.tree.map(jnp.subtract, moved, before)),
    }


def params_of(record: dict[str, Any], when: str) -> Tree:
    """Returns our parameters in the form of this file."""
    layers = [(record[f"{when}.value.{i}.weight"].T, record[f"{when}.value.{i}.bias"]) for i in (0, 2, 4)]
    return jax.tree.map(jnp.asarray, layers)


if __name__ == "__main__":
    main(prepare, check, {"seed": 0})
