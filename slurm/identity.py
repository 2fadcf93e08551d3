"""Which runs are of the same experiment: same name, same values of all settings.

Code changes. A setting that a run did not have yet counts as its default of today, and a setting that no longer exists
does not count if it had its default. A default that has changed makes another experiment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from research.conversion import ConfigError, flatten, merge, overlap
from research.tracking.experiment import Experiment
from research.tracking.settings import RUN_KEYS
from research.validation import recorded
from slurm.known import Past


class Identity(NamedTuple):
    """The settings of a configuration.

    Attributes:
        hash: Identifies the name of the experiment and the settings.
        settings: Nested plain values of all settings but those of the record.
        given: Dotted keys whose value is not the default.
    """

    hash: str
    settings: Mapping[str, Any]
    given: Sequence[str]


class ChangedDefault(NamedTuple):
    """A setting whose default has changed since a run, so that the run does not count.

    Attributes:
        run: Id of the run.
        key: Dotted key.
        was: Value of the run.
        now: Default of today.
    """

    run: int
    key: str
    was: Any
    now: Any


def config_hash(name: str, config: Mapping[str, Any]) -> str:
    """Returns a hash of the experiment's name and its settings, 16 hexadecimal digits.

    The settings of the record (`RUN_KEYS`) do not enter, nor does the order of keys; 1 and 1.0 are equal.
    """
    own = {key: value for key, value in config.items() if key not in RUN_KEYS}
    text = json.dumps([name, _canonical(own)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Identifier:
    """Finds the identity of runs of one experiment, with today's code."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._defaults: dict[str, dict[str, Any]] = {}

    def identify(self, values: Mapping[str, Any]) -> Identity:
        """Returns the identity of a run with these settings; others have their default. Raises ConfigError."""
        own = {key: value for key, value in values.items() if key not in RUN_KEYS}
        settings = self._experiment.settings.complete(own)
        defaults = self._defaults_of(settings)
        flat = flatten(settings)
        given = [key for key in flat if key not in defaults or not _same(defaults[key], flat[key])]
        return Identity(config_hash(self._experiment.name, settings), settings, given)

    def identify_past(self, past: Past) -> Identity | None:
        """Returns the identity that a run has with today's code; None if the code has no such run any more."""
        if past.settings is None or past.name != self._experiment.name:
            return None
        try:
            with recorded(past.settings):
                return self.identify(self._without_removed(past.settings, past.given))
        except ConfigError:
            return None

    def changed_defaults(
        self, new: Iterable[Identity], pasts: Iterable[tuple[Past, Identity | None]]
    ) -> list[ChangedDefault]:
        """Returns the defaults that have changed since completed runs that would be new configurations otherwise."""
        asked = {self._hash_of_given(identity.settings, identity.given): identity for identity in new}
        found = []
        for past, then in pasts:
            if then is None or past.settings is None or past.given is None or past.kind != "completed":
                continue
            now = asked.get(self._hash_of_given(past.settings, past.given))
            if now is not None and now.hash != then.hash:
                before, after = flatten(then.settings), flatten(now.settings)
                different = [key for key in sorted(before.keys() | after.keys())
                             if not _same(before.get(key), after.get(key))]  # fmt: skip
                found += [ChangedDefault(past.run, key, before.get(key), after.get(key)) for key in different]
        return found

    def _defaults_of(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the defaults by dotted key of runs with the task, and with the kind of settings, of a run."""
        chosen = self._experiment.settings.choices(settings)
        key = json.dumps(chosen)
        if key not in self._defaults:
            self._defaults[key] = flatten(self._experiment.settings.complete(chosen))
        return self._defaults[key]

    def _hash_of_given(self, settings: Mapping[str, Any], given: Sequence[str]) -> str:
        """Returns a hash of the values that were given, whatever the defaults are."""
        flat, defaults = flatten(settings), self._defaults_of(settings)
        keys = {key for key in given if key not in RUN_KEYS and not _same(flat.get(key), defaults.get(key))}
        keys |= self._experiment.settings.choices(settings).keys()
        return config_hash("", {key: flat.get(key) for key in keys})

    def _without_removed(self, settings: Mapping[str, Any], given: Sequence[str] | None) -> dict[str, Any]:
        """Returns the settings without those that today's code does not have and that had their default."""
        defaults = self._defaults_of(settings)
        kept: dict[str, Any] = {}
        for key, value in flatten(settings).items():
            exists = key in defaults or any(overlap(key, other) for other in defaults)
            if key not in RUN_KEYS and (exists or given is None or key in given):
                kept = merge(kept, nest({key: value}))
        return kept


def nest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted keys as nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        *above, last = key.split(".")
        inner: dict[str, Any] = {last: value}
        for name in reversed(above):
            inner = {name: inner}
        nested = merge(nested, inner)
    return nested


def _same(one: Any, other: Any) -> bool:
    return bool(_canonical(one) == _canonical(other))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
