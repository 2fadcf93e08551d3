from __future__ import annotations

import io
import sys

from research.tracking.progress import Bar, Lines, format_metrics, make_progress

COLUMNS = {"before": "return_pre", "after": "return_post", "KL": "kl", "steps/s": "time/steps"}
METRICS = {"return_pre": -38.204, "return_post": -12.1, "kl": 0.00971, "time/steps": 412_345.6}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_metrics_are_short_and_those_that_are_missing_are_left_out():
    assert format_metrics(METRICS, COLUMNS) == "before -38.20  after -12.10  KL 0.0097  steps/s 412,346"
    assert format_metrics({"kl": 0.0}, COLUMNS) == "KL 0.00"
    assert format_metrics({"kl": float("nan")}, COLUMNS) == "KL nan"


def test_lines_come_first_last_and_every_few_seconds(capsys):
    clock = Clock()
    with Lines(10, 20, {"KL": "kl"}, interval=5.0, clock=clock) as lines:
        for iteration in range(11, 21):
            clock.now += 2.0
            lines.update(iteration, METRICS)
        lines.message("done")
    assert capsys.readouterr().out.splitlines() == [
        "iteration 11/20  KL 0.0097  left 0:00:18",
        "iteration 14/20  KL 0.0097  left 0:00:12",
        "iteration 17/20  KL 0.0097  left 0:00:06",
        "iteration 20/20  KL 0.0097  left 0:00:00",
        "done",
    ]


def test_a_pipe_gets_lines_and_a_terminal_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_progress(0, 3, {}), Lines)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with make_progress(0, 3, {}) as progress:
        assert isinstance(progress, Bar)


def test_the_bar_is_drawn_on_the_terminal_and_messages_are_printed(capsys):
    terminal = Terminal()
    with Bar(2, 4, COLUMNS, terminal) as bar:
        bar.update(3, METRICS)
        bar.message("evaluated")
        bar.update(4, METRICS)
    drawn = terminal.getvalue()
    assert "4/4" in drawn and "after -12.10" in drawn and "left" in drawn
    assert capsys.readouterr().out == "evaluated\n"
