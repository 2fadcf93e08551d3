"""`python -m analysis bayes`: its table, and what it refuses."""

from __future__ import annotations

import pytest

from analysis.commands.bayes import main


def cells(shown):
    """The rows below the heading."""
    return [line.split() for line in shown.splitlines()[3:]]


def test_the_table_of_gridnavi_has_the_published_values(capsys):
    assert main(["gridnavi", "--episodes", "1", "4"]) == 0
    assert cells(capsys.readouterr().out) == [["1", "4.0000", "11.0714"], ["4", "37.2143", "44.2857"]]


def test_settings_are_those_of_the_task_and_bounds_are_shown_as_such(capsys):
    """Four goals one or two steps away, and one in the start, which cannot all be seen in the first two steps."""
    assert main(["dark_room", "size=3", "horizon=1", "observation=coordinates", "--episodes", "1"]) == 0
    assert cells(capsys.readouterr().out) == [["1", "0.1111", "0.5556"]]
    assert main(["point_semicircle", "horizon=20", "--episodes", "1"]) == 0
    ((_, low, to, high, known),) = cells(capsys.readouterr().out)
    assert to == "to" and 0 < float(low) < float(high) == float(known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gridnavi", "--episodes", "0"], "--episodes=0: need at least 1"),
        (["gridnavi", "size"], "size: need a setting as KEY=VALUE"),
        (["gridnavi", "colour=blue"], "task_args.colour='blue': no such key; "),
        (["gridnavi", "size=abc"], "task_args.size='abc': need"),
        (["cheetah_vel"], "task='cheetah_vel': its Bayes-optimal return is not known; it is for dark_room, gridnavi"),
        (["dark_room", "test_fraction=0.2"], "task='dark_room': with these settings its Bayes-optimal return is not"),
    ],
)
def test_what_it_refuses(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
