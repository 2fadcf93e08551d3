"""Selects runs by a mapping, a function of a row, or an expression such as `experiment=maml_trpo,config.seed<3`.

    expression = condition {"," condition}          all conditions must hold
    condition  = key ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | key " in " value {"|" value}
    key        = column of the table; `config.` may be left out if the rest is unique: `inner_lr`, `hidden_sizes`
    value      = 3 | 0.1 | true | false | none | text | "text, with a comma" | [64, 64]

A run without the setting satisfies only `!=` and `=none`. A value is compared with a text as it is written: `tag=007`
finds the tag 007 and not the tag 7, `tag=none` also the tag none. In quotes a value is always a text.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from analysis.data.identity import is_missing, is_quoted, key, read

Row = Mapping[str, Any]
Where = str | Mapping[str, Any] | Callable[[Row], Any] | None

_CONDITION = re.compile(r"\s*(?P<key>[^=!<>]+?)\s*(?P<sign>!=|<=|>=|==|=|<|>|\sin\s)\s*(?P<value>.*?)\s*", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = 'need conditions such as experiment=maml_trpo,seed<3,inner_loop in func|higher,policy.hidden_sizes="[64, 64]"'


class Condition(NamedTuple):
    """One condition on a row.

    Attributes:
        key: A column of the table, or the end of its name.
        sign: `=`, `!=`, `<`, `<=`, `>`, `>=` or `in`.
        values: The values to compare with; only `in` has more than one.
        text: The condition as it was written.
        texts: The values as they were written, to compare with texts; empty for values that were not read from a text.
    """

    key: str
    sign: str
    values: tuple[Any, ...]
    text: str
    texts: tuple[str, ...] = ()

    def holds(self, row: Row) -> bool:
        """Whether a row satisfies the condition. `key` must be the full name of a column.

        Raises:
            ValueError: The value in the row cannot be ordered against the value of the condition.
        """
        found = row.get(self.key)
        if self.sign in ("=", "in"):
            return any(_equal(found, *value) for value in self._written())
        if self.sign == "!=":
            return not _equal(found, *self._written()[0])
        if is_missing(found):
            return False
        try:
            return bool(_ORDER[self.sign](found, _as(found, *self._written()[0])))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.text}: a run has {found!r} there, which has no order with that value") from error

    def _written(self) -> list[tuple[Any, str | None]]:
        if self.texts:
            return list(zip(self.values, self.texts, strict=True))
        return [(value, None if value is None else str(value)) for value in self.values]


def parse(text: str) -> list[Condition]:
    """Returns the conditions of an expression.

    Raises:
        ValueError: The text is not an expression.

    Example:
        >>> [(one.key, one.sign, one.values) for one in parse("seed<3,inner_loop in func|higher")]
        [('seed', '<', (3,)), ('inner_loop', 'in', ('func', 'higher'))]
    """
    conditions = []
    for part in split(text, ","):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise ValueError(f"where={text!r}: {part.strip()!r} is no condition; {_FORM}")
        sign, value = match["sign"].strip().replace("==", "="), match["value"]
        texts = split(value, "|") if sign == "in" else [value]
        if any(not one.strip() for one in texts):
            raise ValueError(f"where={text!r}: {part.strip()!r} lacks a value; {_FORM}")
        texts = [one.strip() for one in texts]
        plain = tuple(one[1:-1] if is_quoted(one) else one for one in texts)
        conditions.append(Condition(match["key"], sign, tuple(map(read, texts)), part.strip(), plain))
    return conditions


def conditions(where: str | Mapping[str, Any]) -> list[Condition]:
    """Returns the conditions of an expression or of a mapping `{column: value}`; a set allows any of its values."""
    if isinstance(where, str):
        return parse(where)
    return [
        Condition(name, "in", tuple(value), f"{name} in {sorted(map(str, value))}")
        if isinstance(value, (set, frozenset))
        else Condition(name, "=", (value,), f"{name}={value!r}")
        for name, value in where.items()
    ]


def column(key: str, columns: Iterable[str]) -> str:
    """Returns the column for a key: the key itself, `config.<key>`, or the only setting whose path ends with it.

    Raises:
        ValueError: No column matches, or several do.

    Example:
        >>> column("hidden_sizes", ["seed", "config.policy.hidden_sizes"])
        'config.policy.hidden_sizes'
    """
    known = list(columns)
    for whole in (key, f"config.{key}"):
        if whole in known:
            return whole
    ending = [name for name in known if name.startswith("config.") and name.endswith(f".{key}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise ValueError(f"{key}: this may be {', '.join(ending)}; write one of them")
    raise ValueError(f"{key}: no run has that; {nearest(key, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown name: the most similar known names, or the first ones if none is similar."""
    short = {one.removeprefix("config."): one for one in known} | {one: one for one in known}
    close = list(dict.fromkeys(short[one] for one in difflib.get_close_matches(name, short, n=5, cutoff=0.5)))
    if close:
        return f"did you mean {', '.join(close)}?"
    names = sorted(set(short.values()))
    more = f", and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are {', '.join(names[:10])}{more}" if names else "there is nothing"


def describe(rows: Sequence[Row], wanted: Sequence[Condition] = ()) -> str:
    """Returns the number of runs by experiment and status, and the conditions that no run satisfies."""
    text = f"there are {len(rows)} runs: experiments {_counts(rows, 'experiment')}; statuses {_counts(rows, 'status')}"
    for condition in wanted:
        if not any(condition.holds(row) for row in rows):
            text += f"; {condition.text}: no run, the values are {_counts(rows, condition.key)}"
    return text


def _counts(rows: Sequence[Row], key: str) -> str:
    counted = Counter(str(row.get(key)) for row in rows)
    shown = ", ".join(f"{value} ({count})" for value, count in counted.most_common(8))
    return shown + (f", and {len(counted) - 8} more" if len(counted) > 8 else "")


def split(text: str, separator: str) -> list[str]:
    """Splits a text at separators that are not within quotes or brackets.

    Example:
        >>> split('a="1,2",b=[3, 4]', ",")
        ['a="1,2"', 'b=[3, 4]']
    """
    parts, start, depth, quote = [], 0, 0, ""
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[]":
            depth += 1 if sign == "[" else -1
        elif sign == separator and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    if quote or depth:
        raise ValueError(f"where={text!r}: {quote or '['} is not closed; {_FORM}")
    return [*parts, text[start:]]


def _equal(found: Any, value: Any, written: str | None) -> bool:
    if isinstance(found, str):
        return found == written
    if isinstance(found, np.datetime64):
        return bool(found == _as(found, value, written))
    return key(found) == key(value)


def _as(found: Any, value: Any, written: str | None) -> Any:
    """Returns the value of a condition in the type of the value in the row."""
    if isinstance(found, np.datetime64):
        return np.datetime64(datetime.fromisoformat(str(written)).replace(tzinfo=None), "ms")
    return value
