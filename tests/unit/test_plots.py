from __future__ import annotations

import sys
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.plots import plot_adaptation_curve, plot_paths, plot_regret
from analysis.stats import interval
from research.algorithms.memory.evaluation import expected_total
from research.evaluation import AdaptationCurve
from research.tasks.navigation_2d import NavigationTasks

PNG = b"\x89PNG\r\n\x1a\n"


def navigation(steps=2, tasks=3, episodes=4, time=6):
    """A curve on goals, and random walks for each of its steps."""
    generator = np.random.default_rng(0)
    score = generator.normal(size=(steps + 1, tasks))
    curve = AdaptationCurve("mean return", score, NavigationTasks(generator.uniform(-0.5, 0.5, (tasks, 2))))
    return curve, [0.1 * generator.normal(size=(tasks, episodes, time + 1, 2)).cumsum(2) for _ in range(steps + 1)]


@pytest.fixture
def saved(monkeypatch):
    """The figures that were written."""
    figures = []
    write = Figure.savefig

    def savefig(figure, *args, **kwargs):
        figures.append(figure)
        write(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def line(axes, label):
    return next(artist for artist in axes.lines if artist.get_label() == label)


def test_curve_shows_mean_interval_and_every_task(tmp_path, saved):
    score = np.random.default_rng(1).normal(size=(4, 7))
    plot_adaptation_curve(AdaptationCurve("mean return", score, None), tmp_path / "curve.png")
    (axes,) = saved[0].axes
    mean = line(axes, "mean").get_xydata()
    np.testing.assert_allclose(mean, [[step, sum(row) / 7] for step, row in enumerate(score)])
    band, tasks = sorted(axes.collections, key=lambda artist: isinstance(artist, LineCollection))
    low, high = interval(score, np.random.default_rng(0), "mean")
    corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert corners >= {(step, round(end[step], 9)) for step in range(4) for end in (low, high)}
    np.testing.assert_allclose([path[:, 1] for path in tasks.get_segments()], score.T)
    assert axes.get_ylabel() == "mean return"
    assert axes.get_xlabel() == "gradient steps"


def test_steps_are_named_by_the_curve_and_a_hundred_tasks_are_drawn(tmp_path, saved):
    score = np.random.default_rng(1).normal(size=(3, 1500))
    plot_adaptation_curve(AdaptationCurve("mean return", score, None, unit="episodes"), tmp_path / "curve.png")
    (axes,) = saved[0].axes
    assert axes.get_xlabel() == "episodes"
    (tasks,) = (artist for artist in axes.collections if isinstance(artist, LineCollection))
    np.testing.assert_allclose([path[:, 1] for path in tasks.get_segments()], score.T[:100])


def test_long_curves_are_lines_without_single_tasks(tmp_path, saved):
    score = np.random.default_rng(1).normal(size=(21, 5))
    plot_adaptation_curve(AdaptationCurve("mean return", score, None), tmp_path / "curve.png")
    (axes,) = saved[0].axes
    assert line(axes, "mean").get_marker() in ("", "None")
    assert all(not artist.get_segments() for artist in axes.collections if isinstance(artist, LineCollection))
    assert "one task" not in [artist.get_label() for artist in axes.lines]


@pytest.mark.parametrize("known", [None, 0.75])
def test_regret_is_drawn_with_the_best_return(tmp_path, saved, known):
    regret = np.random.default_rng(1).uniform(0, 0.3, size=(4, 7))
    totals = {"total": expected_total(regret, np.linspace(0.5, 0.9, 7), known), "total_regret": regret.sum(0)}
    curve = AdaptationCurve("return", regret, None, unit="pulls", extras={"regret": regret}, totals=totals)
    plot_regret(curve, tmp_path / "regret.png")
    left, right = saved[0].axes
    best = 0.7 if known is None else known
    (expected,) = (line for line in left.lines if len(line.get_ydata()) == 4)
    np.testing.assert_allclose(expected.get_ydata(), [best - sum(row) / 7 for row in regret])
    assert best in [pytest.approx(line.get_ydata()[0]) for line in left.lines if len(line.get_ydata()) == 2]
    (piled,) = right.lines
    np.testing.assert_allclose(piled.get_ydata(), [sum(regret[:n].sum(1)) / 7 for n in range(5)])
    assert left.get_xlabel() == right.get_xlabel() == "pulls"


def test_without_a_regret_there_is_none_to_draw(tmp_path):
    with pytest.raises(ValueError, match=r"curve: it has no regret; need tasks whose best returns are known"):
        plot_regret(AdaptationCurve("return", np.ones((2, 3)), None), tmp_path / "regret.png")


@pytest.mark.parametrize(("steps", "tasks"), [(0, 5), (3, 1), (0, 1)])
def test_short_curves_and_single_tasks_are_drawn(tmp_path, steps, tasks):
    plot_adaptation_curve(AdaptationCurve("error", np.ones((steps + 1, tasks)), None), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_goals_have_a_panel_for_each_step_with_paths_and_starts(tmp_path, saved):
    curve, paths = navigation()
    paths = [walked[:2] for walked in paths]
    plot_paths(curve, paths, tmp_path / "paths.png", episodes_per_task=3)
    panels = saved[0].axes
    titles = ["before adaptation", "after 1 gradient step", "after 2 gradient steps"]
    assert [axes.get_title() for axes in panels] == titles
    minus = "\N{MINUS SIGN}"
    assert [axes.get_xlabel().replace(minus, "-") for axes in panels] == [
        f"mean return {score.mean():.1f}" for score in curve.score
    ]
    for axes, walked in zip(panels, paths, strict=True):
        for task, bundle in enumerate(axes.collections):
            np.testing.assert_allclose(bundle.get_segments(), walked[task, :3], rtol=1e-6)
        assert len(axes.collections) == 2
        stars = [artist.get_xydata()[0] for artist in axes.lines if artist.get_marker() == "*"]
        np.testing.assert_allclose(stars, curve.tasks.goal[:2])
        (start,) = [artist.get_xydata()[0] for artist in axes.lines if artist.get_marker() == "o"]
        np.testing.assert_allclose(start, walked[:, :, 0].mean((0, 1)))
        means = [artist.get_xydata() for artist in axes.lines if len(artist.get_xydata()) > 1]
        np.testing.assert_allclose(means, walked.mean(1), rtol=1e-6)
        assert axes.get_xlim() == axes.get_ylim()


@pytest.mark.thorough
@pytest.mark.parametrize("size", [0.1, 0.5, 3.0, 40.0])
def test_axes_fit_the_goals_and_have_a_few_ticks_about_the_middle(tmp_path, saved, size):
    curve, paths = navigation(tasks=2)
    curve = curve._replace(tasks=NavigationTasks(np.array([[size, 0.0], [0.0, -size]])))
    plot_paths(curve, [0.0 * walked for walked in paths], tmp_path / "paths.png")
    axes = saved[0].axes[0]
    np.testing.assert_allclose(axes.get_xlim(), (-1.1 * size, 1.1 * size))
    shown = [tick for tick in axes.get_xticks() if abs(tick) <= 1.1 * size]
    assert 2 <= len(shown) <= 5 and 0.0 in shown


@pytest.mark.thorough
@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_ending_chooses_the_format(tmp_path, ending):
    plot_paths(*navigation(), tmp_path / f"paths.{ending}")
    start = {"pdf": b"%PDF", "svg": b"<?xml", "png": PNG}[ending]
    assert (tmp_path / f"paths.{ending}").read_bytes().startswith(start)


@pytest.mark.thorough
def test_pictures_repeat_and_leave_no_state(tmp_path):
    with mpl.rc_context({"font.size": 31.0, "savefig.dpi": 17.0}):  # the settings of whoever calls
        before = dict(mpl.rcParams)
        for name in ("a.png", "b.png"):
            plot_paths(*navigation(), tmp_path / f"paths_{name}")
            plot_adaptation_curve(navigation()[0], tmp_path / f"curve_{name}")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "paths_a.png").read_bytes() == (tmp_path / "paths_b.png").read_bytes()
    assert (tmp_path / "curve_a.png").read_bytes() == (tmp_path / "curve_b.png").read_bytes()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


class Speeds(NamedTuple):
    velocity: np.ndarray


@pytest.mark.parametrize(
    ("change", "steps", "settings", "message"),
    [
        ({"tasks": Speeds(np.ones(3))}, 3, {}, r"need tasks with `goal \[tasks, 2\]` to draw paths, got Speeds"),
        ({}, 2, {}, "paths: got those of 2 steps, need one array for each of 3"),
        ({}, 3, {"episodes_per_task": 0}, "episodes_per_task=0: need at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, change, steps, settings, message):
    curve, paths = navigation()
    with pytest.raises(ValueError, match=message):
        plot_paths(curve._replace(**change), paths[:steps], tmp_path / "paths.png", **settings)
    assert not list(tmp_path.iterdir())
