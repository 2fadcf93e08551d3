"""The commands of a training script: `train`, `resume`, `ensure`, `evaluate` and perhaps `render`.

A script makes an experiment with its named configs by `make_experiment`, gives it the algorithm by `add_commands`, and
calls `experiment.run_commandline()`. Until a command is carried out, nothing here imports torch, which takes longer
than printing help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from research.algorithms import ALGORITHMS, Algorithm, ChecksStates
from research.conversion import from_mapping
from research.distributed import Ranks
from research.tracking.experiment import Experiment
from research.tracking.restart import TRAINING
from research.tracking.run import RecordedRun
from research.validation import recorded, suggestion

if TYPE_CHECKING:
    from research.tracking.session import Draw, Report, Session


def add_commands(
    experiment: Experiment,
    algorithm: str | Callable[[Any], Algorithm],
    *,
    columns: Mapping[str, str],
    report: Report,
    prepare_drawing: Callable[[Any], Draw] | None = None,
) -> None:
    """Gives an experiment the commands `train` (its default), `resume`, `ensure`, `evaluate` and perhaps `render`.

    Args:
        experiment: Its settings must have what those of `AlgorithmConfig` have: the fields that the commands read, and
            the declarations of what `evaluate` and `resume` may change.
        algorithm: A class as `ALGORITHMS` has them, its name there, or a function from the settings to an instance.
        columns: Metrics that the progress bar shows, as `{label: metric name}`.
        report: Prints and draws an adaptation curve.
        prepare_drawing: Function of the settings that returns the function with which `render` draws an adaptation
            curve; raises ValueError if the tasks cannot be drawn. None: there is no command `render`.

    Raises:
        ValueError: The name is not in `ALGORITHMS`.
    """
    if isinstance(algorithm, str) and algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm={algorithm!r}: no such algorithm; {suggestion(algorithm, ALGORITHMS)}")
    make = partial(_make, algorithm) if isinstance(algorithm, str) else algorithm
    experiment.trainer = Trainer(experiment, make, columns, report, prepare_drawing)
    _register(experiment, can_render=prepare_drawing is not None)


def _register(experiment: Experiment, can_render: bool) -> None:
    """Makes commands of functions whose names and docstrings the command line shows."""

    def train(_run: Any) -> dict[str, Any]:
        """Train, then evaluate on test tasks. The default."""
        return _run.session.train()

    def resume(_run: Any) -> dict[str, Any]:
        """Continue a run that was stopped, e.g. `resume with run=3`."""
        return _run.session.train()

    def ensure(_run: Any) -> dict[str, Any]:
        """Complete a run: start it, continue it, or find it complete, e.g. `ensure with run=7`."""
        if _run.start.is_complete:
            print(f"Run {_run.start.place.id} is complete, nothing is left to do.", flush=True)
            return _run.start.result
        return _run.session.train()

    def evaluate(_run: Any) -> dict[str, Any]:
        """Evaluate, e.g. `evaluate with checkpoint=runs/3/checkpoints/latest num_adapt_steps=5`."""
        return _run.session.evaluate()

    def render(_run: Any) -> dict[str, Any]:
        """Draw the policy before and after adaptation, e.g. `render with run=3 num_eval_tasks=5 num_adapt_steps=1`."""
        return _run.session.render()

    experiment.main(train)
    for command in (resume, ensure, evaluate, *([render] if can_render else [])):
        experiment.command(command)


def _make(name: str, config: Any) -> Algorithm:
    return ALGORITHMS[name](config)


@dataclass(frozen=True)
class Trainer:
    """The part of an experiment that knows the algorithm. The attributes are the arguments of `add_commands`."""

    experiment: Experiment
    algorithm: Callable[[Any], Algorithm]
    columns: Mapping[str, str]
    report: Report
    prepare_drawing: Callable[[Any], Draw] | None

    def build(self, config: Any) -> Algorithm:
        """Returns the algorithm with these settings. Raises ValueError if they do not go together."""
        return self.algorithm(config)

    def prepare(self, command: str, run: RecordedRun, config: Any) -> Session:
        """Returns the session of a command, before anything is recorded. Raises ValueError to refuse the run."""
        from research.tracking.session import Session, build

        ranks = self.experiment.ranks
        if command in ("evaluate", "render"):
            ranks.send_settings(None)
        draw = self.prepare_drawing(config) if self.prepare_drawing and command == "render" else None
        if draw and run.unobserved:
            raise ValueError("-u: render writes its pictures into the record of a run; leave -u out")
        algorithm = build(self.algorithm, config, self.experiment.name, ranks)
        session = Session(self.experiment, algorithm, run, config, self.columns, self.report, draw)
        if command in TRAINING and isinstance(algorithm, ChecksStates):
            algorithm.check(session.state)
        return session

    def follow(self, ranks: Ranks) -> None:
        """Trains together with the first rank, if it trains, and records nothing."""
        from research.tracking.session import build, follow

        work = ranks.receive_settings()
        if work is None:
            return
        values = work["settings"]
        with recorded(values):  # the first rank has checked them
            config = from_mapping(self.experiment.settings.class_of(values), values)
            follow(build(self.algorithm, config, self.experiment.name, ranks), config, work["until"], ranks)
