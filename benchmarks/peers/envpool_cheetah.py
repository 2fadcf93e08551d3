"""EnvPool's half-cheetahs in blocks: an iteration is an episode of all rows under random actions, without a policy."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import envpool
import numpy as np

from benchmarks.peers.blocks import cores, serve


def prepare(rows: int, horizon: int, threads: int) -> Callable[[], float]:
    """Returns a function that steps every row `horizon` times, and returns the mean return."""
    envs = envpool.make("HalfCheetah-v5", env_type="gymnasium", num_envs=rows, num_threads=threads, seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (horizon, rows, 6))

    def episode() -> float:
        envs.reset()
        return float(sum(envs.step(action)[1].mean() for action in actions))

    return episode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--threads", type=int, default=cores(), help="threads of the pool (default: one per core)")
    options = parser.parse_args()
    serve(prepare(options.rows, options.horizon, options.threads))
