"""Every public name has a docstring that begins with a sentence, and the project's prose keeps to plain words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("research", "experiments", "analysis", "slurm", "benchmarks", "examples")
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if not path.name[0].isdigit()  # a notebook begins with a cell of text
}
PROSE = [*TREES, Path("README.md"), *(path.relative_to(ROOT) for path in sorted((ROOT / "docs").glob("*.md")))]

# Words that a reader stumbles over, as patterns of whole words, and what to write.
UNCLEAR = {
    r"anew": "again",
    r"beside": "next to",
    r"on end": "in a row",
    r"in place of": "instead of",
    r"unless .{1,40} say else": "unless … say otherwise",
    r"See there": "the name of the place",
}

HEADLESS = re.compile(r"(Of|What|Where|How|Those|That of|As|Whose|Between|From)\b")
"""Beginnings of an entry of Args or Attributes that lacks its noun: "Of the bootstrap." """

Definition = ast.FunctionDef | ast.ClassDef


def definitions(tree: ast.Module) -> Iterator[tuple[str, Definition, ast.ClassDef | None]]:
    """All public functions, classes and methods of a module: dotted name, node, and the class of a method."""
    pending: list[tuple[str, ast.stmt, ast.ClassDef | None]] = [("", statement, None) for statement in tree.body]
    while pending:
        prefix, node, owner = pending.pop(0)
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node, owner
            if isinstance(node, ast.ClassDef):
                pending += [(f"{prefix}{node.name}.", statement, node) for statement in node.body]


def fault(docstring: str) -> str | None:
    """What is wrong with a docstring, or None."""
    first = re.split(r"(?<=[.?!])\s|\n\n", docstring.strip())[0].replace("\n", " ")
    if not re.search(r"[.:?!]$", first) or len(first.split()) < 3 or re.match(r"(What|Of|Some)\b", first):
        return f"begins with no sentence that says what it is or does: {first!r}"
    return None


def headless_entries(docstring: str) -> list[str]:
    """Returns the entries of Args and Attributes that begin without a noun."""
    found = []
    for section in re.findall(r"^(?:Args|Attributes):\n((?: {4}.*\n?)+)", docstring, re.MULTILINE):
        entries = re.findall(r"^ {4}(\S[^:]*): (.*)", section, re.MULTILINE)
        found += [f"{name}: {text}" for name, text in entries if HEADLESS.match(text)]
    return found


# Methods of the interfaces of torch, Gymnasium, Sacred and pymongo.
EXTERNAL = {
    *("backward", "forward", "load_state_dict", "state_dict", "zero_grad", "close", "render", "reset", "step"),
    *("completed_event", "interrupted_event", "failed_event", "started", "succeeded", "failed"),
}

# A method that implements one of a base class or a Protocol is explained there.
EXPLAINED = {
    node.name
    for tree in TREES.values()
    for _, node, owner in definitions(tree)
    if owner is not None and ast.get_docstring(node)
} | EXTERNAL


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring_that_begins_with_a_sentence(package):
    faults = []
    for path, tree in TREES.items():
        if path.parts[0] == package:
            for name, node, owner in [("the module", tree, None), *definitions(tree)]:
                docstring = ast.get_docstring(node)
                if docstring is None and (owner is None or node.name not in EXPLAINED):
                    faults.append(f"{path}:{getattr(node, 'lineno', 1)}: {name} has no docstring")
                elif docstring is not None and (wrong := fault(docstring)):
                    faults.append(f"{path}:{getattr(node, 'lineno', 1)}: {name} {wrong}")
    assert not faults, "\n".join(faults)


def test_the_check_finds_what_is_no_sentence():
    assert all(fault(text) for text in ("Some time.", "What it is.", "A thing\nwithout an end"))
    assert not any(fault(text) for text in ("The mean over tasks, `[steps]`.", "Returns of the episodes.\n\nMore."))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_argument_and_attribute_is_described_by_a_noun(package):
    faults = [
        f"{path}:{getattr(node, 'lineno', 1)}: {entry}"
        for path, tree in TREES.items()
        if path.parts[0] == package
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | Definition)
        for entry in headless_entries(ast.get_docstring(node) or "")
    ]
    assert not faults, "begin with a noun, e.g. 'Number of resamples of the bootstrap.':\n" + "\n".join(faults)


def test_the_check_finds_entries_without_a_noun():
    text = "Makes it.\n\nArgs:\n    seed: Of the draws.\n    size: Number of\n        draws.\n    *rest: As above.\n"
    other = "\nReturns:\n    What: From here.\n\nAttributes:\n    end: Where it ends."
    assert headless_entries(text + other) == ["seed: Of the draws.", "*rest: As above.", "end: Where it ends."]


@pytest.mark.parametrize("pattern", UNCLEAR)
def test_prose_keeps_to_plain_words(pattern):
    word = re.compile(rf"\b{pattern}\b")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in PROSE
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line)
    ]
    assert not found, f"write {UNCLEAR[pattern]!r}:\n" + "\n".join(found)
