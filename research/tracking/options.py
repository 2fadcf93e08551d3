"""Options of the command line besides those of Sacred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from research.conversion import ConfigError
from research.tracking.sacred_parts import cli_option


@cli_option("-O", "--overrides")
def OVERRIDES(value: str, run: Any) -> None:  # noqa: N802
    """Settings from a JSON or YAML file, as on the command line, which wins over them."""


@cli_option("-A", "--stop-at")
def STOP_AT(value: str, run: Any) -> None:  # noqa: N802
    """Iteration after which a training stops as if interrupted; a later `resume` or `ensure` continues it."""


@cli_option("-g", "--adopt")
def ADOPT(value: str, run: Any) -> None:  # noqa: N802
    """File that names the checkpoint of another run, with whose state and with other settings `ensure` goes on."""


def stop_at(value: Any, command: str, allowed: Sequence[str]) -> int | None:
    """Returns the iteration of `--stop-at`; None if it is not given.

    Args:
        value: Its value, a text or a number.
        command: The command.
        allowed: The commands that train.

    Raises:
        ConfigError: The value is no iteration, or the command does not train.
    """
    if value is None:
        return None
    if command not in allowed:
        raise ConfigError(f"--stop-at={value}: {command} does not train; need one of {', '.join(allowed)}")
    text = str(value)
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ConfigError(f"--stop-at={value}: need an iteration, an integer of at least 1")
    return int(text)


def without_login(option: str, value: Any) -> Any:
    """Returns the value of an option without the password that the address of a database may contain."""
    if option == "--mongo_db" and value:
        return "..."
    return value.rpartition("@")[2] if option == "--sql" and value else value
