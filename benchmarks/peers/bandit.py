"""Twin of our RL² on bandits: a whole iteration under one jit, the trials split over the cores.

    means ~ U[0, 1]^arms;  trials of n pulls of π_θ, whose GRU reads the last action and the last reward
    V_t = m_t + σ_t v_θ with the running moments of the return from each pull on;  A ← GAE
    3 epochs of 4 minibatches: θ ← Adam(θ, clipped ∇f), f = −mean min(ρ A, clip(ρ) A) − c_H mean H + c_v ½ mean (v − y)²

The same steps as research/algorithms/memory/rl2.py with its default settings, and those of the first iteration for what
changes during training (step size, entropy bonus); only the random numbers differ.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_parts import Tree, adam, adam_start, clipped, difference, glorot, main, split_over_devices

ARMS = 5
GAE_LAMBDA, CLIP_EPS, ENTROPY_COEF, VALUE_COEF = 0.3, 0.2, 0.01, 0.5
LEARNING_RATE, MAX_GRAD_NORM, EPOCHS, MEMORY = 3e-3, 0.5, 3, 0.9


class Params(NamedTuple):
    """Weights of the GRU (gates r, z, n side by side) and of the heads of actions and value."""

    weight_input: Tree
    bias_input: Tree
    weight_hidden: Tree
    bias_hidden: Tree
    action_weight: Tree
    action_bias: Tree
    value_weight: Tree
    value_bias: Tree


class Steps(NamedTuple):
    """The steps of some trials as the loss reads them, `[time, trials, ...]`."""

    inputs: Tree
    action: Tree
    log_prob: Tree
    advantage: Tree
    target: Tree


def initial_params(key: Tree, size: int) -> Params:
    """Returns Glorot weights, orthogonal ones between the states, and small ones of the actions."""
    keys, features = jax.random.split(key, 6), ARMS + 3
    orthogonal = jnp.concatenate([jax.random.orthogonal(own, size) for own in keys[:3]], 1)
    return Params(
        glorot(keys[3], features, 3 * size, fan=features + size),
        jnp.zeros(3 * size),
        orthogonal,
        jnp.zeros(size),
        glorot(keys[4], size, ARMS, fan=size + ARMS, scale=0.01),
        jnp.zeros(ARMS),
        glorot(keys[5], size, 1, fan=size + 1),
        jnp.zeros(1),
    )


def next_state(params: Params, state: Tree, gates: Tree) -> Tree:
    """Returns the state of the GRU after a step with these projected inputs."""
    size = state.shape[-1]
    product = state @ params.weight_hidden
    reset, keep = jnp.split(jax.nn.sigmoid(gates[:, : 2 * size] + product[:, : 2 * size]), 2, 1)
    new = jnp.tanh(gates[:, 2 * size :] + reset * (product[:, 2 * size :] + params.bias_hidden))
    return new + keep * (state - new)


def heads(params: Params, state: Tree) -> tuple[Tree, Tree]:
    """Returns the log-probabilities of all actions, and the value."""
    log_probs = jax.nn.log_softmax(state @ params.action_weight + params.action_bias)
    return log_probs, (state @ params.value_weight + params.value_bias)[..., 0]


def taken(values: Tree, action: Tree) -> Tree:
    """Returns the value of each action."""
    return jnp.take_along_axis(values, action[..., None], -1)[..., 0]


def collect(params: Params, means: Tree, key: Tree, pulls: int) -> Tree:
    """Returns inputs, actions, log-probabilities, values and rewards of trials, `[time, trials, ...]`."""
    trials = len(means)

    def pull(carried: Tree, key: Tree) -> Tree:
        state, inputs = carried
        state = next_state(params, state, inputs @ params.weight_input + params.bias_input)
        log_probs, value = heads(params, state)
        action_key, reward_key = jax.random.split(key)
        action = jax.random.categorical(action_key, log_probs)
        reward = (jax.random.uniform(reward_key, (trials,)) < taken(means, action)).astype(state.dtype)
        observation, ended = jnp.zeros((trials, 1)), jnp.ones((trials, 1))
        following = jnp.concatenate([observation, jax.nn.one_hot(action, ARMS), reward[:, None], ended], 1)
        return (state, following), (inputs, action, taken(log_probs, action), value, reward)

    start = jnp.zeros((trials, params.bias_hidden.size)), jnp.zeros((trials, ARMS + 3))
    return jax.lax.scan(pull, start, jax.random.split(key, pulls))[1]


def process(sampled: Tree, moments: Tree) -> tuple[Steps, Tree]:
    """Returns the steps with advantages and targets, and the running moments of the returns (weight, mean, square)."""
    inputs, action, log_prob, values, reward = sampled
    returns = jnp.cumsum(reward[::-1], 0)[::-1]
    new = jnp.ones(len(returns)), returns.mean(1), (returns**2).mean(1)
    moments = jax.tree.map(lambda old, now: MEMORY * old + (1 - MEMORY) * now, moments, new)
    mean = moments[1] / moments[0]
    std = jnp.maximum(jnp.sqrt(jnp.maximum(moments[2] / moments[0] - mean**2, 0)), 1e-3)
    value = mean[:, None] + std[:, None] * values

    def estimate(carried: Tree, step: Tree) -> Tree:
        running, following = carried
        own_reward, own_value = step
        advantage = own_reward + following - own_value + GAE_LAMBDA * running
        return (advantage, own_value), advantage

    zeros = jnp.zeros_like(value[0])
    _, advantage = jax.lax.scan(estimate, (zeros, zeros), (reward, value), reverse=True)
    target = (advantage + value - mean[:, None]) / std[:, None]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    return Steps(inputs, action, log_prob, advantage, target), moments


def loss(params: Params, steps: Steps) -> Tree:
    """Returns PPO's loss with the value's and the entropy bonus."""
    gates = steps.inputs @ params.weight_input + params.bias_input

    def step(state: Tree, own: Tree) -> Tree:
        state = next_state(params, state, own)
        return state, state

    start = jnp.zeros((gates.shape[1], params.bias_hidden.size), gates.dtype)
    log_probs, value = heads(params, jax.lax.scan(step, start, gates)[1])
    ratio = jnp.exp(taken(log_probs, steps.action) - steps.log_prob)
    bounded = jnp.clip(ratio, 1 - CLIP_EPS, 1 + CLIP_EPS)
    policy = -jnp.minimum(ratio * steps.advantage, bounded * steps.advantage).mean()
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
    return policy - ENTROPY_COEF * entropy + VALUE_COEF * ((value - steps.target) ** 2).mean() / 2


def update(
    params: Params, optimizer: Tree, steps: Steps, minibatches: int, split: Callable[[Tree], Tree] = lambda tree: tree
) -> tuple[Params, Tree]:
    """Returns parameters and optimiser after all epochs; minibatches are consecutive trials.

    Args:
        params: The parameters.
        optimizer: State of Adam.
        steps: Steps of all trials.
        minibatches: Number of minibatches.
        split: Function that places the first axis of a tree, the trials of a minibatch, on the devices.
    """

    def cut(leaf: Tree) -> Tree:  # [time, trials, ...] → [minibatches, time, trials, ...]
        rows = split(leaf.swapaxes(0, 1).reshape(minibatches, -1, len(leaf), *leaf.shape[2:]).swapaxes(0, 1))
        return jnp.moveaxis(rows, (1, 2), (0, 1))

    batches = jax.tree.map(cut, steps)

    def descend(carried: Tree, batch: Steps) -> Tree:
        params, optimizer = carried
        gradient = clipped(jax.grad(loss)(params, batch), MAX_GRAD_NORM)
        return adam(params, gradient, optimizer, LEARNING_RATE), None

    def epoch(carried: Tree, _: None) -> Tree:
        return jax.lax.scan(descend, carried, batches)

    return jax.lax.scan(epoch, (params, optimizer), None, length=EPOCHS)[0]


def prepare(options: argparse.Namespace) -> Callable[[], float]:
    """Returns an iteration, which returns the mean return of a trial."""
    split = split_over_devices(options.trials // options.minibatches)

    @jax.jit
    def iteration(params: Params, optimizer: Tree, moments: Tree, key: Tree) -> Tree:
        task_key, key = jax.random.split(key)
        means = split(jax.random.uniform(task_key, (options.trials, ARMS)))
        sampled = collect(params, means, key, options.pulls)
        steps, moments = process(sampled, moments)
        params, optimizer = update(params, optimizer, steps, options.minibatches, split)
        return params, optimizer, moments, sampled[-1].sum(0).mean()

    key = jax.random.PRNGKey(options.seed)
    params = initial_params(key, options.hidden)
    state: list[Tree] = [params, adam_start(params), tuple(jnp.zeros(options.pulls) for _ in range(3))]
    compiled = iteration.lower(*state, key).compile()
    number = 0

    def iterate() -> float:
        nonlocal number
        number += 1
        *state[:], value = jax.block_until_ready(compiled(*state, jax.random.fold_in(key, number)))
        return float(value)

    return iterate


def check(record: dict[str, Any]) -> dict[str, float]:
    """Returns the relative differences of advantages, targets and update from a record of ours."""
    steps = Steps(*(jnp.swapaxes(record[f"steps.{field}"], 0, 1) for field in Steps._fields))
    before, after = params_of(record, "before"), params_of(record, "after")
    reward, value = (jnp.asarray(record[f"trials.{name}"].T) for name in ("reward", "value"))
    zeros = jnp.zeros(len(reward))
    processed, _ = process((steps.inputs, steps.action, steps.log_prob, value, reward), (zeros, zeros, zeros))
    run = jax.jit(functools.partial(update, minibatches=int(record["minibatches"])))
    moved, _ = run(before, adam_start(before), steps)
    return {
        "advantage": difference(steps.advantage, processed.advantage),
        "target": difference(steps.target, processed.target),
        "update": difference(jax.tree.map(jnp.subtract, after, before), jax.tree.map(jnp.subtract, moved, before)),
    }


def params_of(record: dict[str, Any], when: str) -> Params:
    """Returns our parameters in the form of this file."""
    names = [*(f"body.{name}" for name in Params._fields[:4]), *Params._fields[4:]]
    return Params(*(jnp.asarray(record[f"{when}.{name}"].T) for name in names))


if __name__ == "__main__":
    main(prepare, check, {"trials": 1000, "pulls": 100, "minibatches": 4, "hidden": 64, "seed": 0})
