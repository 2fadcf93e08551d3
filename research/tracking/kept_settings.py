"""Which settings a run keeps that is continued, and which ones a command line may change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.conversion import ConfigError, flatten, is_below, merge, to_mapping
from research.tracking.settings import Settings
from research.validation import recorded

_ABSENT = object()


def with_recorded(
    settings: Settings, given: Mapping[str, Any], trained: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Returns the settings of a run that `ensure` continues: what is given, and else what the run was started with.

    A setting that the run did not have had today's default, and a default that has changed is no request.

    Raises:
        ConfigError: A given setting contradicts the record.
    """
    config_class = settings.class_of(trained)
    defaults = to_mapping(config_class())
    refuse_contradictions("ensure", config_class, path, defaults | {**trained}, settings.choices(given))
    stored = merge(defaults, {key: trained[key] for key in defaults if key in trained})
    with recorded(stored):
        values = to_mapping(settings.typed(merge(stored, given))[0])
    refuse_contradictions("ensure", config_class, path, stored, values)
    named, today = flatten(given), flatten(defaults)
    for key, value in flatten(values).items():
        if key not in named and today.get(key) != value:
            default = f"; its default is {today[key]!r} now" if key in today else ""
            print(f"warning: {key}={value!r}: {path} keeps it{default}", flush=True)
    keep_schedules(values, stored)
    return values


def keep_schedules(config: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Gives the schedules of a run the length that they were started with, unless another one is asked for."""
    if "schedule_iterations" in config and config["schedule_iterations"] is None:
        length = before.get("schedule_iterations") or before["num_iterations"]
        if length != config["num_iterations"]:
            config["schedule_iterations"] = length


def refuse_contradictions(
    command: str, config_class: type[Any], path: Path, trained: Mapping[str, Any], changes: Mapping[str, Any]
) -> None:
    """Raises ConfigError if a change is neither the value in the checkpoint nor one that the Config allows."""
    is_training = command in ("resume", "ensure")
    allowed: frozenset[str] = config_class.resume_settings if is_training else config_class.evaluation_settings
    stored = flatten(trained)
    for key, value in flatten(changes).items():
        is_allowed = any(is_below(key, name) for name in allowed)
        if not is_allowed and stored.get(key, _ABSENT) != value:
            was = f"{stored[key]!r}" if key in stored else "nothing"
            raise ConfigError(
                f"{key}={value!r}: {path} was trained with {was}, and {command} keeps to it. Leave the key out, or "
                f"train a new run. Allowed here: {', '.join(sorted(allowed))}"
            )
