"""Our own iterations in a process like those of the twins, and records of them that the twins are compared with.

python -m benchmarks.peers.ours navigation --tasks 20
python -m benchmarks.peers.ours navigation --record build/navigation.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.peers.blocks import measure, serve, use_cores
from research import rng
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.rl2 import RL2
from research.algorithms.value.learner import TDLearner
from research.algorithms.value.lookahead_dqn import LookaheadDQN, LookaheadDQNConfig
from research.memory import keep_freed_memory
from research.policies import PolicyConfig
from research.policies.memory import MemoryConfig
from research.sampling.trials import collect_trials
from research.td import TransitionBatch

Record = dict[str, Any]
"""Arrays by name."""

TD_STEPS = 50
"""TD steps of a record."""


def navigation(options: argparse.Namespace, **changes: Any) -> MAMLTRPO:
    """Returns MAML-TRPO on 2D navigation with the settings of its twin."""
    sizes = dict(meta_batch_size=options.tasks, episodes_per_task=options.episodes, horizon=options.horizon)
    steps = options.inner_steps
    policy = PolicyConfig((options.hidden, options.hidden), output_scale=0.01)
    settings: dict[str, Any] = sizes | {
        "num_inner_steps": steps,
        "inner_lr": 0.5,
        "gae_lambda": 0.9,
        "policy": policy,
        "seed": options.seed,
    }
    return MAMLTRPO(MAMLTRPOConfig(**settings | changes))


def bandit(options: argparse.Namespace, **changes: Any) -> RL2:
    """Returns RL² on bandits with the settings of its twin."""
    sizes = dict(meta_batch_size=options.trials, episodes_per_trial=options.pulls, num_minibatches=options.minibatches)
    settings: dict[str, Any] = sizes | {"policy": MemoryConfig(options.hidden), "seed": options.seed}
    return RL2(RL2Config(**settings | changes))


def cartpole(options: argparse.Namespace, **changes: Any) -> LookaheadDQN:
    """Returns DQN on CartPole with the settings of its twin: those of rl-baselines3-zoo."""
    return LookaheadDQN(LookaheadDQNConfig(seed=options.seed, **changes))


def record_navigation(algorithm: MAMLTRPO) -> Record:
    """Returns the tasks, episodes and batches of an iteration, and the parameters before and after it."""
    state = algorithm.init()
    sampled = algorithm.agent.sample(state.meta, 0)
    config = algorithm.config
    goal = algorithm.agent.tasks.sample(config.meta_batch_size, rng.generator(config.seed, "tasks", 0)).goal
    episodes = tree("episodes", sampled.query_episodes._asdict())
    batches = tree("inner", sampled.batches[0]._asdict()) | tree("query", sampled.query._asdict())
    return {"goal": goal} | episodes | batches | before_and_after(state, algorithm.step(state).state)


def record_bandit(algorithm: RL2) -> Record:
    """Returns rewards, values and steps of an iteration, and the parameters before and after it."""
    config, agent, state = algorithm.config, algorithm.agent, algorithm.init()
    steps = agent.sample(state.meta.model, state.scale, 0).steps
    count = config.meta_batch_size
    envs = agent.tasks.make_envs(agent.tasks.sample(count, rng.generator(config.seed, "tasks", 0)), 1)
    actions = rng.torch_generator(config.seed, "actions", 0)  # the same trials again
    trials = collect_trials(agent.policy, state.meta.model, envs, count, config.episodes_per_trial, 1, actions)
    record = tree("steps", steps._asdict() | {"inputs": steps.inputs.features})
    record |= tree("trials", {"reward": trials.reward[:, 0], "value": trials.value[:, 0]})
    record |= {"minibatches": np.array(config.num_minibatches)}
    return record | before_and_after(state, algorithm.step(state).state)


def record_cartpole(algorithm: LookaheadDQN) -> Record:
    """Returns the transitions of an iteration, minibatches of them, and the parameters before and after their steps."""
    config, state = algorithm.config, algorithm.step(algorithm.init()).state
    transitions = state.replay.transitions
    index = rng.torch_generator(config.seed, "record")
    chosen = torch.randint(len(transitions.reward), (TD_STEPS, config.batch_size), generator=index)
    observation, action, reward, following, terminated, _ = (torch.as_tensor(leaf)[chosen] for leaf in transitions)
    bootstrap = config.discount * ~terminated
    dtype = getattr(torch, config.dtype)
    fields = (leaf.to(dtype) for leaf in (reward, bootstrap, following, torch.ones_like(reward)))
    batches = TransitionBatch(observation.to(dtype), action.long(), *fields)
    learner = TDLearner(config, algorithm.network, state.meta.model)
    for batch, values in learner.minibatches(batches):
        learner.step(batch, values)
    record = tree("transitions", transitions._asdict()) | tree("batches", batches._asdict())
    return record | tree("before", state.meta.model) | tree("after", learner.online.params())


def tree(name: str, fields: dict[str, Any]) -> Record:
    """Returns tensors as arrays by their dotted names."""
    return {f"{name}.{field}": torch.as_tensor(value).detach().numpy() for field, value in fields.items()}


def before_and_after(before: Any, after: Any) -> Record:
    """Returns the parameters of two states."""
    return tree("before", before.meta.model) | tree("after", after.meta.model)


class Iteration(NamedTuple):
    """One of our iterations that has a twin.

    Attributes:
        make: Function of the options and of changed settings that returns the algorithm.
        record: Function of the algorithm that returns a record.
        metric: Name of the metric that shows learning.
        sizes: Options, and their values in a measurement.
        small: Values of some options in a record.
    """

    make: Callable[..., Any]
    record: Callable[[Any], Record]
    metric: str
    sizes: dict[str, int]
    small: dict[str, int]


ITERATIONS = {
    "navigation": Iteration(
        navigation,
        record_navigation,
        "return_post",
        {"tasks": 20, "episodes": 20, "horizon": 100, "hidden": 64, "inner_steps": 1},
        {"tasks": 4, "episodes": 5, "horizon": 100, "hidden": 16},
    ),
    "bandit": Iteration(
        bandit,
        record_bandit,
        "return_trial",
        {"trials": 1000, "pulls": 100, "minibatches": 4, "hidden": 64},
        {"trials": 24, "pulls": 20, "minibatches": 3, "hidden": 16},
    ),
    "cartpole": Iteration(cartpole, record_cartpole, "episode_return", {}, {}),
}


def main() -> None:
    """Runs blocks of iterations, or writes a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("iteration", choices=ITERATIONS)
    for name in {name: None for own in ITERATIONS.values() for name in own.sizes}:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, default=0, help="use so many cores; 0 for all")
    parser.add_argument("--iterations", type=int, default=0, help="print so many; 0 reads them from standard input")
    parser.add_argument("--record", metavar="FILE", help="write a record of a small iteration in float64")
    options = parser.parse_args()
    use_cores(options.cores)
    own = ITERATIONS[options.iteration]
    for name, value in (own.sizes | (own.small if options.record else {})).items():
        setattr(options, name, getattr(options, name) or value)
    keep_freed_memory()
    torch.set_num_threads(1)  # as in a run
    if options.record:
        np.savez(options.record, **own.record(own.make(options, dtype="float64")))
        return
    iterate = make_iterate(own.make(options), own.metric)
    if options.iterations:
        print(measure(iterate, options.iterations))
    else:
        serve(iterate)


def make_iterate(algorithm: Any, metric: str) -> Callable[[], float]:
    """Returns a function that takes one iteration more and returns its metric; NaN if it has none."""
    state = algorithm.init()

    def iterate() -> float:
        nonlocal state
        state, metrics = algorithm.step(state)
        return float(metrics.get(metric, float("nan")))

    return iterate


if __name__ == "__main__":
    main()
