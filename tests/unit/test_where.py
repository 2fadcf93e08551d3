"""Expressions that choose runs: what is written is what is meant, and what cannot be meant is refused with what can."""

from __future__ import annotations

import json
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.data.where import Condition, column, conditions, describe, nearest, parse, split

COLUMNS = ["experiment", "status", "seed", "config.seed", "config.inner_lr", "config.policy.hidden_sizes"]
SIGNS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS = st.integers(-100, 100) | st.floats(-100, 100, allow_nan=False)
TEXTS = st.text(st.characters(exclude_characters="\"'", exclude_categories=["Cs"]), min_size=1)


def holds(text, row):
    return all(condition.holds(row) for condition in parse(text))


@given(st.sampled_from(sorted(SIGNS)), NUMBERS, NUMBERS)
def test_numbers_compare_as_numbers(sign, value, found):
    assert holds(f" k {sign} {value!r} ", {"k": found}) == SIGNS[sign](found, value)


@given(st.lists(NUMBERS, min_size=1, max_size=5), NUMBERS)
def test_in_means_any_of_them(values, found):
    assert holds(f"k in {'|'.join(map(repr, values))}", {"k": found}) == (found in values)


@given(TEXTS, TEXTS)
def test_quoted_text_is_taken_as_it_is(value, found):
    assert holds(f'k="{value}"', {"k": found}) == (found == value)
    assert holds(f'k="{value}",k=\'{value}\',k in "{value}"|1', {"k": value})


@given(st.recursive(NUMBERS | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_whatever_json_has_can_be_asked_for(value):
    row = {"k": json.loads(json.dumps(value), object_hook=None)}
    assert holds(f"k={json.dumps(value)}", row)
    assert all(test.holds(row) for test in conditions({"k": value}))


@given(st.lists(st.sampled_from(["a", "b,c", "[1, 2]", '"x,y"']), min_size=1, max_size=6))
def test_splitting_respects_quotes_and_brackets(parts):
    whole = [part if part[0] in '["' else f'"{part}"' for part in parts]
    assert split(",".join(whole), ",") == whole


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("experiment=maml_trpo,seed<3", {"experiment": "maml_trpo", "seed": 2}, True),
        ("experiment=maml_trpo,seed<3", {"experiment": "maml_trpo", "seed": 3}, False),
        ("k=true", {"k": True}, True),
        ("k=1", {"k": True}, False),
        ("k=3", {"k": "3"}, True),
        ("k=none", {}, True),
        ("k=none", {"k": float("nan")}, True),
        ("k!=3", {}, True),
        ("k<3", {}, False),
        ("k=[64, 64]", {"k": (64, 64)}, True),
        ("k=[64,64],j=1", {"k": (64, 64), "j": 1}, True),
        ("k=[64]", {"k": 64}, False),
        ("k=007", {"k": "007"}, True),
        ("k=007", {"k": "7"}, False),
        ("k=7", {"k": "007"}, False),
        ("k=0.10", {"k": "0.10"}, True),
        ("k=1e-3", {"k": "1e-3"}, True),
        ("k=1e-3", {"k": 0.001}, True),
        ("k=2024_01_05", {"k": "2024_01_05"}, True),
        ("k=2_0", {"k": 20}, False),
        ("k=nan", {"k": "nan"}, True),
        ("k=nan", {"k": float("nan")}, True),
        ("k=none", {"k": "none"}, True),
        ('k="none"', {"k": None}, False),
        ("k=true", {"k": "true"}, True),
        ("k=true", {"k": 1}, False),
        ("k!=none", {"k": "none"}, False),
        ("k in 007|v1", {"k": "007"}, True),
        ("k=1", {"k": 1.0000001}, False),
        ("k=[true]", {"k": (1,)}, False),
        ("k==func", {"k": "func"}, True),
        ("k=a in b", {"k": "a in b"}, True),
        ("started>2030-01-01", {"started": np.datetime64("2030-01-02T03", "ms")}, True),
        ("started<2030-01-02T02:59", {"started": np.datetime64("2030-01-02T03", "ms")}, False),
    ],
)
def test_what_conditions_mean(text, row, expected):
    assert holds(text, row) is expected


def test_mappings_say_the_same():
    row = {"config.k": 3, "config.layers": (4, 4)}
    for where, expected in (({"config.k": 3}, True), ({"config.k": {1, 3}}, True), ({"config.k": {1}}, False)):
        assert all(test.holds(row) for test in conditions(where)) is expected
    assert all(test.holds(row) for test in conditions({"config.layers": [4, 4]}))
    for value, found, expected in ((None, "None", False), (None, None, True), ("007", "007", True), (7, "007", False)):
        assert all(test.holds({"k": found}) for test in conditions({"k": value})) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "'seed' is no condition; need conditions such as experiment=maml_trpo"),
        ("seed=", "'seed=' lacks a value"),
        ("seed<3,", "'' is no condition"),
        ("=3", "'=3' is no condition"),
        ("seed in 1||2", "lacks a value"),
        ('task="a', "is not closed"),
        ("task=[1,2", "is not closed"),
    ],
)
def test_what_is_no_expression_is_refused(text, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        parse(text)
    assert message in str(refused.value)


def test_values_without_order_are_refused():
    with pytest.raises(ValueError, match=r"config\.task<3: a run has 'cheetah_vel' there, which has no order with"):
        Condition("config.task", "<", (3,), "config.task<3").holds({"config.task": "cheetah_vel"})


def test_keys_may_be_short_where_they_are_clear():
    assert column("seed", COLUMNS) == "seed"
    assert column("inner_lr", COLUMNS) == "config.inner_lr"
    assert column("hidden_sizes", COLUMNS) == "config.policy.hidden_sizes"
    with pytest.raises(ValueError, match=r"lr: this may be config\.a\.lr, config\.b\.lr; write one of them"):
        column("lr", ["config.a.lr", "config.b.lr"])
    with pytest.raises(ValueError, match=r"iner_lr: no run has that; did you mean config\.inner_lr\?"):
        column("iner_lr", COLUMNS)


def test_nearest_names_or_what_there_is():
    assert nearest("zzz", ["b", "a"]) == "there are a, b"
    assert nearest("zzz", [f"{i:02}" for i in range(12)]).endswith("08, 09, and 2 more")
    assert nearest("x", []) == "there is nothing"


def test_what_there_is():
    rows = [{"experiment": "a", "status": "COMPLETED", "k": 1}, {"experiment": "a", "status": "FAILED", "k": 2}]
    text = describe(rows, [Condition("k", ">", (5,), "k>5"), Condition("k", "=", (1,), "k=1")])
    assert text == (
        "there are 2 runs: experiments a (2); statuses COMPLETED (1), FAILED (1); "
        "k>5: no run, the values are 1 (1), 2 (1)"
    )
