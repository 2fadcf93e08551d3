"""Options of the command line besides those of Sacred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sacred.commandline_options import cli_option

from research.tracking.config import ConfigError
from research.tracking.settings_file import nested, parse_json


@cli_option("-O", "--overrides")
def OVERRIDES(value: str, run: Any) -> None:  # noqa: N802
    """Settings from a JSON file, as on the command line, which wins over them."""


def read_overrides(path: str | None) -> dict[str, Any]:
    """Returns the settings in a JSON file as nested mappings; its keys may be nested or dotted.

    Raises:
        ConfigError: The file is missing, or is not a JSON object.
    """
    if path is None:
        return {}
    try:
        values = parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--overrides={path}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--overrides={path}: need an object {{key: value, ...}}, this holds {values!r:.60}")
    try:
        return nested(values)
    except ConfigError as error:
        raise ConfigError(f"--overrides={path}: {error}") from error


def without_login(option: str, value: Any) -> Any:
    """Returns the value of an option without the password that the address of a database may contain."""
    if option == "--mongo_db" and value:
        return "..."
    return value.rpartition("@")[2] if option == "--sql" and value else value
