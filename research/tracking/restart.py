"""Starting from a checkpoint: which one is meant, and which of its settings a command line may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research import checkpoint
from research.checkpoint import Checkpoint, CheckpointError
from research.tracking.config import ConfigError, flatten, from_mapping, to_mapping


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run that are none of the algorithm's.

    Attributes:
        runs_dir: Where runs are recorded, one directory each.
        run: Id of a recorded run: what `resume` goes on with, `evaluate` evaluates or `render` draws.
        checkpoint: The same by the path of a checkpoint; `.pt` may be left out.
    """

    runs_dir: str = "runs"
    run: int | str | None = None
    checkpoint: str | None = None


# What each command may be given besides what the checkpoint says. Everything else is part of what was trained.
_EVALUATION = frozenset(
    {"num_adapt_steps", "num_eval_tasks", "eval_episodes", "seed", "task", "task_args", "horizon"}
    | {"eval_inner_lr", "inner_loop", "device", "num_threads"}
)
CHANGEABLE: dict[str, frozenset[str]] = {
    "resume": frozenset({"num_iterations", "checkpoint_interval", "num_threads"}),
    "evaluate": _EVALUATION,
    "render": _EVALUATION,
}

# What a command has in place of what the checkpoint says, unless it is given something else.
OWN_DEFAULTS: dict[str, dict[str, Any]] = {"render": {"num_eval_tasks": 3}}


@dataclass(frozen=True)
class Start:
    """Where a command starts.

    Attributes:
        checkpoint: The state to start from.
        config: Plain values of all settings: those of the checkpoint, changed by the command line.
        run_id: The record to go on with; None for a new one.
    """

    checkpoint: Checkpoint
    config: dict[str, Any]
    run_id: int | str | None

    @property
    def resume_at(self) -> int | None:
        """Finished iterations at which a record goes on; None for a new one."""
        return None if self.run_id is None else self.checkpoint.iteration


def find_start(command: str, name: str, config_class: type[Any], given: Mapping[str, Any]) -> Start:
    """What `resume`, `evaluate` or `render` starts from.

    Args:
        command: One of `CHANGEABLE`.
        name: Name of the algorithm.
        config_class: Its dataclass of settings.
        given: Nested plain values from the command line, keys and types already checked.

    Raises:
        ConfigError: It is not clear what is meant, or a setting contradicts the checkpoint.
        CheckpointError: The checkpoint cannot be used.
    """
    own = RunConfig.__dataclass_fields__
    run_config = from_mapping(RunConfig, {key: value for key, value in given.items() if key in own})
    found = checkpoint.load(_path(command, run_config))
    found.require_algorithm(name)
    try:
        trained = to_mapping(from_mapping(config_class, found.config))
    except ConfigError as error:
        raise CheckpointError(
            f"{found.path} was made with other settings than this version of the code has: {error}. "
            f"Use the version that wrote it."
        ) from error
    changes = {key: value for key, value in given.items() if key not in own}
    _refuse_contradictions(command, found.path, trained, changes)
    config = merge(merge(trained, OWN_DEFAULTS.get(command, {})), changes)
    if command == "resume":
        return _resume(found, config, given)
    return Start(found, config | {key: given[key] for key in own if key in given}, None)


def _path(command: str, run_config: RunConfig) -> Path:
    if (run_config.run is None) == (run_config.checkpoint is None):
        raise ConfigError(
            f"{command} needs either run=<id> or checkpoint=<path>, e.g. `{command} with run=3` or "
            f"`{command} with checkpoint={run_config.runs_dir}/3/checkpoints/best`"
        )
    if run_config.checkpoint is not None:
        return Path(run_config.checkpoint)
    record = Path(run_config.runs_dir, str(run_config.run))
    if not record.is_dir():
        runs = sorted((path.name for path in record.parent.glob("[0-9]*")), key=lambda name: (len(name), name))
        there = f"the last there is {runs[-1]}" if runs else "there is none"
        raise ConfigError(f"run={run_config.run!r}: no such run in {record.parent}; {there}")
    return record / "checkpoints" / "latest.pt"


def _resume(found: Checkpoint, config: dict[str, Any], given: Mapping[str, Any]) -> Start:
    record = found.path.resolve().parent.parent
    if not (record / "run.json").is_file():
        raise ConfigError(
            f"checkpoint={str(found.path)!r}: resume goes on with a run's record, and this checkpoint lies in none; "
            f"need <runs_dir>/<id>/checkpoints/<name>.pt"
        )
    if config["num_iterations"] < found.iteration:
        raise ConfigError(
            f"num_iterations={config['num_iterations']}: {found.path} has finished {found.iteration} already; "
            f"need at least as many"
        )
    run_id = int(record.name) if record.name.isdigit() else record.name
    runs_dir = given.get("runs_dir", str(found.path.parent.parent.parent))
    return Start(found, config | {"runs_dir": runs_dir, "run": run_id}, run_id)


def _refuse_contradictions(command: str, path: Path, trained: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    stored = flatten(trained)
    for key, value in flatten(changes).items():
        if key.split(".")[0] not in CHANGEABLE[command] and stored.get(key, _ABSENT) != value:
            was = f"{stored[key]!r}" if key in stored else "nothing"
            raise ConfigError(
                f"{key}={value!r}: {path} was trained with {was}, and {command} keeps to it. Leave the key out, or "
                f"train a new run. Allowed here: {', '.join(sorted(CHANGEABLE[command] & trained.keys()))}"
            )


_ABSENT = object()


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; where both have a value, that of `above`."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
