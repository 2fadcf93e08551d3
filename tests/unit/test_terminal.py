"""Text that reaches a terminal."""

from __future__ import annotations

import os

import pytest

from research.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("navigation-2 ünï ∇ 日本", "navigation-2 ünï ∇ 日本"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x9b31m", "\\x9b31m"),
        ("exe.\u202egnp", "exe.\\u202egnp"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
        ("back\\slash [bold]", "back\\slash [bold]"),
        (17, "17"),
    ],
)
def test_a_terminal_shows_text_and_obeys_none(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable()
    printable(text).encode()


def test_line_ends_stay_where_they_are_asked_for():
    assert printable("one\n\x1btwo", keep="\n") == "one\n\\x1btwo"
