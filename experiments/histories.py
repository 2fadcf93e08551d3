"""Writes files of learning histories, which experiments/distillation.py reads with `histories=FILE`.

    python experiments/histories.py source histories.npz with dark_room seed=3
    python experiments/histories.py records histories.npz runs/3 runs/4 --trials 500

`source` plays the source algorithm with settings of experiments/distillation.py: the histories are those that a run
with these settings makes for itself. `records` takes what records hold, which is not much:

- A checkpoint of DQN (`design=lookahead`) on one task has all transitions since the start, in its replay buffer, if
  none was overwritten (`replay.buffer_size`). Each run is one history.
- A checkpoint of an agent with a memory (rl2, varibad, distillation) has no episodes, but can play: `--trials` trials
  of training tasks, each a history of what the agent learns within a trial. A trial whose simulation diverged is left
  out.

Histories have as many whole episodes as the shortest of them has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import distillation
from research import rng
from research.algorithms import ALGORITHMS
from research.algorithms.memory.agent import MemoryAgent
from research.algorithms.memory.distillation import Distillation
from research.checkpoint import Checkpoint, load
from research.conversion import from_mapping
from research.files import atomic_write
from research.sampling.histories import Histories, make_histories, state_index, state_table, write_histories
from research.sampling.trials import collect_trials
from research.tasks import TaskDistribution, make_tasks
from research.tracking.settings_file import read_updates
from research.validation import recorded


class Found(NamedTuple):
    """Histories, and the tasks that they are of: the name of the distribution, and it."""

    histories: Histories
    task: str
    distribution: TaskDistribution


def of_source(settings: Sequence[str]) -> Found:
    """Returns the histories of the source algorithm.

    Args:
        settings: Names of named configs of the experiment, and `key=value`.
    """
    updates, names = read_updates(settings)
    known = distillation.experiment.settings
    config, _ = known.typed(known.given(updates, names))
    algorithm = Distillation(config)
    return Found(algorithm.histories, config.task, algorithm.agent.tasks)


def of_record(path: Path, num_trials: int) -> Found:
    """Returns the histories of a run, or of a checkpoint.

    Args:
        path: Directory of the run, or the checkpoint.
        num_trials: Number of trials that an agent with a memory plays.

    Raises:
        ValueError: It has no histories.
    """
    checkpoint = load(path / "checkpoints" / "latest" if path.is_dir() else path)
    name = checkpoint.algorithm
    if name == "lookahead_dqn" and checkpoint.config["design"] == "lookahead":
        return _of_buffer(checkpoint)
    kind: Any = ALGORITHMS.get(name)
    if kind is not None and name != "lookahead_dqn":
        with recorded(checkpoint.config):
            algorithm = kind(from_mapping(kind.Config, checkpoint.config))
            if isinstance(getattr(algorithm, "agent", None), MemoryAgent):
                return _of_trials(algorithm, checkpoint, num_trials)
    raise ValueError(f"{path}: it is a run of {name}, which keeps no learning history; need one of lookahead_dqn with "
                     "design=lookahead, or of an agent with a memory")  # fmt: skip


def _of_buffer(checkpoint: Checkpoint) -> Found:
    """Returns the one history in the replay buffer of DQN."""
    config, replay = checkpoint.config, checkpoint.state["replay"]
    for key in ("meta_batch_size", "rows_per_task"):
        if config[key] != 1:
            raise ValueError(f"{checkpoint.path}: {key}={config[key]}: its learner has several tasks or environments "
                             "at once; need 1")  # fmt: skip
    kept = {name: values.numpy() for name, values in replay["transitions"].items()}
    if len(kept["reward"]) < replay["num_added"]:
        raise ValueError(f"{checkpoint.path}: its replay buffer holds {len(kept['reward'])} of {replay['num_added']} "
                         "transitions; need replay.buffer_size to have room for all")  # fmt: skip
    distribution = make_tasks(config["task"], horizon=config["horizon"], **config["task_args"])
    rows = (kept[name][None] for name in ("observation", "action", "reward", "ended"))
    return Found(whole_episodes(distribution, *rows), config["task"], distribution)


def _of_trials(algorithm: Any, checkpoint: Checkpoint, num_trials: int) -> Found:
    """Returns a history for each trial that an agent with a memory plays on training tasks, diverged ones left out."""
    agent, config = algorithm.agent, algorithm.config
    params = checkpoint.restore(algorithm.init()).meta.model
    distribution: TaskDistribution = agent.tasks
    tasks = distribution.sample(num_trials, rng.generator(config.seed, "histories/tasks"))
    generator = rng.torch_generator(config.seed, "histories/actions", device=agent.device)
    envs = distribution.make_envs(tasks, 1)
    sizes = (num_trials, config.episodes_per_trial, distribution.horizon)
    trials = collect_trials(agent.policy, params, envs, *sizes, generator, num_threads=agent.num_threads)
    envs.close()
    whole = ~trials.diverged[:, 0]
    if not whole.any():
        raise ValueError(f"{checkpoint.path}: all of the {num_trials} trials diverged; need another checkpoint, or "
                         "more trials (--trials)")  # fmt: skip
    if not whole.all():
        print(f"{checkpoint.path}: {int((~whole).sum())} of {num_trials} trials diverged and are left out")
    ended = trials.ended & trials.valid
    fields = (trials.observation, trials.action, trials.reward, ended)
    rows = (field[whole, 0].cpu().numpy() for field in fields)
    return Found(whole_episodes(distribution, *rows), config.task, distribution)


def whole_episodes(
    distribution: TaskDistribution,
    observation: NDArray[Any],
    action: NDArray[Any],
    reward: NDArray[Any],
    ended: NDArray[np.bool_],
) -> Histories:
    """Returns histories of consecutive steps, `[histories, time, ...]`, without a last episode that is cut.

    Args:
        distribution: The tasks.
        observation: The observations before the actions.
        action: The actions.
        reward: The rewards.
        ended: Whether the episode ended with the step.

    Raises:
        ValueError: A history has no whole episode.
    """
    count, horizon = int(ended.sum(1).min()), distribution.horizon
    if count == 0:
        raise ValueError("a history has no whole episode; need a run of more steps")
    table = state_table(distribution.observation_space)
    seen = observation if table is None else state_index(table, observation)

    def by_episode(values: NDArray[Any]) -> NDArray[Any]:
        split = np.zeros((len(values), count, horizon, *values.shape[2:]), values.dtype)
        for row, ends in enumerate(_ends(ended, count)):
            for episode, part in enumerate(np.split(values[row, : ends[-1]], ends[:-1])):
                split[row, episode, : len(part)] = part
        return split

    length = np.stack([np.diff(ends, prepend=0) for ends in _ends(ended, count)])
    whole = action if np.issubdtype(action.dtype, np.floating) else action.astype(np.int64)
    return make_histories(by_episode(seen), by_episode(whole), by_episode(reward), length)


def _ends(ended: NDArray[np.bool_], count: int) -> list[NDArray[np.intp]]:
    """Returns the number of steps up to the end of each of the first `count` episodes of every history."""
    return [np.flatnonzero(row)[:count] + 1 for row in ended]


def joined(found: Sequence[Found]) -> Found:
    """Returns all histories as one. Raises ValueError if they are of different tasks."""
    first = found[0]
    for other in found[1:]:
        if (other.task, other.distribution) != (first.task, first.distribution):
            raise ValueError(f"the records are of {other.distribution} and of {first.distribution}; need one task "
                             "distribution")  # fmt: skip
    count = min(one.histories.length.shape[1] for one in found)
    fields = zip(*(one.histories for one in found), strict=True)
    return first._replace(histories=Histories(*(np.concatenate([leaf[:, :count] for leaf in each]) for each in fields)))


def main(argv: Sequence[str]) -> int:
    """Writes a file of histories. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    source = commands.add_parser("source", help="of the source algorithm")
    source.add_argument("file", type=Path, help="the file to write, an .npz")
    source.add_argument("settings", nargs="*", help="with NAMED_CONFIG key=value ..., of experiments/distillation.py")
    records = commands.add_parser("records", help="of what runs recorded")
    records.add_argument("file", type=Path, help="the file to write, an .npz")
    records.add_argument("paths", nargs="+", type=Path, help="directories of runs, or checkpoints")
    records.add_argument("--trials", type=int, default=500, help="trials of an agent with a memory (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "source":
            found = of_source([text for text in arguments.settings if text != "with"])
        else:
            found = joined([of_record(path, arguments.trials) for path in arguments.paths])
    except ValueError as error:
        parser.error(str(error))
    told = f"experiments/histories.py {' '.join(argv)}"
    atomic_write(arguments.file, lambda file: write_histories(file, *found, told))
    histories, episodes, _ = found.histories.reward.shape
    print(f"{arguments.file}: {histories} histories of {episodes} episodes of {found.task}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
