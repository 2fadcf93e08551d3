"""Options of the command line besides those of Sacred."""

from __future__ import annotations

from typing import Any

from sacred.commandline_options import cli_option


@cli_option("-O", "--overrides")
def OVERRIDES(value: str, run: Any) -> None:  # noqa: N802
    """Settings from a JSON or YAML file, as on the command line, which wins over them."""


def without_login(option: str, value: Any) -> Any:
    """Returns the value of an option without the password that the address of a database may contain."""
    if option == "--mongo_db" and value:
        return "..."
    return value.rpartition("@")[2] if option == "--sql" and value else value
