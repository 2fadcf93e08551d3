"""Options of the command line besides those of Sacred."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sacred.commandline_options import cli_option
from sacred.utils import convert_to_nested_dict

from research.tracking.config import ConfigError


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
        values = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--overrides={path}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--overrides={path}: need an object {{key: value, ...}}, this holds {values!r:.60}")
    return dict(convert_to_nested_dict(values))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def without_login(option: str, value: Any) -> Any:
    """Returns the value of an option without the password that the address of a database may contain."""
    if option == "--mongo_db" and value:
        return "..."
    return value.rpartition("@")[2] if option == "--sql" and value else value


def refuse_bare_commas(argv: Sequence[str]) -> None:
    """Raises ConfigError for a value such as `inner_lr=0,1`, which Sacred reads as [0, 1] and which often means 0.1."""
    updates = argv[argv.index("with") + 1 :] if "with" in argv else []
    for update in updates:
        key, _, text = update.partition("=")
        text = text.strip()
        if text.startswith(("(", "[")) or key.startswith("-"):
            continue
        try:
            is_tuple = isinstance(ast.literal_eval(text), tuple)
        except (ValueError, SyntaxError):
            continue
        if is_tuple:
            raise ConfigError(
                f"{key}={text}: a comma outside of brackets; write {key}={text.replace(',', '.', 1)} for a number or "
                f"{key}=[{text}] for a list"
            )
