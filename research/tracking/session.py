"""The execution of a command of a training script: an algorithm, its state, and the run that records them."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from research.algorithms import Algorithm, SharesTasks
from research.checkpoint import Checkpoints
from research.conversion import from_mapping, to_mapping
from research.distributed import Ranks
from research.evaluation import AdaptationCurve, spread
from research.files import write_json
from research.memory import keep_freed_memory
from research.population.adopting import adopted_state
from research.tasks.splits import SplitName
from research.tracking.adopting import Adopted, add_to_lineage
from research.tracking.experiment import Experiment
from research.tracking.place import short
from research.tracking.progress import Lines, make_progress
from research.tracking.records import EVALUATION, to_json
from research.tracking.run import RecordedRun
from research.tracking.settings import RunConfig
from research.tracking.signals import Halted, StopSignals
from research.train import is_due, train
from research.types import Metrics
from research.validation import recorded

_SHOWN = 6
"""Largest number of scores in the line that reports an evaluation during training."""

Report = Callable[[AdaptationCurve, Path | None], list[Path]]
"""Prints a curve, draws pictures of it in a directory (if there is one) and returns their paths."""

Draw = Callable[[AdaptationCurve, Path], list[Path]]
"""Draws the episodes of a curve in a directory and returns the paths of the pictures."""


@dataclass
class Session:
    """The execution of one command: an algorithm, its state, and the run that records them.

    The constructor refuses settings that do not fit the checkpoint, before anything is recorded.
    """

    experiment: Experiment
    algorithm: Algorithm
    run: RecordedRun
    config: Any
    columns: Mapping[str, str]
    report: Report
    draw: Draw | None = None

    def __post_init__(self) -> None:
        self.state = self.algorithm.init()
        start = self.run.start
        self.is_resumed = start is not None and start.checkpoint is not None and start.resume_at is not None
        if start is not None and start.checkpoint is not None:
            self.state = self._adopted(start.adopts) if start.adopts else start.checkpoint.restore(self.state)

    def _adopted(self, adopts: Adopted) -> Any:
        """Returns the state of another run under the settings of this one."""
        trainer, class_of = self.experiment.trainer, self.experiment.settings.class_of
        assert trainer is not None  # it has made this session
        both = ((adopts.donor, adopts.donor.config), (adopts.own, adopts.before))
        with recorded(adopts.donor.config), recorded(adopts.before):
            pairs = [(found, from_mapping(class_of(settings), settings)) for found, settings in both]
            return adopted_state(trainer.build, self.config, *pairs)

    def train(self) -> dict[str, Any]:
        """Trains from the current state to the end, then evaluates. Returns the result of the run.

        Raises:
            Stopped: A signal asked to stop, or the run has reached its `--stop-at`; everything is saved.
        """
        try:
            return self._train()
        except BaseException:
            if self.experiment.ranks.size > 1:
                # srun and torchrun end all processes once one has failed: the record is written before that.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise

    def _train(self) -> dict[str, Any]:
        total, ranks, directory = self.config.num_iterations, self.experiment.ranks, self.run.directory
        until = min(total, self.run.stop_at or total)
        if ranks.size > 1:
            self.run.info["ranks"] = ranks.size
        settings = to_mapping(self.config)
        ranks.send_settings({"settings": settings, "until": until})
        self.state = ranks.broadcast(self.state)
        with StopSignals(ranks.max) as stop:
            checkpoints = directory and self._checkpoints(directory, settings)
            if self.is_resumed:
                print(f"Resuming after iteration {self.state.iteration} of {total}.", flush=True)
            self._say_where_schedules_end()
            if directory and self.run.start and self.run.start.adopts:
                add_to_lineage(directory, self.run.start.adopts.note)
            if checkpoints and not self.is_resumed:
                checkpoints.save(self.state)  # the run can be resumed even if it is killed in the first iteration
            with make_progress(self.state.iteration, total, self.columns) as progress:
                self.state, status = train(
                    self.algorithm,
                    self.state,
                    until,
                    on_metrics=lambda iteration, metrics: self._on_metrics(iteration, metrics, progress),
                    evaluate=lambda state: self._on_evaluation(state, progress),
                    evaluate_every=self.config.eval_interval,
                    flush=self.run.flush,
                    save=checkpoints.save if checkpoints else lambda state, score: None,
                    save_every=self.config.checkpoint_interval,
                    save_seconds=self.config.checkpoint_seconds,
                    should_stop=stop.requested,
                )
            if status == "interrupted":
                message = f"Stopped after iteration {self.state.iteration} of {total}. {self.how_to_resume()}"
                print(message, flush=True)
                raise stop.stopped(message)
            if self.state.iteration < total:
                message = f"Stopped after iteration {self.state.iteration} of {total}, at --stop-at={until}."
                print(f"{message} {self.how_to_resume()}", flush=True)
                raise Halted(message)
            return self.evaluate()

    def _say_where_schedules_end(self) -> None:
        total, length = self.config.num_iterations, getattr(self.config, "schedule_iterations", None)
        if length is not None and length < total:
            print(f"Schedules end after iteration {length} (schedule_iterations={length}) and keep their last values, "
                  f"which may be 0, until {total}.", flush=True)  # fmt: skip

    def _checkpoints(self, directory: Path, settings: dict[str, Any]) -> Checkpoints:
        start = self.run.start.checkpoint if self.is_resumed and self.run.start else None
        return Checkpoints(directory / "checkpoints", self.experiment.name, settings, start, self.run.mark)

    def evaluate(self) -> dict[str, Any]:
        """Evaluates the state on the tasks of `eval_split` and reports the curve. Returns the result of the run."""
        curve = _evaluate(self.algorithm, self.state, self.config, self.config.eval_split)
        directory = self.run.directory
        if directory is not None:
            write_json(directory / EVALUATION, to_json(curve.by_task()))
            self.run.add_artifact(str(directory / EVALUATION))
        return self._result(curve, self.report(curve, directory))

    def render(self) -> dict[str, Any]:
        """Evaluates the state on the tasks of `eval_split` and draws the episodes. Returns the result of the run."""
        directory = self.run.directory
        assert self.draw is not None and directory is not None  # otherwise the run was refused
        curve = _evaluate(self.algorithm, self.state, self.config, self.config.eval_split)
        return self._result(curve, self.draw(curve, directory))

    def _result(self, curve: AdaptationCurve, pictures: list[Path]) -> dict[str, Any]:
        """Prints the paths of all files. Returns the result of the run."""
        directory = self.run.directory
        for picture in pictures:
            self.run.add_artifact(str(picture))
        if directory is None:
            print("Nothing was recorded (-u).")
        else:
            print(f"Record:      {directory}")
            if self.run.meta_info["command"] not in ("evaluate", "render"):
                print(f"Checkpoint:  {directory / 'checkpoints' / 'latest.pt'}")
            for picture in pictures:
                print(f"Picture:     {picture}")
        return {"iteration": self.state.iteration, **curve.summary()}

    def how_to_resume(self) -> str:
        """Returns the command line that resumes this run."""
        directory = self.run.directory
        if directory is None or not (directory / "checkpoints" / "latest.pt").exists():
            return "Nothing was saved from which it can be resumed."
        updates = [f"run={directory.name}"]
        if str(directory.parent) != RunConfig().runs_dir:
            updates.append(f"runs_dir={directory.parent}")
        command = [short(Path(sys.executable)), short(self.experiment.script), "resume", "with", *updates]
        return f"Resume it with:\n  {shlex.join(map(str, command))}"

    def _on_metrics(self, iteration: int, metrics: Metrics, progress: Lines) -> None:
        for name, value in metrics.items():
            self.run.log_scalar(name, value, iteration)
        progress.update(iteration, metrics)
        if not is_due(iteration, self.config.eval_interval):  # otherwise the scores of this step follow
            self.run.beat()

    def _on_evaluation(self, state: Any, progress: Lines) -> float:
        curve = _evaluate(self.algorithm, state, self.config, "validation")
        self.run.info["eval_split"] = curve.evaluated.split
        scores = [float(step.mean()) for step in curve.score]
        for step, score in enumerate(scores):
            self.run.log_scalar(f"eval/score_after_{step}", score, state.iteration)
        steps = " → ".join(f"{scores[step]:.2f}" for step in spread(len(scores), _SHOWN))
        progress.message(f"iteration {state.iteration}: {curve.label} on {curve.evaluated.tasks()} {steps}")
        return -scores[-1] if curve.lower_is_better else scores[-1]


def follow(algorithm: Algorithm, config: Any, until: int, ranks: Ranks) -> None:
    """Trains together with the first rank, from its state, and records nothing.

    It evaluates when the first rank does, which would otherwise wait for it until `TIMEOUT`. The first rank reports
    how the run ended: a stop ends this process without an error.

    Args:
        algorithm: The algorithm of this process.
        config: The settings.
        until: Last iteration.
        ranks: The processes of the run.
    """
    with StopSignals(ranks.max) as stop:
        train(
            algorithm,
            ranks.broadcast(algorithm.init()),
            until,
            evaluate=lambda state: len(_evaluate(algorithm, state, config, "validation").score),
            evaluate_every=config.eval_interval,
            should_stop=stop.requested,
        )


def build(make: Callable[[Any], Algorithm], config: Any, name: str, ranks: Ranks) -> Algorithm:
    """Returns the algorithm of this process. Raises ValueError if it cannot share its tasks, or on this device.

    Args:
        make: The class of the algorithm, or a function from the settings to an instance.
        config: The settings.
        name: Name of the experiment.
        ranks: The processes of the run.
    """
    _prepare_process(config)
    algorithm = make(config)
    if ranks.size == 1:
        return algorithm
    if not isinstance(algorithm, SharesTasks):
        raise ValueError(
            f"{ranks.size} processes were started for one run, and {name} trains in one; start it "
            "without torchrun, and with one task of srun (in a profile for Slurm: ntasks: 1)"
        )
    return algorithm.with_ranks(ranks)


def _evaluate(algorithm: Algorithm, state: Any, config: Any, split: SplitName) -> AdaptationCurve:
    return algorithm.evaluate(state, config.num_eval_tasks, config.num_adapt_steps, split)


def _prepare_process(config: Any) -> None:
    """Sets up memory, threads and, on a GPU, reproducible kernels. Raises ValueError if torch cannot use the device."""
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        here = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise ValueError(f"device={config.device!r}: torch cannot use it; here are {here}. device=cpu also continues, "
                         f"or evaluates, a run of another machine") from error  # fmt: skip
    if torch.device(config.device).type != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition, before its first product
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and not needed
    keep_freed_memory()
    torch.set_num_threads(1)  # each core works on other tasks (research/parallel.py), not on a part of a kernel
