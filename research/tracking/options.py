"""Options of the command line beside Sacred's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sacred.commandline_options import cli_option
from sacred.utils import convert_to_nested_dict

from research.tracking.config import ConfigError


@cli_option("-O", "--overrides")
def OVERRIDES(value: str, run: Any) -> None:  # noqa: N802
    """Settings from a JSON file, as if they stood on the command line, which wins over them."""


def read_overrides(path: str | None) -> dict[str, Any]:
    """The settings in a JSON file, nested. Keys may be nested or dotted; values are taken as they are.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    if path is None:
        return {}
    try:
        values = json.loads(Path(path).read_text(), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--overrides={path}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--overrides={path}: need an object {{key: value, ...}}, this holds {values!r:.60}")
    return dict(convert_to_nested_dict(values))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
