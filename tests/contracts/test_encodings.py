"""Files and the output of programs are UTF-8, whatever the locale: no text is read or written without an encoding."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("analysis", "benchmarks", "examples", "experiments", "research", "slurm")
OTHERS = ("os", "Image", "self", "sweep", "source", "target")
"""Owners of an `open` that opens no text: a descriptor, a picture, a sweep's runs that are to be done, an archive."""


def without_encoding(source: str) -> list[int]:
    """Returns the lines of the calls that use the encoding of the locale."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if is_text(call) and not has_encoding(call)]


def has_encoding(call: ast.Call) -> bool:
    return any(word.arg in ("encoding", None) for word in call.keywords)  # None: **words


def is_text(call: ast.Call) -> bool:
    """Whether the call reads or writes text."""
    words = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    if words.get("text") is True or words.get("universal_newlines") is True:  # of subprocess
        return True
    is_method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        owner = getattr(call.func.value, "id", None) if isinstance(call.func, ast.Attribute) else None
        modes = [getattr(argument, "value", "r") for argument in call.args[0 if is_method else 1 :][:1]]
        return owner not in OTHERS and "b" not in words.get("mode", (modes or ["r"])[0])
    return is_method and (name, len(call.args)) in {("read_text", 0), ("write_text", 1)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_has_an_encoding(folder):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not found, "add encoding='utf-8', or write_text of research.files: " + " ".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "open(p)",
        "p.open('w')",
        "p.open()",
        "p.read_text()",
        "p.write_text(t)",
        "run(c, text=True)",
        "open(p, mode='a')",
    ],
)
def test_a_text_in_the_encoding_of_the_locale_is_found(source):
    assert without_encoding(source) == [1]


@pytest.mark.parametrize(
    "source",
    ["open(p, 'rb')", "p.open('xb')", "p.read_text('utf-8')", "write_text(p, t)", "p.read_bytes()", "os.open(p, 0)",
     "run(c, text=True, encoding='utf-8')", "p.open(encoding='utf-8')"],
)  # fmt: skip
def test_others_are_not(source):
    assert not without_encoding(source)
