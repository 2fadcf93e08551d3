"""Parts that the twins in JAX share: devices, Adam, and the comparison with a record of ours."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.peers.blocks import cores, measure, serve, use_cores

Tree = Any
"""A tree of JAX arrays; JAX is not there when types are checked."""


def split_over_devices(count: int) -> Callable[[Tree], Tree]:
    """Returns a function that places the first axis of a tree on the devices; the rest of a jitted function follows.

    A host is one device to XLA, and a batch of small products uses one core of it. With a device for each core
    (`XLA_FLAGS=--xla_force_host_platform_device_count=2`, set here), the parts of the axis run side by side.

    Args:
        count: Length of the axis: there are as many devices as divide it, at most one for each core.
    """
    devices = max(number for number in range(1, cores() + 1) if count % number == 0)
    if jax.default_backend() != "cpu":
        devices = 1
    place = NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("parts",)), PartitionSpec("parts"))
    return lambda tree: jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, place), tree)


def clipped(gradient: Tree, largest: float, eps: float = 0.0) -> Tree:
    """Returns the gradient, scaled down to the norm `largest` if it is longer."""
    norm = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, largest / (norm + eps)), gradient)


def adam_start(params: Tree) -> Tree:
    """Returns the state of Adam before the first step: number of steps, mean and mean square of the gradient."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jnp.zeros((), jnp.int32), zeros, zeros


def adam(params: Tree, gradient: Tree, state: Tree, rate: float) -> tuple[Tree, Tree]:
    """Returns parameters and state after a step of Adam (Kingma & Ba 2015, arXiv:1412.6980)."""
    count = state[0] + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[1], gradient)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[2], gradient)
    first, second = 1 - 0.9**count, 1 - 0.999**count
    moved = jax.tree.map(lambda p, m, v: p - rate * (m / first) / (jnp.sqrt(v / second) + 1e-8), params, mean, square)
    return moved, (count, mean, square)


def glorot(key: Tree, rows: int, columns: int, fan: int, scale: float = 1.0) -> Tree:
    """Returns uniform weights `[rows, columns]` for a layer with `fan` inputs and outputs together, times `scale`."""
    bound = scale * math.sqrt(6.0 / fan)
    return jax.random.uniform(key, (rows, columns), minval=-bound, maxval=bound)


def difference(ours: Tree, theirs: Tree) -> float:
    """Returns the largest |ours − theirs| of all elements, over the largest |ours|."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs) / largest


def main(
    prepare: Callable[[argparse.Namespace], Callable[[], float]],
    check: Callable[[dict[str, Any]], dict[str, float]],
    sizes: dict[str, int],
) -> None:
    """Runs a twin: `--check RECORD`, or blocks of iterations, or `--iterations` of them alone.

    Args:
        prepare: Function of the options that returns one iteration, compiled.
        check: Function of the arrays of a record of ours (`python -m benchmarks.peers.ours`) that returns the relative
            differences by name.
        sizes: Default of each option that is a size.
    """
    parser = argparse.ArgumentParser()
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cores", type=int, default=0, help="use so many cores; 0 for all")
    parser.add_argument("--iterations", type=int, default=0, help="print so many; 0 reads them from standard input")
    parser.add_argument("--check", metavar="RECORD", help="compare with a record of ours, in float64")
    options = parser.parse_args()
    use_cores(options.cores)
    jax.config.update("jax_num_cpu_devices", cores())
    if options.check:
        jax.config.update("jax_enable_x64", True)
        for name, value in check(dict(np.load(options.check))).items():
            print(f"{name} {value:.3e}")
        return
    iterate = prepare(options)
    if not options.iterations:
        serve(iterate)
    block = measure(iterate, options.iterations)
    for row in zip(block.seconds, block.processor_seconds, block.values, strict=True):
        print("{:.4f} s, {:.4f} s of processor time, value {:.3f}".format(*row))
