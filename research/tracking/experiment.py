"""Sacred experiments with settings from a typed dataclass, a record in `runs/` and errors a person can act on."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from research import distributed
from research.checkpoint import CheckpointError
from research.conversion import ConfigError, merge, plain
from research.distributed import ALONE, RankLostError, Ranks
from research.files import IS_FULL
from research.streams import any_character, logging_restored, prepare_streams
from research.terminal import printable
from research.tracking.exit_codes import BUSY
from research.tracking.lock import BusyError, Lock, one_run
from research.tracking.mongo import find_server
from research.tracking.observer import FileObserver
from research.tracking.options import ADOPT, OVERRIDES, STOP_AT, stop_at, without_login
from research.tracking.place import Place, check_id, starting
from research.tracking.provenance import git_state, library_versions, source_files
from research.tracking.records import RecordError
from research.tracking.restart import COMMANDS, TRAINING, Start, find_place, find_start, is_free
from research.tracking.run import RecordedRun
from research.tracking.sacred_parts import (
    ConfigDict,
    Source,
    apply_backspaces_and_linefeeds,
    convert_to_nested_dict,
    ensure_wellformed_argv,
    get_digest,
    sacred,
    sacred_experiment,
)
from research.tracking.settings import RUN_KEYS, Choice, Settings
from research.tracking.settings_file import read_settings, read_updates
from research.tracking.signals import Stopped
from research.validation import recorded

ROOT = Path(__file__).resolve().parents[2]

USAGE_ERROR = 2
"""Exit code of a run that was refused: nothing was run, nothing was recorded."""


class Trainer(Protocol):
    """The part of an experiment that knows the algorithm. `commands.add_commands` gives it to an experiment."""

    def build(self, config: Any) -> Any:
        """Returns the algorithm with these settings. Raises ValueError if they do not go together."""

    def prepare(self, command: str, run: RecordedRun, config: Any) -> Any:
        """Returns the session of a command, before anything is recorded. Raises ValueError to refuse the run."""

    def follow(self, ranks: Ranks) -> None:
        """Does the work of every process but the first, when several were started as the ranks of one run."""


def make_experiment(
    name: str,
    config_class: type[Any] | str | Choice,
    *,
    script: str,
    description: str | None = None,
    named_configs: Mapping[str, Mapping[str, Any]] | None = None,
    ingredients: Sequence[sacred.Ingredient] = (),
) -> Experiment:
    """A Sacred experiment whose settings are those of a dataclass and those of `RunConfig`.

    Args:
        name: Name of the experiment, and of the algorithm in checkpoints.
        config_class: A frozen dataclass with a default for every field and an int field `seed`, or a choice of
            several. Defaults stand there and nowhere else. The name of an algorithm in `ALGORITHMS` stands for the
            class of its settings, which is imported by the first command that reads settings: so help comes at once.
        script: `__file__` of the script.
        description: Text that `--help` shows, usually `__doc__`.
        named_configs: Differences from the defaults by name, as nested plain values.
        ingredients: Ingredients of Sacred, with settings of their own.
    """
    experiment = Experiment(name, config_class, script, description or "", ingredients)
    for key, differences in (named_configs or {}).items():
        experiment.add_named_config(key, dict(differences))
    return experiment


class Experiment(sacred.Experiment):
    """A Sacred experiment; `make_experiment` makes one.

    Attributes:
        script: The script that defines the experiment.
        settings: The settings that it has.
        trainer: The part that knows the algorithm; None without the commands of `commands.add_commands`.
        ranks: The processes that share the run.
    """

    default_command: Any
    captured_out_filter: Any

    def __init__(
        self,
        name: str,
        config_class: type[Any] | str | Choice,
        script: str,
        description: str,
        ingredients: Sequence[sacred.Ingredient] = (),
    ):
        sacred.SETTINGS.CAPTURE_MODE = "sys"
        # `provenance` finds both: faster, complete, and with or without git.
        sacred.SETTINGS.DISCOVER_SOURCES = "none"
        sacred.SETTINGS.DISCOVER_DEPENDENCIES = "none"
        # The numbers or the speed of a run can depend on these. Never anything secret.
        sacred.SETTINGS.HOST_INFO.CAPTURED_ENV = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
        options = [OVERRIDES, STOP_AT, ADOPT]
        super().__init__(name, ingredients, base_dir=str(ROOT), save_git_info=False, additional_cli_options=options)
        self.name = name
        self.script = Path(script)
        self.doc = description
        self.mainfile = Source.create(script, False)
        self.captured_out_filter = apply_backspaces_and_linefeeds
        self.settings = Settings(config_class, ingredients, self.named_configs)
        self.trainer: Trainer | None = None
        self.ranks = ALONE
        self._from_command_line = False
        self.add_config({})  # `_create_run` fills it

        # Sacred calls it once all settings are known, before anything is done with them.
        self.config_hook(lambda config, command_name, logger: self._check(config, command_name))

    def _check(self, values: Mapping[str, Any], command: str) -> dict[str, Any]:
        own = {"config_filename"} if command == "save_config" else set()
        self.settings.typed({key: value for key, value in values.items() if key not in own})
        return {}

    def get_experiment_info(self) -> dict[str, Any]:
        """Name, sources, library versions and git state."""
        files = source_files(ROOT, self.script)
        names = (str(path.relative_to(ROOT) if ROOT in path.parents else path) for path in files)
        return {
            **super().get_experiment_info(),
            "sources": list(zip(names, map(get_digest, map(str, files)), strict=True)),
            "dependencies": list(library_versions()),
            "repositories": git_state(ROOT),
        }

    def run_commandline(self, argv: Any = None) -> Any:
        """Runs the command of a command line. Exits with 2 for invalid settings; `exit_codes` has the others.

        If several ranks were started, the first one does so and tells the others their work.
        """
        prepare_streams(in_record=True)
        argv = ensure_wellformed_argv(argv)
        self._from_command_line = True
        try:
            self.ranks = distributed.join()
            if self.ranks.rank > 0:
                return self.trainer.follow(self.ranks) if self.trainer else None
            return super().run_commandline(argv)
        except RankLostError as error:
            raise _refusal(error, 1) from None
        except KeyboardInterrupt:
            run: Any = self.current_run
            print(f"\nStopped at once. {run.session.how_to_resume() if run and run.session else ''}", file=sys.stderr)
            raise SystemExit(130) from None
        finally:
            self.ranks.leave()
            self.ranks = ALONE
            self._from_command_line = False

    def run(self, *arguments: Any, **named: Any) -> Any:
        """Runs a command, with the arguments of Sacred's `run`. Runs of several threads take turns.

        Raises:
            ConfigError: A setting is invalid.
            CheckpointError: A checkpoint cannot be used.
            RecordError: A file of the record is damaged.
            BusyError: Another process writes the record of the run.
            Stopped: A signal stopped the run; everything is saved.
        """
        if not self._from_command_line:
            with one_run(), logging_restored(), any_character():
                return super().run(*arguments, **named)
        try:
            with logging_restored():
                return super().run(*arguments, **named)
        except (ConfigError, CheckpointError, RecordError) as error:
            if named["options"]["--debug"]:
                raise
            raise _refusal(error) from None
        except BusyError as error:
            raise _refusal(error, BUSY) from None
        except OSError as error:
            if named["options"]["--debug"] or error.errno not in IS_FULL or error.filename is None:
                raise
            problem = f"{error.filename} cannot be written ({error.strerror})"
            raise _refusal(OSError(f"{problem}; the run stops, and its record may not say so. Make room, then repeat "
                                   "the command, or `resume` the run if it has a checkpoint"), 1) from None  # fmt: skip
        except Stopped as stopped:
            raise SystemExit(stopped.exit_code) from None

    def _create_run(
        self,
        command_name: str | None = None,
        config_updates: Mapping[str, Any] | None = None,
        named_configs: Sequence[str] = (),
        info: Any = None,
        meta_info: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> RecordedRun:
        options = {**self.get_default_options(), **(options or {})}
        updates = _all_updates(config_updates or {}, options)
        command = str(command_name or self.default_command)
        until = stop_at(options["--stop-at"], command, TRAINING)
        # Sacred's own check knows less than `_check` (`--force` turns it off), and its observers of files and MongoDB
        # are not used.
        ours = {**options, "--force": True, "--file_storage": None, "--mongo_db": None}
        if options["--id"] is not None:
            ours["--id"] = check_id(options["--id"], "-i ")
        naming = self.settings.naming_source(updates, named_configs)
        with naming, contextlib.ExitStack() as on_error, contextlib.ExitStack() as always:
            given = self.settings.given(updates, named_configs)
            place = self._find_place(command, given)
            lock = None if place is None else self._lock(place)
            if lock is not None:
                on_error.callback(lock.release)
            start = self._find_start(command, updates, given, place, options["--adopt"])
            config = given if start is None else start.config
            always.enter_context(recorded({} if start is None else start.recorded))
            self.configurations[0] = ConfigDict(self.settings.defaults(config))
            run = RecordedRun.adopt(super()._create_run(command, config, (), info, meta_info, ours))
            shown = {key: without_login(key, value) for key, value in options.items()}
            run.meta_info |= {"options": shown, "config_updates": updates, "named_configs": list(named_configs)}
            run.stop_at = until
            if not run.main_function.unobserved:
                run.start = start
                self._observe(command, run, lock, options["--mongo_db"])
            on_error.pop_all()
        return run

    def _observe(self, command: str, run: RecordedRun, lock: Lock | None, mongo: str | None) -> None:
        """Gives a run its session and its observers. Raises ConfigError, CheckpointError or BusyError to refuse it."""
        (config, run_config), start = self.settings.typed(run.config), run.start
        is_complete = start is not None and start.is_complete
        run.unobserved = run.unobserved or is_complete
        if run.unobserved and lock is not None:
            lock.release()  # nothing is written
        if is_complete:
            return
        try:
            run.session = self.trainer.prepare(command, run, config) if self.trainer else None
        except (ConfigError, CheckpointError):
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from error
        resume_at, source = (start.resume_at, start.checkpoint) if start else (None, None)
        observer = FileObserver(Path(run_config.runs_dir), resume_at, RUN_KEYS, lock, source)
        server = None if run.unobserved else find_server(mongo)
        if start is not None and start.place is not None:
            if run._id not in (None, start.place.id):
                raise ConfigError(f"-i {run._id}: {command} writes run {start.place.id}; leave -i out")
            run._id = None
        if run._id is not None and (observer.basedir / str(run._id)).exists():
            _take_folder(observer, run._id, command)
        with starting(observer.basedir):
            observer.basedir.mkdir(parents=True, exist_ok=True)
            if start is not None and start.place is not None:
                run._id = start.place.id
            else:
                tempfile.TemporaryFile(dir=observer.basedir).close()
        run.observers.extend([observer, server.mirror(observer)] if server else [observer])

    def _find_start(
        self, command: str, updates: Mapping[str, Any], given: Mapping[str, Any], place: Place | None, adopt: str | None
    ) -> Start | None:
        """Returns the start of a command that continues from a record or a checkpoint; None for other commands."""
        if self.trainer is None:
            return None
        for key in ("run", "checkpoint") if command == self.default_command else ():
            if updates.get(key) is not None:
                raise ConfigError(f"{key}={updates[key]!r}: {command} starts a new run; to continue this one: "
                                  f"resume with {key}={updates[key]}")  # fmt: skip
        return find_start(command, self.name, self.settings, given, place, adopt) if command in COMMANDS else None

    def _find_place(self, command: str, given: Mapping[str, Any]) -> Place | None:
        """Returns the place of the record that a command continues; None for other commands."""
        if self.trainer is None:
            return None
        place = find_place(command, given)
        if command == "ensure" and place is not None and not place.directory.exists():
            self.settings.typed(given)  # refuses wrong settings before it makes a folder
        return place

    def _lock(self, place: Place) -> Lock:
        """Returns the lock of a record, taken before anything of it is read."""
        with starting(place.runs_dir):
            place.directory.mkdir(parents=True, exist_ok=True)
            return Lock(place.directory)


def _take_folder(observer: FileObserver, _id: Any, command: str) -> None:
    """Takes the lock of a folder that is there already. Raises ConfigError or RecordError if a run is in it."""
    observer.lock(_id)
    directory = observer.basedir / str(_id)
    try:
        if not is_free(directory, command):
            raise ConfigError(f"-i {_id}: {directory} exists already; choose another id, or none")
    except ValueError:
        observer.unlock()
        raise


def _all_updates(given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are given, over those of the file of `--overrides`."""
    path = options["--overrides"]
    below = {} if path is None else read_settings(Path(path), "--overrides=")
    updates = merge(below, convert_to_nested_dict(plain(given)))
    return updates | ({"runs_dir": options["--file_storage"]} if options["--file_storage"] else {})


def _updates(parts: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Stands for Sacred's reader of a command line, which calls the functions that a value names."""
    try:
        return read_updates(parts)
    except ConfigError as error:
        raise _refusal(error) from None


sacred_experiment.get_config_updates = _updates  # type: ignore[attr-defined]  # Sacred has no hook for it


def _refusal(error: Exception, exit_code: int = USAGE_ERROR) -> SystemExit:
    print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
    return SystemExit(exit_code)
