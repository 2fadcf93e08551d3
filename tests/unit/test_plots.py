from __future__ import annotations

import sys
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.plots import plot_adaptation_curve, plot_navigation_paths, walked_paths
from analysis.stats import bootstrap_interval
from research.evaluation import AdaptationCurve
from research.tasks.navigation_2d import NavigationTasks
from research.types import Trajectories

PNG = b"\x89PNG\r\n\x1a\n"


def trajectories(lengths, time, seed=0):
    """Random walks of the given lengths `[tasks, episodes]`; what lies beyond an episode's end is far away."""
    lengths = torch.as_tensor(lengths)
    walk = 0.1 * torch.randn(*lengths.shape, time + 1, 2, generator=torch.Generator().manual_seed(seed)).cumsum(2)
    valid = torch.arange(time) < lengths[..., None]
    observation = torch.where(valid[..., None], walk[:, :, :-1], 1e6)
    last = walk.gather(2, lengths[..., None, None].expand(*lengths.shape, 1, 2)).squeeze(2)
    nothing = torch.zeros(*lengths.shape, time)
    return Trajectories(observation, observation, nothing, nothing, valid & False, valid, last, lengths < 0)


def navigation_curve(steps=2, tasks=3, episodes=4, time=6):
    generator = np.random.default_rng(0)
    sampled = tuple(
        trajectories(generator.integers(1, time + 1, (tasks, episodes)), time, seed) for seed in range(steps + 1)
    )
    score = generator.normal(size=(steps + 1, tasks))
    return AdaptationCurve("mean return", score, NavigationTasks(generator.uniform(-0.5, 0.5, (tasks, 2))), sampled)


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
    low, high = bootstrap_interval(score)
    corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert corners >= {(step, round(end[step], 9)) for step in range(4) for end in (low, high)}
    np.testing.assert_allclose([path[:, 1] for path in tasks.get_segments()], score.T)
    assert axes.get_ylabel() == "mean return"
    assert axes.get_xlabel() == "gradient steps"


@pytest.mark.parametrize(("steps", "tasks"), [(0, 5), (3, 1), (0, 1)])
def test_short_curves_and_single_tasks_are_drawn(tmp_path, steps, tasks):
    plot_adaptation_curve(AdaptationCurve("error", np.ones((steps + 1, tasks)), None), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


@given(st.data(), st.integers(1, 5))
def test_paths_follow_the_valid_steps_and_stay_at_their_end(data, time):
    lengths = data.draw(st.lists(st.lists(st.integers(1, time), min_size=2, max_size=2), min_size=1, max_size=3))
    sampled = trajectories(lengths, time)
    paths = walked_paths(sampled)
    assert paths.shape == (len(lengths), 2, time + 1, 2)
    for task, row in enumerate(lengths):
        for episode, length in enumerate(row):
            expected = [sampled.observation[task, episode, t].tolist() for t in range(length)]
            expected += [sampled.last_observation[task, episode].tolist()] * (time + 1 - length)
            np.testing.assert_array_equal(paths[task, episode], np.array(expected, np.float32))


def test_navigation_has_a_panel_for_each_step_with_paths_and_goals(tmp_path, saved):
    curve = navigation_curve()
    plot_navigation_paths(curve, tmp_path / "paths.png", num_tasks=2, episodes_per_task=3)
    panels = saved[0].axes
    titles = ["before adaptation", "after 1 gradient step", "after 2 gradient steps"]
    assert [axes.get_title() for axes in panels] == titles
    minus = "\N{MINUS SIGN}"
    assert [axes.get_xlabel().replace(minus, "-") for axes in panels] == [
        f"mean return {score.mean():.1f}" for score in curve.score
    ]
    for axes, sampled in zip(panels, curve.trajectories, strict=True):
        paths = walked_paths(sampled)[:2]
        for task, bundle in enumerate(axes.collections):
            np.testing.assert_allclose(bundle.get_segments(), paths[task, :3], rtol=1e-6)
        stars = [artist.get_xydata()[0] for artist in axes.lines if artist.get_marker() == "*"]
        np.testing.assert_allclose(stars, curve.tasks.goal[:2])
        means = [artist.get_xydata() for artist in axes.lines if len(artist.get_xydata()) > 1]
        np.testing.assert_allclose(means, paths.mean(1), rtol=1e-6)
        left, right = axes.get_xlim()
        assert right < 10, "what lies beyond an episode's end must not be drawn"
        assert (left, right) == axes.get_ylim()


def test_more_tasks_than_there_are_draws_them_all(tmp_path, saved):
    plot_navigation_paths(navigation_curve(tasks=3, steps=0), tmp_path / "paths.png", num_tasks=50, episodes_per_task=9)
    (axes,) = saved[0].axes
    assert len(axes.collections) == 3
    assert len(axes.collections[0].get_segments()) == 4


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_ending_chooses_the_format(tmp_path, ending):
    plot_navigation_paths(navigation_curve(), tmp_path / f"paths.{ending}")
    start = {"pdf": b"%PDF", "svg": b"<?xml", "png": PNG}[ending]
    assert (tmp_path / f"paths.{ending}").read_bytes().startswith(start)


def test_pictures_repeat_and_leave_no_state(tmp_path):
    with mpl.rc_context({"font.size": 31.0, "savefig.dpi": 17.0}):  # the settings of whoever calls
        before = dict(mpl.rcParams)
        for name in ("a.png", "b.png"):
            plot_navigation_paths(navigation_curve(), tmp_path / f"paths_{name}")
            plot_adaptation_curve(navigation_curve(), tmp_path / f"curve_{name}")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "paths_a.png").read_bytes() == (tmp_path / "paths_b.png").read_bytes()
    assert (tmp_path / "curve_a.png").read_bytes() == (tmp_path / "curve_b.png").read_bytes()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


class Speeds(NamedTuple):
    velocity: np.ndarray


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"trajectories": ()}, {}, "curve: it has no trajectories"),
        ({"tasks": Speeds(np.ones(3))}, {}, r"need tasks with `goal \[tasks, 2\]` to draw paths, got Speeds"),
        ({}, {"num_tasks": 0}, "num_tasks=0, episodes_per_task=5: need at least 1"),
        ({}, {"episodes_per_task": 0}, "num_tasks=5, episodes_per_task=0: need at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, change, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_navigation_paths(navigation_curve()._replace(**change), tmp_path / "paths.png", **settings)
    assert not list(tmp_path.iterdir())
