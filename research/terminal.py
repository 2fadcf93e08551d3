"""Text from files and from other people, as a terminal can show it."""

from __future__ import annotations


def printable(text: object, keep: str = "") -> str:
    r"""Returns a text without control characters: what is not printable becomes an escape sequence of Python.

    File names, settings and error messages can hold control characters, which move the cursor, change the title of the
    window or hide what stands before them, and characters that have no encoding.

    >>> printable("run\x1b[2J of me")
    'run\\x1b[2J of me'

    Args:
        text: The text, or an object with one.
        keep: Characters that stay, e.g. line ends.
    """
    letters = (one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in str(text))
    return "".join(letters)
