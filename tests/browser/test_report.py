"""The report in a real browser: what it says, what it does, how it looks on a phone and in the dark."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from lab_runs import HOSTILE, value

from analysis.commands.report import main
from analysis.stats import iqm

DATA = "(id) => JSON.parse(document.getElementById(id).textContent)"
GRAPH = "document.getElementById('curve-chart')"


@pytest.fixture
def page(visit, report):
    page = visit(report)
    page.wait_for_selector("#curve-chart .main-svg")
    return page


@pytest.fixture(scope="module")
def still(chromium, report):
    """One page for the tests that only look."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(report.as_uri())
    page.wait_for_selector("#curve-chart .main-svg")
    yield page
    context.close()


def column(page, index):
    """What stands in a column of the runs that are shown, from the top."""
    return [row.locator("td").nth(index).inner_text() for row in page.locator("#table tbody tr:visible").all()]


def traces(page, kind):
    """x, y and colour of the traces of a kind in the chart of metrics."""
    return page.evaluate(
        f"kind => {GRAPH}.data.filter(t => t.meta === kind).map(t => ({{x: t.x, y: t.y, d: t.customdata}}))", kind
    )


def area(page):
    """Where the curves are on the screen."""
    page.locator("#curve-chart").scroll_into_view_if_needed()
    return page.locator("#curve-chart .nsewdrag").bounding_box()


def place(page, x, y):
    """Where a point of the chart is on the screen."""
    box = area(page)
    dx, dy = page.evaluate(f"([x, y]) => [{GRAPH}._fullLayout.xaxis.d2p(x), {GRAPH}._fullLayout.yaxis.d2p(y)]", [x, y])
    return box["x"] + dx, box["y"] + dy


def ranges(page):
    return page.evaluate(f"[{GRAPH}.layout.xaxis.range, {GRAPH}.layout.yaxis.range]")


def choose(page, control, label):
    page.locator(control).select_option(label=label)


def test_the_head_counts_runs_and_says_how_to_make_the_page(still, lab):
    assert still.locator(".counts").inner_text().split("\n")[0].startswith("11 runs")
    assert {text.inner_text() for text in still.locator(".counts .status").all()} == {
        "7 COMPLETED", "1 FAILED", "1 STALE", "1 TORN", "1 EMPTY", "8 missing",
    }  # fmt: skip
    assert f"python -m analysis report {lab}" in still.locator("header").inner_text()


def test_trouble_comes_before_every_average_and_shows_the_end_of_the_output(page):
    sections = [section.get_attribute("id") for section in page.locator("section").all()]
    assert sections[0] == "trouble"
    failed = page.locator("details.trouble", has_text="run 7")
    assert "FloatingPointError" in failed.locator("summary").inner_text()
    assert not failed.locator("pre").is_visible()
    failed.locator("summary").click()
    log = failed.locator("pre").inner_text()
    assert "iteration 29" in log and f"last: {HOSTILE}" in log
    assert "iteration 2\n" not in log and "\x1b" not in log
    assert "run.json: invalid JSON" in page.locator("details.trouble", has_text="run 10").text_content()
    missing = page.locator("#trouble li").all_inner_texts()
    assert missing[:2] == ["inner_lr=0.1: seed 5 (run 9 is STALE)", "inner_lr=0.5: seeds 3 (run 7 is FAILED), 4, 5"]


def test_hostile_text_stays_text(page, report):
    assert report.read_text().count(HOSTILE) == 0
    assert HOSTILE in page.locator("#config-table").inner_text()
    assert HOSTILE in page.locator("#curve-legend").inner_text()
    page.mouse.move(*place(page, 2000, -10))
    assert page.evaluate("document.scripts.length") == page.evaluate(
        "document.querySelectorAll('body > script').length"
    )


def test_columns_sort_by_number_by_mouse_and_by_key(page):
    assert column(page, 0) == [str(run) for run in range(1, 12)]
    head = page.get_by_role("columnheader", name="run", exact=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, 0) == [str(run) for run in range(11, 0, -1)]
    seed = page.get_by_role("columnheader", name="seed", exact=True)
    seed.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert seed.get_attribute("aria-sort") == "ascending" and head.get_attribute("aria-sort") is None
    assert column(page, 3) == ["1", "1", "1", "2", "2", "3", "3", "4", "5", "6", "–"]
    page.keyboard.press("Enter")
    assert column(page, 3) == ["6", "5", "4", "3", "3", "2", "2", "1", "1", "1", "–"], "what is not known stays last"


def test_filters_choose_rows_and_curves(page):
    page.get_by_label("Filter").fill("0.5 maml")
    assert column(page, 0) == ["5", "6", "7"]
    assert page.locator("#shown").inner_text() == "3 of 11 runs"
    assert {point[0] for trace in traces(page, "runs") for point in trace["d"]} == {"5", "6", "7"}
    page.get_by_label("Status").select_option("FAILED")
    assert column(page, 0) == ["7"]
    page.get_by_label("Filter").fill("nothing has this")
    assert column(page, 0) == [] and traces(page, "runs") == [] and traces(page, "iqm") == []
    page.get_by_label("Filter").fill("")
    page.get_by_label("Status").select_option("")
    assert len(column(page, 0)) == 11


def test_curves_and_the_table_follow_the_metric(page):
    choose(page, "#metric", "return_post")
    group = next(trace for trace in traces(page, "iqm") if trace["d"][0][2] == "inner_lr=0.1")
    expected = [float(iqm([value(step, seed, 0.1) for seed in (1, 2, 3, 4)])) for step in range(1, 41)]
    np.testing.assert_allclose(group["y"], expected, rtol=1e-5)
    assert group["x"] == list(range(1, 41))
    header = page.locator("#table thead").inner_text()
    assert "final return_post" in header
    final = header.split("\t").index(next(name for name in header.split("\t") if name.startswith("final")))
    assert float(column(page, final)[0]) == pytest.approx(value(40, 1, 0.1), rel=1e-5)


def test_the_axis_is_iterations_steps_or_time(page):
    choose(page, "#metric", "return_post")
    choose(page, "#show", "single runs")
    for axis, factor in (("iteration", 1), ("environment steps", 100), ("seconds of work", 2)):
        choose(page, "#axis", axis)
        drawn = traces(page, "runs")[0]
        assert drawn["x"][:3] == [factor, 2 * factor, 3 * factor]
        assert drawn["y"][:3] == pytest.approx([value(step, 1, 0.1) for step in (1, 2, 3)], rel=1e-5)
        assert page.locator("#curve-chart .xtitle").text_content() == axis


def test_single_runs_or_the_interval(page):
    choose(page, "#metric", "return_post")
    choose(page, "#show", "single runs")
    assert not traces(page, "iqm") and not traces(page, "interval")
    choose(page, "#show", "IQM and interval")
    means = {trace["d"][0][2]: trace for trace in traces(page, "iqm")}
    assert len(traces(page, "interval")) == 2, "one seed has no interval"
    lonely = next(label for label in means if label.startswith("inner_lr=0.1, "))
    assert means[lonely]["d"][0][0] == 1
    assert "no interval: 1 run" in page.locator("#curve-legend label", has_text="note=").inner_text()
    assert "IQM of 4 runs, 95 %" in page.locator("#curve-legend label", has_text="inner_lr=0.1").first.inner_text()


def test_a_group_can_be_taken_away(page):
    before = len(traces(page, "iqm"))
    page.locator("#curve-legend input").nth(1).uncheck()
    assert len(traces(page, "iqm")) == before - 1
    page.locator("#curve-legend input").nth(1).check()
    assert len(traces(page, "iqm")) == before


def test_hovering_tells_run_seed_and_value(page):
    choose(page, "#metric", "return_post")
    choose(page, "#show", "single runs")
    page.get_by_label("Status").select_option("COMPLETED")
    page.get_by_label("Filter").fill("0.5")
    x, y = place(page, 20, value(20, 2, 0.5))
    page.mouse.move(x - 40, y - 40)
    page.mouse.move(x, y, steps=4)
    text = page.locator("#curve-chart .hoverlayer .hovertext").first
    text.wait_for()
    shown = page.locator("#curve-chart .hoverlayer").text_content()
    assert "run 6, seed 2" in shown and "iteration 20" in shown
    told = re.search(r"return_post ([−-]?[\d.]+)", shown)[1].replace("−", "-")
    assert float(told) == pytest.approx(value(20, 2, 0.5), rel=1e-5)


def test_dragging_zooms_and_a_double_click_resets(page):
    choose(page, "#metric", "return_post")
    whole = ranges(page)
    box = area(page)

    def at(across, down):
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    page.mouse.move(*at(0.25, 0.3))
    page.mouse.down()
    page.mouse.move(*at(0.5, 0.5), steps=5)
    page.mouse.up()
    zoomed = ranges(page)
    span = whole[0][1] - whole[0][0]
    assert zoomed[0] == pytest.approx([whole[0][0] + 0.25 * span, whole[0][0] + 0.5 * span], abs=0.02 * span)
    page.get_by_label("Filter").fill("0.5")
    assert ranges(page) == zoomed, "a filter leaves the zoom alone"
    page.get_by_label("Filter").fill("")
    box = area(page)
    for _ in range(5):  # on a busy machine the second click can come too late to be the second of two
        page.mouse.dblclick(*at(0.5, 0.5))
        page.wait_for_timeout(1000)
        if ranges(page) != zoomed:
            break
    np.testing.assert_allclose(ranges(page), whole, rtol=1e-9)


def test_the_button_resets_the_zoom(page):
    whole = ranges(page)
    page.evaluate(f"Plotly.relayout({GRAPH}, {{'xaxis.range': [3, 4], 'yaxis.range': [0, 1]}})")
    page.get_by_role("button", name="Reset zoom").click()
    np.testing.assert_allclose(ranges(page), whole, rtol=1e-9)


def test_long_curves_keep_their_ends_and_say_that_they_are_thinned(still):
    metrics = still.evaluate(DATA, "page-data")["metrics"]
    payload = still.evaluate(DATA, f"metric-{metrics.index('gradient_norm')}")
    drawn = next(curve for curve in payload["curves"] if curve["run"] == 7)
    assert len(drawn["y"]) <= 2000 < 5000
    assert (drawn["y"][0], drawn["y"][-1]) == (1, pytest.approx(1 / 5000))
    assert "3 curves of more than 2000 points are thinned" in still.locator("#curves").inner_text()


def test_adaptation_has_curves_and_numbers(still):
    table = still.locator("#adaptation table").inner_text()
    assert "after 2" in table and "gradient steps" in table
    assert re.search(r"inner_lr=0.1\s+4\s+gradient steps\s+-37.5 \[", table), table
    assert "-39" not in table.split("note=")[0].split("after")[0]
    assert still.locator("#adaptation-chart .main-svg").count() > 0


def test_configurations_stand_side_by_side_and_what_differs_is_marked(page):
    keys = page.locator("#config-table tbody tr:visible th").all_inner_texts()
    assert keys == ["inner_lr", "note"]
    odd = page.locator("#config-table td.odd").all_inner_texts()
    assert "0.5" in odd and "0.1" not in odd
    page.get_by_label("only the 2 of 4 keys that differ").uncheck()
    assert page.locator("#config-table tbody tr:visible").count() == 4


def test_pictures_are_in_the_page_or_said_to_be_left_out(still):
    sizes = still.evaluate("[...document.querySelectorAll('figure img')].map(i => [i.alt, i.naturalWidth])")
    assert sizes == [["curve.png of run 1", 320], ["curve.png of run 2", 320]]
    still.locator("#pictures summary").click()
    assert "run 5 · huge.png: 3 MiB, more than 2 MiB" in still.locator("#pictures").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(visit, report, scheme):
    """Contrast of at least 4.5 between text and what lies below it, and of 3 between curves and the chart."""
    page = visit(report, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    worst = page.evaluate(CONTRASTS)
    assert worst["text"][0] >= 4.5, worst
    assert worst["lines"] >= 3, worst


CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const shade = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [shade(a), shade(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const below = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgb(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let text = [99, ""];
  for (const element of document.querySelectorAll("body *:not(script):not(svg *):not(option)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const found = ratio(rgb(getComputedStyle(element).color), below(element));
    if (found < text[0]) text = [found, element.outerHTML.slice(0, 200)];
  }
  const card = below(document.querySelector("section"));
  const lines = [...document.querySelectorAll(".swatch")]
    .map((one) => ratio(rgb(getComputedStyle(one).borderTopColor), card));
  return { text, lines: Math.min(...lines) };
}"""


def test_the_dark_page_redraws_when_the_scheme_changes(visit, report):
    page = visit(report)
    colour = f"() => {GRAPH}.layout.font.color"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"light => {GRAPH}.layout.font.color !== light", arg=light)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_scrolls_the_page_sideways(visit, report, width):
    page = visit(report, width=width, height=844)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#runs .box")
    inside = box.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert (inside[0] > inside[1]) or width > 1000, "the table scrolls within its box"


def test_every_control_has_a_label_and_every_picture_a_text(still):
    unnamed = still.evaluate(
        """() => [...document.querySelectorAll('main input, main select, main button, main img')]
        .filter((one) => !one.closest('.modebar'))
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.alt)).length"""
    )
    assert unnamed == 0


def test_the_same_runs_give_the_same_bytes(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [str(lab), "-o", "page.html"]
    assert main(command) == 0
    first = (tmp_path / "page.html").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "page.html").read_bytes() == first
    assert main([*command, "--generated", "2026-03-02"]) == 0
    assert b"<dd>2026-03-02</dd>" in (tmp_path / "page.html").read_bytes()


def test_screenshots(visit, report, tmp_path):
    """Pictures to look at: pytest's --basetemp says where. They are not all one colour."""
    for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
        page = visit(report, width=width, scheme=scheme)
        page.wait_for_selector("#adaptation-chart .main-svg")
        choose(page, "#metric", "return_post")
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        chart = page.locator("#curve-chart").screenshot()
        assert len(chart) > 10_000


def test_runs_without_metrics_and_results_have_a_page(visit, tmp_path):
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "run.json").write_text(json.dumps({"status": "QUEUED"}))
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "page.html")]) == 0
    text = visit(tmp_path / "page.html").locator("main").inner_text()
    for sentence in ("No run has recorded a metric", "No run has recorded an adaptation curve", "made no pictures"):
        assert sentence in text
