"""Sacred experiments with settings from a typed dataclass, a record in `runs/` and errors a person can act on."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sacred
from sacred.config import ConfigDict, load_config_file
from sacred.dependencies import Source, get_digest
from sacred.utils import apply_backspaces_and_linefeeds, convert_to_nested_dict, ensure_wellformed_argv

from research import distributed
from research.checkpoint import CheckpointError
from research.distributed import ALONE, RankLostError, Ranks
from research.tasks import REGRESSION_TASKS, TASKS
from research.tracking.config import ConfigError, construct, convert_fields, to_mapping
from research.tracking.ingredients import Ingredients
from research.tracking.lock import BusyError, Lock
from research.tracking.mongo import find_server
from research.tracking.observer import FileObserver
from research.tracking.options import OVERRIDES, read_overrides, refuse_bare_commas, without_login
from research.tracking.provenance import digests, git_state, library_versions, source_files
from research.tracking.restart import (
    CHANGEABLE,
    RunConfig,
    Start,
    ensured_directory,
    find_ensured,
    find_start,
    is_free,
    merge,
)
from research.tracking.run import RecordedRun
from research.tracking.signals import BUSY, Stopped

ROOT = Path(__file__).resolve().parents[2]

USAGE_ERROR = 2
"""Exit code of a run that was refused: nothing was run, nothing was recorded."""


def make_experiment(
    name: str,
    config_class: type[Any],
    *,
    script: str,
    description: str | None = None,
    named_configs: Mapping[str, Mapping[str, Any]] | None = None,
    ingredients: Sequence[sacred.Ingredient] = (),
) -> Experiment:
    """A Sacred experiment whose settings are those of a dataclass, and those of `RunConfig`.

    Args:
        name: Name of the experiment, and of the algorithm in checkpoints.
        config_class: A frozen dataclass with a default for every field and an int field `seed`. It is the only place
            where defaults stand.
        script: `__file__` of the script.
        description: Shown by `--help`, usually `__doc__`.
        named_configs: Differences from the defaults, as nested plain values.
        ingredients: Sacred's, with settings of their own.
    """
    experiment = Experiment(name, config_class, script, description or "", ingredients)
    for key, differences in (named_configs or {}).items():
        experiment.typed(differences)
        experiment.named_configs[key] = _Differences(dict(differences))
    return experiment


class _Differences(ConfigDict):
    """A named config that stays as it is: Sacred merges later ones into the mappings that it is handed."""

    def __call__(self, fixed: Any = None, preset: Any = None, fallback: Any = None) -> Any:
        return ConfigDict(copy.deepcopy(self._conf))(fixed, preset, fallback)


class Experiment(sacred.Experiment):
    """See `make_experiment`.

    Attributes:
        script: The script that defines the experiment.
        prepare: If set, called as `prepare(command, run, config, start)` once settings are valid and before anything
            is recorded; what it returns becomes `run.session`. A ValueError from it refuses the run.
        build: If set, makes from the settings what is trained; a ValueError from it says that they do not go together.
        follow: If set, what every process but the first does when several were started as the ranks of one run.
        ranks: Those processes.
    """

    default_command: Any
    captured_out_filter: Any

    def __init__(
        self,
        name: str,
        config_class: type[Any],
        script: str,
        description: str,
        ingredients: Sequence[sacred.Ingredient] = (),
    ):
        sacred.SETTINGS.CAPTURE_MODE = "sys"
        # Both are gathered by `provenance`: faster, complete, and with or without git.
        sacred.SETTINGS.DISCOVER_SOURCES = "none"
        sacred.SETTINGS.DISCOVER_DEPENDENCIES = "none"
        # What the numbers or the speed of a run can depend on. Never anything secret.
        sacred.SETTINGS.HOST_INFO.CAPTURED_ENV = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
        super().__init__(name, ingredients, base_dir=str(ROOT), save_git_info=False, additional_cli_options=[OVERRIDES])
        self._parts = Ingredients(ingredients)
        self.name = name
        self.script = Path(script)
        self.doc = description
        self.mainfile = Source.create(script, False)
        self.config_class = config_class
        self.captured_out_filter = apply_backspaces_and_linefeeds
        self.prepare: Callable[[str, RecordedRun, Any, Start | None], Any] | None = None
        self.build: Callable[[Any], Any] | None = None
        self.follow: Callable[[Ranks], None] | None = None
        self.ranks = ALONE
        self._from_command_line = False
        self._settings = _union_of(config_class, RunConfig)
        self.add_config(to_mapping(config_class()) | to_mapping(RunConfig()))

        # Sacred calls it once all settings are known, before anything is done with them.
        self.config_hook(lambda config, command_name, logger: self._check(config, command_name))

    def typed(self, values: Mapping[str, Any]) -> tuple[Any, RunConfig]:
        """The settings of the algorithm and of the run. Raises ConfigError."""
        arguments = convert_fields(self._settings, self._parts.without(values))
        task: Any = {**TASKS, **REGRESSION_TASKS}.get(arguments.get("task", ""))
        if task is not None and "task_args" in arguments:
            reserved = frozenset(field.name for field in dataclasses.fields(self.config_class))
            arguments["task_args"] = convert_fields(task, arguments["task_args"], "task_args", reserved)
            construct(task, arguments["task_args"], "task_args")  # checks the ranges
        if not 0 <= arguments.get("seed", 0) < 2**32:
            raise ConfigError(f"seed={arguments['seed']}: need an integer from 0 to {2**32 - 1}")
        own = {name: arguments.pop(name) for name in RunConfig.__dataclass_fields__ if name in arguments}
        return construct(self.config_class, arguments), construct(RunConfig, own)

    def _check(self, values: Mapping[str, Any], command: str) -> dict[str, Any]:
        own = {"config_filename"} if command == "save_config" else set()
        self.typed({key: value for key, value in values.items() if key not in own})
        return {}

    def get_experiment_info(self) -> dict[str, Any]:
        """Name, sources, library versions and git state."""
        sources = source_files(ROOT, self.script)
        return {
            **super().get_experiment_info(),
            "sources": digests(sources, ROOT, get_digest),
            "dependencies": list(library_versions()),
            "repositories": git_state(ROOT),
        }

    def run_commandline(self, argv: Any = None) -> Any:
        """Runs what the command line says. Exits with 2 for settings that cannot be; see `signals` for other codes.

        Of several ranks the first one does, and tells the others what there is for them to do.
        """
        argv = ensure_wellformed_argv(argv)
        try:
            refuse_bare_commas(argv)
        except ConfigError as error:
            raise _refusal(error) from None
        self._from_command_line = True
        try:
            self.ranks = distributed.join()
            if self.ranks.rank > 0:
                return self.follow(self.ranks) if self.follow else None
            return super().run_commandline(argv)
        except RankLostError as error:
            raise _refusal(error, 1) from None
        except KeyboardInterrupt:
            session = getattr(self.current_run, "session", None)
            print(f"\nStopped at once. {session.how_to_go_on() if session else ''}", file=sys.stderr)
            raise SystemExit(130) from None
        finally:
            self.ranks.leave()
            self.ranks = ALONE
            self._from_command_line = False

    def run(self, *arguments: Any, **named: Any) -> Any:
        """See Sacred.

        Raises:
            ConfigError, CheckpointError: The settings cannot be.
            BusyError: Another process is at work on the run.
            Stopped: A signal asked for it; everything is saved.
        """
        try:
            return super().run(*arguments, **named)
        except (ConfigError, CheckpointError) as error:
            if not self._from_command_line or named["options"]["--debug"]:
                raise
            raise _refusal(error) from None
        except BusyError as error:
            if not self._from_command_line:
                raise
            raise _refusal(error, BUSY) from None
        except Stopped as stopped:
            if not self._from_command_line:
                raise
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
        given = merge(read_overrides(options["--overrides"]), convert_to_nested_dict(dict(config_updates or {})))
        if options["--file_storage"]:
            given["runs_dir"] = options["--file_storage"]
        self._refuse_unknown_names(named_configs)
        command = str(command_name or self.default_command)
        lock = self._lock_ensured(given, named_configs) if command == "ensure" and self.prepare else None
        try:
            return self._make_run(command, given, named_configs, info, meta_info, options, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def _make_run(
        self,
        command: str,
        given: dict[str, Any],
        named_configs: Sequence[str],
        info: Any,
        meta_info: Any,
        options: Mapping[str, Any],
        lock: Lock | None,
    ) -> RecordedRun:
        start = self._find_start(command, given, named_configs)
        updates, names = (given, named_configs) if start is None else (start.config, ())
        if start is not None and start.resume_at is not None:
            record = Path(start.config["runs_dir"], str(start.run_id))
            updates = start.config | self._parts.of_record(record, self._explicit(given, named_configs))
        # Sacred's own check knows less than ours (`--force` turns it off), and its observers of files and MongoDB are
        # not ours.
        ours = {**options, "--force": True, "--file_storage": None, "--mongo_db": None}
        run = RecordedRun.adopt(super()._create_run(command, updates, names, info, meta_info, ours))
        recorded = {key: without_login(key, value) for key, value in options.items()}
        run.meta_info |= {"options": recorded, "config_updates": given, "named_configs": list(named_configs)}
        self._observe(command, run, start, lock, options["--mongo_db"])
        return run

    def _observe(
        self, command: str, run: RecordedRun, start: Start | None, lock: Lock | None, mongo: str | None
    ) -> None:
        """Gives a run its session and its observers; both may still refuse it."""
        if run.main_function.unobserved:
            return
        config, run_config = self.typed(run.config)
        with _refusing():
            run.session = self.prepare(command, run, config, start) if self.prepare else None
            if start is not None and start.is_complete:
                run.unobserved = True
                if lock is not None:
                    lock.release()
                return
            resume_at = start.resume_at if start else None
            kept = frozenset(RunConfig.__dataclass_fields__)
            observer = FileObserver(Path(run_config.runs_dir), resume_at, kept, lock)
            server = None if run.unobserved else find_server(mongo)
            chosen = run._id
            directory = observer.basedir / str(chosen)
            if chosen is not None and directory.exists():
                if not is_free(directory, command):
                    raise ConfigError(f"-i {chosen}: {directory} exists already; choose another id, or none")
                observer.lock(chosen)
            with _writing(f"runs_dir={run_config.runs_dir!r}"):
                observer.basedir.mkdir(parents=True, exist_ok=True)
                if start is not None and start.run_id is not None:
                    run._id = start.run_id
                    observer.lock(start.run_id)
                else:
                    tempfile.TemporaryFile(dir=observer.basedir).close()
        run.observers.append(observer)
        if server is not None:
            run.observers.append(server.mirror(observer))

    def _find_start(self, command: str, given: dict[str, Any], names: Sequence[str]) -> Start | None:
        if self.prepare is None or command not in {*CHANGEABLE, self.default_command}:
            return None
        for key in ("run", "checkpoint"):
            if command == self.default_command and given.get(key) is not None:
                raise ConfigError(
                    f"{key}={given[key]!r}: {command} starts anew; to go on with a run: resume with {key}={given[key]}"
                )
        if command not in CHANGEABLE:
            return None
        explicit = self._explicit(given, names)
        if command == "ensure":
            config, run_config = self.typed(explicit)
            start = find_ensured(self.name, to_mapping(config), run_config)
            is_new = start.resume_at is None and not start.is_complete
        else:
            own = self._parts.without(explicit)
            convert_fields(self._settings, own)
            start = find_start(command, self.name, self.config_class, own)
            is_new = start.run_id is None
        if is_new:  # a record that is gone on with keeps the settings of its ingredients
            start.config.update({path: explicit[path] for path in self._parts.known if path in explicit})
        return start

    def _explicit(self, given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """What was set, be it by named configs, as nested plain values."""
        explicit: dict[str, Any] = {}
        for name in names:
            named = self.named_configs[name]() if name in self.named_configs else load_config_file(name)
            explicit = merge(explicit, dict(named))
        return merge(explicit, given)

    def _lock_ensured(self, given: Mapping[str, Any], names: Sequence[str]) -> Lock:
        """The lock of the run that is to be ensured, before anybody looks at what there is of it."""
        _, run_config = self.typed(self._explicit(given, names))
        directory = ensured_directory(run_config)
        with _writing(f"runs_dir={run_config.runs_dir!r}"):
            directory.mkdir(parents=True, exist_ok=True)
            return Lock(directory)

    def _refuse_unknown_names(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.named_configs and not Path(name).is_file():
                nearest = difflib.get_close_matches(name, self.named_configs, n=1)
                advice = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(self.named_configs)}"
                raise ConfigError(f"{name}: no such named config (and no key=value); {advice}")


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """A ValueError inside, which names a setting, becomes a ConfigError."""
    try:
        yield
    except (ConfigError, CheckpointError):
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def _writing(setting: str) -> Iterator[None]:
    """An OSError inside becomes a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{setting}: {error.filename} cannot be written ({error.strerror}); choose another place"
        ) from error


def _refusal(error: Exception, exit_code: int = USAGE_ERROR) -> SystemExit:
    print(f"error: {error}", file=sys.stderr)
    return SystemExit(exit_code)


def _union_of(*classes: type[Any]) -> type[Any]:
    """A dataclass with the fields of all: settings share one namespace on the command line."""
    fields: dict[str, Any] = {}
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in fields:
                raise TypeError(f"{cls.__name__}.{field.name}: another class of settings has this field already")
            fields[field.name] = (field.name, hints[field.name], dataclasses.field(default=None))
    return dataclasses.make_dataclass("Settings", fields.values())
