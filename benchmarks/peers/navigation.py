"""Twin of our MAML-TRPO on 2D navigation: a whole iteration under one jit, the tasks vmapped and split over the cores.

    goals ~ U[-½, ½]²;  D_i ← episodes of π_θ;  θ_i ← θ − α ∇L(θ; D_i);  D'_i ← episodes of π_θi
    g ← ∇ mean_i surrogate(θ_i(θ); D'_i);  x ← 10 iterations of conjugate gradient on (JᵀFJ + damping) x = g
    θ ← θ − β √(2δ / xᵀ(F + damping)x) x, with β = 1, 0.8, 0.64, … until the surrogate falls and KL ≤ δ

The same steps as research/algorithms/gradient/maml_trpo.py, which explains them, with the settings of the named
config `navigation_2d`; only the random numbers differ. A product JᵀFJ v is a jvp and a vjp of θ → action distributions.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from benchmarks.peers.jax_parts import Tree, difference, glorot, main, split_over_devices

DISCOUNT, GAE_LAMBDA, INNER_LR = 0.99, 0.9, 0.5
MAX_KL, DAMPING, CG_ITERATIONS, SHRINK, LINE_SEARCH_STEPS = 0.01, 1e-5, 10, 0.8, 15


class Batch(NamedTuple):
    """Processed steps of one task, `[steps, ...]`: time by time, those of all episodes."""

    observation: Tree
    action: Tree
    advantage: Tree
    log_prob: Tree
    valid: Tree


def initial_params(key: Tree, hidden: int) -> Tree:
    """Returns a tanh network 2 → hidden → hidden → 2 for the mean, and the log standard deviation."""
    sizes = [(2, hidden), (hidden, hidden), (hidden, 2)]
    keys = jax.random.split(key, len(sizes))
    layers = [(glorot(k, *size, fan=sum(size)), jnp.zeros(size[1])) for k, size in zip(keys, sizes, strict=True)]
    (weight, bias) = layers.pop()
    return [*layers, (0.01 * weight, bias)], jnp.zeros(2)


def distribution(params: Tree, observation: Tree) -> Tree:
    """Returns mean and log standard deviation of the actions."""
    *hidden, (weight, bias) = params[0]
    for inner_weight, inner_bias in hidden:
        observation = jnp.tanh(observation @ inner_weight + inner_bias)
    return observation @ weight + bias, params[1]


def log_prob(normal: Tree, action: Tree) -> Tree:
    """Returns the log-probability of each action, summed over its two dimensions."""
    mean, log_std = normal
    return (-0.5 * ((action - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)


def move(position: Tree, action: Tree, goal: Tree) -> tuple[Tree, Tree, Tree]:
    """Returns the next position, the reward and whether the goal is reached."""
    position = position + 0.1 * jnp.clip(action, -1, 1)
    offset = position - goal
    return position, -jnp.sqrt((offset**2).sum(-1)), (jnp.abs(offset) < 0.01).all(-1)


class Episodes(NamedTuple):
    """Sampled episodes of one task, `[time, episodes, ...]`, and the last position, `[episodes, 2]`."""

    observation: Tree
    action: Tree
    reward: Tree
    terminated: Tree
    valid: Tree
    last: Tree


def sample(params: Tree, goal: Tree, key: Tree, episodes: int, horizon: int) -> Episodes:
    """Returns episodes of one task."""

    def step(state: Tree, key: Tree) -> Tree:
        position, done = state
        mean, log_std = distribution(params, position)
        action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        following, reward, reached = move(position, action, goal)
        following = jnp.where(done[:, None], position, following)
        outcome = (position, action, jnp.where(done, 0.0, reward), reached & ~done, ~done)
        return (following, done | reached), outcome

    start = (jnp.zeros((episodes, 2)), jnp.zeros(episodes, bool))
    (last, _), steps = jax.lax.scan(step, start, jax.random.split(key, horizon))
    observation, actions, reward, terminated, valid = steps
    return Episodes(observation, actions, reward, terminated, valid, last)


def features(observation: Tree, time: Tree) -> Tree:
    """Returns [s, s², τ, τ², τ³, 1] of each step, with s clipped to ±10 and τ = time/100."""
    clipped = jnp.clip(observation, -10, 10)
    tau = jnp.broadcast_to(time / 100.0, observation.shape[:-1])[..., None]
    return jnp.concatenate([clipped, clipped**2, tau, tau**2, tau**3, jnp.ones_like(tau)], -1)


def advantages(episodes: Episodes) -> Tree:
    """Returns advantages by GAE with a linear baseline, normalised over the valid steps, `[time, episodes]`."""
    valid, horizon = episodes.valid, len(episodes.reward)
    phi = features(episodes.observation, jnp.arange(horizon)[:, None])
    zeros = jnp.zeros(valid.shape[1], phi.dtype)

    def discounted(total: Tree, reward: Tree) -> Tree:
        total = reward + DISCOUNT * total
        return total, total

    _, returns = jax.lax.scan(discounted, zeros, episodes.reward, reverse=True)
    weighted = phi * valid[..., None]
    gram = jnp.einsum("tef,teg->fg", weighted, phi) + 1e-5 * jnp.eye(phi.shape[-1])
    weights = jnp.linalg.solve(gram, jnp.einsum("tef,te->f", weighted, returns))
    last = features(episodes.last, valid.sum(0)) @ weights

    def estimate(carried: Tree, step: Tree) -> Tree:
        running, following = carried
        reward, value, terminated, here = step
        delta = reward + DISCOUNT * jnp.where(terminated, 0.0, following) - value
        advantage = delta + DISCOUNT * GAE_LAMBDA * running
        carried = jnp.where(here, advantage, running), jnp.where(here, value, following)
        return carried, jnp.where(here, advantage, 0.0)

    steps = (episodes.reward, phi @ weights, episodes.terminated, valid)
    _, advantage = jax.lax.scan(estimate, (zeros, last), steps, reverse=True)
    centred = jnp.where(valid, advantage - mean_of(advantage, valid), 0.0)
    return centred / (jnp.sqrt(mean_of(centred**2, valid)) + 1e-8)


def process(params: Tree, episodes: Episodes) -> Batch:
    """Returns what the losses read."""
    old = log_prob(distribution(params, episodes.observation), episodes.action)
    batch = Batch(episodes.observation, episodes.action, advantages(episodes), old, episodes.valid)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


def mean_of(values: Tree, valid: Tree) -> Tree:
    """Returns the mean over the valid steps."""
    return (values * valid).sum() / valid.sum()


def adapt(params: Tree, batch: Batch) -> Tree:
    """Returns the parameters after one step on the REINFORCE loss."""

    def loss(params: Tree) -> Tree:
        return -mean_of(log_prob(distribution(params, batch.observation), batch.action) * batch.advantage, batch.valid)

    return jax.tree.map(lambda value, slope: value - INNER_LR * slope, params, jax.grad(loss)(params))


def surrogate(normal: Tree, batch: Batch) -> Tree:
    """Returns −mean π/π_old · A."""
    return -mean_of(jnp.exp(log_prob(normal, batch.action) - batch.log_prob) * batch.advantage, batch.valid)


def kl(old: Tree, new: Tree, valid: Tree) -> Tree:
    """Returns the mean KL divergence of two normal distributions."""
    (old_mean, old_log_std), (mean, log_std) = old, new
    ratio = (jnp.exp(2 * old_log_std) + (old_mean - mean) ** 2) / (2 * jnp.exp(2 * log_std))
    return mean_of((log_std - old_log_std + ratio - 0.5).sum(-1), valid)


def update(params: Tree, inner: Batch, query: Batch) -> tuple[Tree, Tree]:
    """Returns the parameters after the trust-region step, and its KL divergence; the batches lead with `[tasks]`."""
    flat, unflatten = ravel_pytree(params)

    def respond(flat: Tree, inner: Batch, query: Batch) -> Tree:
        return distribution(adapt(unflatten(flat), inner), query.observation)

    def evaluate(flat: Tree, inner: Batch, query: Batch, old: Tree) -> Tree:
        new = respond(flat, inner, query)
        return surrogate(new, query), kl(old, new, query.valid)

    def fisher_of_task(vector: Tree, inner: Batch, query: Batch) -> Tree:
        response = functools.partial(respond, inner=inner, query=query)
        (_, log_std), (mean_change, log_std_change) = jax.jvp(response, (flat,), (vector,))
        weights = query.valid[:, None] / query.valid.sum()
        pull = jax.vjp(response, flat)[1]
        return pull((mean_change * weights * jnp.exp(-2 * log_std), 2 * log_std_change))[0]

    def of_tasks(function: Callable[..., Tree], at: Tree, *trees: Tree) -> Tree:
        means = jax.vmap(functools.partial(function, at))(*trees)
        return jax.tree.map(lambda leaf: leaf.mean(0), means)

    old = jax.vmap(functools.partial(respond, flat))(inner, query)
    loss, gradient = jax.value_and_grad(lambda flat: of_tasks(evaluate, flat, inner, query, old)[0])(flat)
    direction, residual = conjugate_gradient(
        lambda vector: of_tasks(fisher_of_task, vector, inner, query) + DAMPING * vector, gradient
    )
    full = -direction * jnp.sqrt(2 * MAX_KL / direction.dot(gradient - residual))
    step, divergence = line_search(lambda step: of_tasks(evaluate, flat + step, inner, query, old), full, loss)
    return unflatten(flat + step), divergence


def conjugate_gradient(product: Callable[[Tree], Tree], target: Tree) -> tuple[Tree, Tree]:
    """Returns x with A x ≈ target, and the residual."""

    def iterate(state: Tree, _: None) -> Tree:
        x, residual, direction, squared = state
        image = product(direction)
        length = squared / direction.dot(image)
        x, residual = x + length * direction, residual - length * image
        following = residual.dot(residual)
        return (x, residual, residual + following / squared * direction, following), None

    start = (jnp.zeros_like(target), target, target, target.dot(target))
    return jax.lax.scan(iterate, start, None, length=CG_ITERATIONS)[0][:2]


def line_search(evaluate: Callable[[Tree], Tree], full: Tree, loss: Tree) -> tuple[Tree, Tree]:
    """Returns the longest step that lowers the loss with KL ≤ δ, or 0, and its KL divergence."""

    def is_good(after: Tree) -> Tree:
        return (after[0] < loss) & (after[1] <= MAX_KL)

    def shorter(state: Tree) -> Tree:
        tried, _ = state
        return tried + 1, evaluate(full * SHRINK ** (tried + 1.0))

    def is_too_long(state: Tree) -> Tree:
        tried, after = state
        return (tried < LINE_SEARCH_STEPS - 1) & ~is_good(after)

    tried, after = jax.lax.while_loop(is_too_long, shorter, (jnp.zeros((), full.dtype), evaluate(full)))
    return jnp.where(is_good(after), full * SHRINK**tried, 0.0), after[1]


def prepare(options: argparse.Namespace) -> Callable[[], float]:
    """Returns an iteration, which returns the mean return after adaptation."""
    split = split_over_devices(options.tasks)
    sizes = {"episodes": options.episodes, "horizon": options.horizon}

    def of_task(params: Tree, goal: Tree, keys: Tree) -> Tree:
        before = sample(params, goal, keys[0], **sizes)
        inner = process(params, before)
        adapted = adapt(params, inner)
        after = sample(adapted, goal, keys[1], **sizes)
        return inner, process(adapted, after), after.reward.sum(0).mean()

    @jax.jit
    def iteration(params: Tree, key: Tree) -> Tree:
        goal_key, *task_keys = jax.random.split(key, options.tasks * 2 + 1)
        goals = jax.random.uniform(goal_key, (options.tasks, 2), minval=-0.5, maxval=0.5)
        keys = jnp.stack(task_keys).reshape(options.tasks, 2, -1)
        goals, keys = split((goals, keys))
        inner, query, returns = split(jax.vmap(functools.partial(of_task, params))(goals, keys))
        return update(params, inner, query)[0], returns.mean()

    key = jax.random.PRNGKey(options.seed)
    state: dict[str, Any] = {"params": initial_params(key, options.hidden), "number": 0}
    compiled = iteration.lower(state["params"], key).compile()

    def iterate() -> float:
        state["number"] += 1
        own = jax.random.fold_in(key, state["number"])
        state["params"], value = jax.block_until_ready(compiled(state["params"], own))
        return float(value)

    return iterate


def check(record: dict[str, Any]) -> dict[str, float]:
    """Returns the relative differences of environment, advantages and update from a record of ours."""

    def fields(name: str, *names: str) -> list[Tree]:
        """Returns arrays of the record, `[tasks, time, episodes, ...]`."""
        return [jnp.swapaxes(record[f"{name}.{field}"], 1, 2) for field in names]

    observation, action, valid, advantage = fields("query", "observation", "action", "valid", "advantage")
    reward, terminated = fields("episodes", "reward", "terminated")
    position, earned, reached = move(observation, action, record["goal"][:, None, None])
    goes_on = valid[:, 1:, :, None]
    last = jnp.asarray(record["episodes.last_observation"])
    episodes = Episodes(observation, action, reward, terminated, valid, last)
    batches = [
        Batch(*(leaf.reshape(len(leaf), -1, *leaf.shape[3:]) for leaf in fields(name, *Batch._fields)))
        for name in ("inner", "query")
    ]
    before, after = params_of(record, "before"), params_of(record, "after")
    moved, _ = jax.jit(update)(before, *batches)
    return {
        "position": difference(observation[:, 1:] * goes_on, position[:, :-1] * goes_on),
        "reward": difference(reward * valid, earned * valid),
        "terminated": float((terminated != (reached & valid)).sum()),
        "advantage": difference(advantage, jax.vmap(advantages)(episodes)),
        "update": difference(jax.tree.map(jnp.subtract, after, before), jax.tree.map(jnp.subtract, moved, before)),
    }


def params_of(record: dict[str, Any], when: str) -> Tree:
    """Returns our parameters in the form of this file."""
    layers = [(record[f"{when}.mean.{i}.weight"].T, record[f"{when}.mean.{i}.bias"]) for i in (0, 2, 4)]
    return jax.tree.map(jnp.asarray, (layers, record[f"{when}.log_std"]))


if __name__ == "__main__":
    main(prepare, check, {"tasks": 20, "episodes": 20, "horizon": 100, "hidden": 64, "seed": 0})
