"""DQN on CartPole-v1 with the settings of rl-baselines3-zoo, next to Stable-Baselines3; the replay buffer alone."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Measurement, benchmark, median_seconds
from research import rng
from research.algorithms.value.lookahead_dqn import LookaheadDQN, LookaheadDQNConfig
from research.memory import keep_freed_memory
from research.sampling.replay_buffer import ReplayBuffer, Transitions

FIRST, LAST = 2048, 10240
"""Environment steps at the start and the end of the measurement: after the start of learning and a warm-up."""

BATCH = 128
CAPACITY = 100_000


def our_steps_per_second(**settings: Any) -> float:
    """Returns environment steps per second of acting and learning, with the states saved and restored per iteration."""
    keep_freed_memory()  # as runs do
    config = LookaheadDQNConfig(**settings)
    algorithm = LookaheadDQN(config)
    state, start = algorithm.init(), 0.0
    while state.iteration * config.env_steps_per_iteration < LAST:
        if state.iteration * config.env_steps_per_iteration == FIRST:
            start = time.process_time()
        state, _ = algorithm.step(state)
    return (LAST - FIRST) / (time.process_time() - start)


def their_steps_per_second() -> float:
    """Returns the same of Stable-Baselines3's DQN with the same settings (rl-baselines3-zoo, hyperparams/dqn.yml)."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        start = end = 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps == FIRST:
                self.start = time.process_time()
            self.end = time.process_time()
            return self.num_timesteps < LAST

    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=CAPACITY,
        learning_starts=1000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
        seed=0,
    )
    clock = Clock()
    model.learn(50_000, callback=clock)
    return (LAST - FIRST) / (clock.end - clock.start)


@benchmark("dqn/cartpole")
def against_stable_baselines3() -> Iterator[Measurement]:
    """Steps per second of processor time on one thread, the time that other processes affect least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs = None
        if importlib.util.find_spec("stable_baselines3"):
            theirs = their_steps_per_second()
            yield Measurement("dqn/cartpole/stable_baselines3", theirs, "steps/s")
        for name, settings in (("dqn", {}), ("fast_slow", {"lookahead_k": 5})):
            ours = our_steps_per_second(**settings)
            note = (
                "stable-baselines3 is not installed" if theirs is None else f"{ours / theirs:.2f} × stable-baselines3"
            )
            least = 3.5 * theirs if theirs and name == "dqn" else None
            yield Measurement(f"dqn/cartpole/{name}", ours, "steps/s", at_least=least, note=note)
    finally:
        torch.set_num_threads(threads)


def transitions(steps: int) -> Transitions:
    """Returns random transitions with CartPole's shapes."""
    draws = rng.generator(0, "benchmark")
    observation = draws.normal(size=(2, steps, 1, 4)).astype(np.float32)
    ends = draws.random((2, steps, 1)) < 0.02
    action, reward = draws.integers(2, size=(steps, 1)), np.ones((steps, 1), np.float32)
    return Transitions(observation[0], action, reward, observation[1], ends[0], ends[0] | ends[1])


def draw(buffer: ReplayBuffer, draws: np.random.Generator, n_step: int = 1) -> None:
    """Draws one minibatch uniformly."""
    buffer.take(buffer.draw_uniformly((BATCH,), draws), 0.99, n_step)


def draw_by_priority(buffer: ReplayBuffer, draws: np.random.Generator) -> None:
    """Draws one minibatch by priority and updates the priorities."""
    index, weight = buffer.draw_by_priority(BATCH, draws, 0.4)
    buffer.take(index, 0.99, 1, weight)
    buffer.set_priorities(index, weight)


@benchmark("replay")
def replay_buffer() -> Iterator[Measurement]:
    """Time to add a step (256 at once), and to draw minibatches of 128 from a full buffer."""
    draws = rng.generator(0, "benchmark/draws")
    plain = ReplayBuffer(CAPACITY, 1, np.zeros(4, np.float32), 2)
    prioritized = ReplayBuffer(CAPACITY, 1, np.zeros(4, np.float32), 2, priority_exponent=0.6)
    for buffer in (plain, prioritized):
        buffer.add(transitions(CAPACITY))
    phase = transitions(256)
    for name, buffer, at_most in (("add", plain, 1.5), ("add_prioritized", prioritized, None)):
        duration = _microseconds(functools.partial(buffer.add, phase)) / 256
        yield Measurement(f"replay/{name}", duration, "µs", at_most, note="for each of 256 transitions added together")
    yield Measurement("replay/sample", _microseconds(functools.partial(draw, plain, draws)), "µs", 30.0)
    yield Measurement("replay/sample_3_steps", _microseconds(functools.partial(draw, plain, draws, 3)), "µs")
    duration = _microseconds(functools.partial(draw_by_priority, prioritized, draws))
    yield Measurement("replay/sample_prioritized", duration, "µs", note="with new priorities")


def _microseconds(call: Any) -> float:
    def often() -> None:
        for _ in range(100):
            call()

    return 1e4 * median_seconds(often, warmup=2, repeats=9)
