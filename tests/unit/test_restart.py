"""How the settings of a command line lie over those of a checkpoint."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from research.tracking.restart import merge

VALUES = st.one_of(st.integers(), st.none(), st.lists(st.integers(), max_size=2))


def nested(entries):
    return st.dictionaries(st.sampled_from("abc"), entries, max_size=3)


SETTINGS = nested(st.recursive(VALUES, nested, max_leaves=8))


def paths(tree, start=()):
    """`{path: value}` of everything that is not a mapping with entries."""
    found = {}
    for key, value in tree.items():
        found |= paths(value, (*start, key)) if isinstance(value, dict) and value else {(*start, key): value}
    return found


def overwritten(below, above):
    """The paths of both, those of `above` written one after the other."""
    result = dict(paths(below))
    for path, value in paths(above).items():
        shorter = [path[:n] for n in range(1, len(path) + 1)]
        longer = [other for other in result if other[: len(path)] == path and len(other) > len(path)]
        if value == {} and longer:
            continue  # a mapping without entries changes none
        for other in [*shorter, *longer]:
            result.pop(other, None)
        result[path] = value
    return result


@given(SETTINGS, SETTINGS)
def test_merged_settings_are_those_of_writing_one_path_after_another(below, above):
    inputs = copy.deepcopy((below, above))
    assert paths(merge(below, above)) == overwritten(below, above)
    assert (below, above) == inputs, "neither is changed"


@given(SETTINGS)
def test_no_settings_change_none_and_the_same_settings_change_none(settings):
    assert merge(settings, {}) == merge({}, settings) == merge(settings, settings) == settings
