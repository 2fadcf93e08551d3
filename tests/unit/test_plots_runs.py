from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from analysis.plots import (
    plot_adaptation,
    plot_bias,
    plot_comparison,
    plot_curves,
    plot_improvement,
    plot_profiles,
    plot_regrets,
    plot_throughput,
    save,
)
from analysis.plots.labels import spread_apart
from analysis.plots.style import LINES
from analysis.stats import (
    NOT_FINITE,
    difference,
    estimate,
    interval,
    iqm,
    paired_difference,
    probability_of_improvement,
)

RNG = np.random.default_rng


def curves(runs=5, points=8, groups=("one", "two", "three"), x="x"):
    draws = RNG(0)
    frames = [
        pd.DataFrame({"group": group, "seed": seed, "run": f"{group}{seed}", x: np.arange(points), "value": values})
        for group in groups
        for seed, values in enumerate(draws.normal(size=(runs, points)).cumsum(1) * 0.2)
    ]
    return pd.concat(frames, ignore_index=True)


def adaptation(units=("gradient steps",) * 3, **settings):
    frame = curves(x="adapt_step", **settings)
    return frame.assign(unit=frame["group"].map(dict(zip(frame["group"].unique(), units, strict=False))))


def scores(**settings):
    return curves(points=1, **settings).drop(columns="x")


def biases():
    rows = itertools.product(("dice", "lvc"), (1, 2, 4))
    return pd.DataFrame(
        [dict(estimator=e, episodes=n, value=1 / n, low=1 / n - 0.3, high=1 / n + 0.3) for e, n in rows]
    )


PICTURES = {
    "curves": lambda: plot_curves(curves(), label="return"),
    "adaptation": lambda: plot_adaptation(adaptation(), label="return"),
    "mixed": lambda: plot_adaptation(adaptation(("gradient steps", "episodes", "TD steps")), label="return"),
    "regrets": lambda: plot_regrets(adaptation(("pulls",) * 3)),
    "comparison": lambda: plot_comparison(scores(), label="return", baseline="one"),
    "improvement": lambda: plot_improvement(scores(), baseline="one"),
    "profiles": lambda: plot_profiles(scores(), label="return"),
    "throughput": lambda: plot_throughput(scores().assign(value=lambda frame: frame["value"].abs() * 1e5)),
    "bias": lambda: plot_bias(biases(), limits={"lvc": 0.1}),
}


def caption(figure):
    return figure.get_supxlabel().replace("\n", " ")


def line(figure, label, axes=0):
    return next(artist for artist in figure.axes[axes].lines if artist.get_label() == label)


@pytest.mark.thorough
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("name", PICTURES)
def test_the_same_data_give_the_same_bytes(name, ending, tmp_path):
    first, second = (save(PICTURES[name](), tmp_path / f"{turn}.{ending}").read_bytes() for turn in "ab")
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])


@pytest.mark.thorough
def test_a_second_process_writes_the_same_bytes(tmp_path):
    program = "import sys; sys.path[:0] = [{!r}]; import test_plots_runs as t; t.save(t.PICTURES['curves'](), {!r})"
    for ending in ("svg", "pdf"):
        ours, theirs = tmp_path / f"ours.{ending}", tmp_path / f"theirs.{ending}"
        save(PICTURES["curves"](), ours)
        here = Path(__file__)
        command = [sys.executable, "-c", program.format(str(here.parent), str(theirs))]
        subprocess.run(command, cwd=here.parents[2], check=True)
        assert ours.read_bytes() == theirs.read_bytes()


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path='.*a\.gif': need a name that ends in \.png, \.pdf, \.svg"):
        save(PICTURES["bias"](), tmp_path / "a.gif")


@pytest.mark.thorough
@pytest.mark.parametrize("name", PICTURES)
def test_text_is_large_enough_within_the_picture_and_apart(name):
    figure = PICTURES[name]()
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 7 * 0.69, "a power of ten has its exponent smaller"
    width, height = figure.get_size_inches() * figure.dpi
    written = [text for axes in figure.axes for text in axes.texts] + [figure._supxlabel]
    for text in written:
        box = Text.get_window_extent(text)
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
    names = [Text.get_window_extent(text) for axes in figure.axes for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(PICTURES.keys() - {"bias"}))
def test_every_picture_says_how_many_runs_and_which_interval(name):
    figure = PICTURES[name]()
    words = caption(figure) + " ".join(text.get_text() for text in figure.findobj(Text))
    assert "5 runs" in words
    assert "interval" in words or "band" in words
    assert "95 %" in words or "93.8 %" in words


def test_a_line_is_the_statistic_and_its_band_the_interval():
    frame = curves(groups=("one",))
    figure = plot_curves(frame, label="return", x_label="environment steps")
    values = frame["value"].to_numpy().reshape(5, 8).T
    np.testing.assert_allclose(line(figure, "one").get_ydata(), iqm(values))
    low, high = interval(values, RNG(0), num_resamples=2000)
    corners = {(round(x, 6), round(y, 9)) for x, y in figure.axes[0].collections[0].get_paths()[0].vertices}
    assert corners >= {(x, round(end[x], 9)) for x in range(8) for end in (low, high)}
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("environment steps", "return")


def test_one_run_has_a_line_and_no_band():
    frame = curves()
    figure = plot_curves(frame[(frame["group"] != "two") | (frame["seed"] == 0)], label="return")
    assert "5 runs each (two: 1)" in caption(figure) and "No interval for one run: two" in caption(figure)
    bands = figure.axes[0].collections
    assert [bool(len(artist.get_paths())) for artist in bands] == [True, False, True]
    alone = plot_comparison(scores(runs=1), label="return", baseline="one")
    assert "no interval: 1 run" in caption(alone)
    assert not any(len(artist.get_segments()) for axes in alone.axes for artist in axes.collections)


def test_runs_that_end_early_are_named():
    frame = curves()
    frame = frame[~((frame["run"] == "two3") & (frame["x"] > 4))]
    common = plot_curves(frame, label="return")
    assert "In two, 1 of 5 runs end before 7: all are cut at 4" in caption(common)
    assert len(line(common, "two").get_xdata()) == 5 and len(line(common, "one").get_xdata()) == 8
    available = plot_curves(frame, label="return", ragged="available")
    assert "In two, 1 of 5 runs end before 7, the first at 4: beyond it the others are left" in caption(available)
    rest = frame[(frame["group"] == "two") & (frame["run"] != "two3")]["value"].to_numpy().reshape(4, 8)
    np.testing.assert_allclose(line(available, "two").get_ydata()[5:], iqm(rest.T[5:]))


def test_one_unit_is_the_axis_and_several_are_fractions():
    one = plot_adaptation(adaptation(), label="return")
    assert one.axes[0].get_xlabel() == "gradient steps" and line(one, "one").get_xdata()[-1] == 7
    mixed = plot_adaptation(adaptation(("gradient steps", "episodes", "TD steps")), label="return")
    assert mixed.axes[0].get_xlabel() == "fraction of the agent's own adaptation"
    assert line(mixed, "two: 7 episodes").get_xdata().tolist() == pytest.approx([x / 7 for x in range(8)])
    names = {text.get_text().replace("\n", " ") for text in mixed.axes[0].texts}
    assert names == {"one: 7 gradient steps", "two: 7 episodes", "three: 7 TD steps"}
    assert "different units" in caption(mixed)
    frame = adaptation()
    frame.loc[0, "unit"] = "episodes"
    with pytest.raises(ValueError, match="group 'one': its runs adapt in different units, episodes, gradient steps"):
        plot_adaptation(frame, label="return")


def test_regret_piles_up_from_nothing():
    frame = adaptation(("pulls",) * 3)
    figure = plot_regrets(frame)
    values = frame[frame["group"] == "one"]["value"].to_numpy().reshape(5, 8)
    expected = [iqm(values[:, :count].sum(1)) for count in range(9)]
    np.testing.assert_allclose(line(figure, "one").get_ydata(), expected, atol=1e-12)


def segments(axes):
    return [artist.get_segments()[0][:, 0].tolist() for artist in axes.collections if len(artist.get_segments())]


def test_a_forest_shows_estimates_and_differences_seed_by_seed():
    frame = scores()
    figure = plot_comparison(frame, label="return", baseline="two")
    sides = {name: rows.set_index("seed")["value"] for name, rows in frame.groupby("group", sort=False)}
    for drawn, values in zip(segments(figure.axes[0]), sides.values(), strict=True):
        assert drawn == pytest.approx([*estimate(values, RNG(0))[1:3]])
    pairs = [(dict(sides[name]), dict(sides["two"])) for name in ("one", "three")]
    others = [paired_difference(*both, RNG(0), confidence=0.975).estimate for both in pairs]
    assert segments(figure.axes[1]) == [pytest.approx([found.low, found.high]) for found in others]
    assert "Difference of one, three: paired by seed, 97.5 % bootstrap interval of 5 pairs" in caption(figure)
    assert "2 comparisons with one baseline: their intervals are simultaneous" in caption(figure)


def test_groups_without_common_seeds_are_independent_and_lone_seeds_are_named():
    frame = scores()
    frame.loc[frame["group"] == "one", "seed"] += 100
    frame.loc[frame["run"] == "three4", "seed"] = 77
    figure = plot_comparison(frame, label="return", baseline="two")
    sides = {name: rows["value"].to_numpy() for name, rows in frame.groupby("group")}
    found = difference(sides["one"], sides["two"], RNG(0), confidence=0.975)
    assert segments(figure.axes[1])[0] == pytest.approx([found.low, found.high])
    assert "Difference of one: independent groups" in caption(figure)
    assert "of 4 pairs, without seeds 4, 77, which one side lacks" in caption(figure)


def test_improvement_is_drawn_for_all_but_the_baseline():
    frame = scores()
    figure = plot_improvement(frame, baseline="two")
    sides = {name: rows["value"] for name, rows in frame.groupby("group")}
    found = [probability_of_improvement(sides[name], sides["two"], 0.975) for name in ("one", "three")]
    assert segments(figure.axes[0]) == [pytest.approx([each.low, each.high]) for each in found]


def test_a_group_with_diverged_runs_is_not_drawn_as_the_mean_of_the_others():
    frame = scores()
    frame.loc[frame["run"].isin(["one1", "one3"]), "value"] = np.nan
    figure = plot_comparison(frame, label="return", baseline="two")
    assert len(segments(figure.axes[0])) == 2 and len(segments(figure.axes[1])) == 1
    for told in ("diverged: 2 of 5.", "diverged: 2 of 5 pairs", NOT_FINITE):
        assert told in caption(figure)
    ends = plot_improvement(frame, baseline="two")
    expected = probability_of_improvement(frame[frame["group"] == "one"]["value"].fillna(-1e9),
                                          frame[frame["group"] == "two"]["value"], 0.975)  # fmt: skip
    assert segments(ends.axes[0])[0] == pytest.approx([expected.low, expected.high])
    assert "above no threshold" in caption(plot_profiles(frame, label="return"))


def test_the_line_of_a_group_ends_where_a_run_diverges():
    frame = curves()
    places = sorted(frame["x"].unique())
    frame.loc[(frame["run"] == "one1") & (frame["x"] >= places[2]), "value"] = np.nan
    figure = plot_curves(frame, label="return")
    assert np.flatnonzero(np.isfinite(line(figure, "one").get_ydata())).tolist() == [0, 1]
    assert "one (diverged)" in " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "diverged: 1 of 5 runs" in caption(figure) and NOT_FINITE[1:] in caption(figure)


def test_profiles_are_fractions_by_task():
    frame = pd.concat([scores().assign(task=task) for task in ("a", "b")], ignore_index=True)
    figure = plot_profiles(frame, label="return", thresholds=[-0.1, 0.0, 0.1])
    values = frame[frame["group"] == "one"]["value"]
    assert line(figure, "one").get_ydata().tolist() == pytest.approx([(values > t).mean() for t in (-0.1, 0.0, 0.1)])
    assert "stratified bootstrap band, 5 runs per task" in caption(figure)
    assert "Wilson band" in caption(plot_profiles(scores(), label="return"))


def test_biases_that_are_not_told_from_0_are_upper_ends():
    figure = plot_bias(biases())
    hollow = [artist.get_ydata().tolist() for artist in figure.axes[0].lines if artist.get_marker() == "v"]
    assert hollow == [[0.55], [0.55]]


@pytest.mark.thorough
@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(0.1, 2)), min_size=1, max_size=7))
def test_places_are_spread_apart(items):
    places, sizes = np.transpose(items)
    found = spread_apart(places, sizes, 0.0, 20.0)
    order = np.argsort(found)
    gaps = np.diff(found[order])
    assert (gaps >= (sizes[order][1:] + sizes[order][:-1]) / 2 - 1e-9).all()
    assert (found - sizes / 2 >= -1e-9).all() and (found + sizes / 2 <= 20 + 1e-9).all()
    assert (np.diff(found[np.argsort(places, kind="stable")]) >= 0).all()


def test_places_move_as_little_as_they_can():
    assert spread_apart([5.0, 1.0], [1.0, 1.0], 0, 10).tolist() == [5.0, 1.0]
    assert spread_apart([5.0, 5.0, 8.0], [1.0, 1.0, 1.0], 0, 10).tolist() == pytest.approx([4.5, 5.5, 8.0])
    assert spread_apart([9.9, 9.8], [1.0, 1.0], 0, 10).tolist() == pytest.approx([9.5, 8.5])


def test_a_name_stands_at_the_end_of_its_line():
    figure = plot_curves(curves(groups=("one",)), label="return")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    box = Text.get_window_extent(axes.texts[0])
    end = axes.transData.transform(line(figure, "one").get_xydata()[-1])[1]
    frame = axes.get_window_extent()
    place = np.clip(end, frame.y0 + box.height / 2, frame.y1 - box.height / 2)
    assert (box.y0 + box.y1) / 2 == pytest.approx(place, abs=2)


def luminance(colour):
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return float(
        np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    )


def test_lines_stand_out_from_white():
    assert min(1.05 / (luminance(colour) + 0.05) for colour in LINES) >= 3


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need the columns run, x too, got group, seed, value"):
        plot_curves(curves().drop(columns=["run", "x"]), label="return")
    with pytest.raises(ValueError, match="frame: it has no rows; which runs were selected"):
        plot_comparison(scores().iloc[:0], label="return")
    with pytest.raises(ValueError, match="baseline='four': need one of the groups one, two, three"):
        plot_comparison(scores(), label="return", baseline="four")
    with pytest.raises(ValueError, match="it is the only group"):
        plot_improvement(scores(groups=("one",)), baseline="one")
    with pytest.raises(ValueError, match="need rows with the columns high"):
        plot_bias(biases().drop(columns="high"))


@pytest.mark.thorough
def test_experiments_start_without_matplotlib():
    program = "import sys, experiments.maml_trpo, experiments.maml_sinusoid; print('matplotlib' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr[-2000:]
