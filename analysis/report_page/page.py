"""Renders a report as one self-contained HTML page. The same runs give the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.data.joins import chosen
from analysis.data.load import Runs
from analysis.report_page import curves, pictures, summary
from analysis.stats import NOT_FINITE

AXES = {"iteration": "iteration", "env_steps": "environment steps", "seconds": "seconds of work"}

_FIRST = (r"eval/score_after_\d+", r"return_post", r".*(return|score|reward)", r".*loss", r"(?!time/)")
"""Patterns of the metric that is shown first, in order of preference; of several matches the last by name counts."""


@dataclass(frozen=True)
class PageConfig:
    """Settings of a page.

    Attributes:
        command: The command that makes the page.
        title: Heading of the page.
        where: The expression that selects the runs.
        metric: The metric that is shown first; empty for a score or a return, if there is one.
        by: Settings whose values define the groups; None for those that differ.
        seeds: Seeds that every group should have; empty for those of the other groups of its experiment.
        allow_different_tasks: Whether runs of one group may have been evaluated on different tasks.
        pictures_mib: Limit on the size of all pictures, in MiB.
        generated: The time to print; empty for none, so that the same runs give the same bytes.
    """

    command: str
    title: str = "Runs"
    where: str = ""
    metric: str = ""
    by: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = ()
    allow_different_tasks: bool = False
    pictures_mib: float = 8.0
    generated: str = ""

    def __post_init__(self) -> None:
        if self.pictures_mib < 0:
            raise ValueError(f"pictures={self.pictures_mib:g}: need 0 or more MiB; 0 leaves all pictures out")


def render(runs: Runs, config: PageConfig) -> str:
    """Returns the HTML page.

    Raises:
        ValueError: No run has the metric or a key, or a group mixes runs that were evaluated on different tasks.
    """
    labels = summary.groups(runs.table, config.by)
    _check_tasks(runs, labels, config)
    names = list(dict.fromkeys(labels))
    metrics = sorted(map(str, runs.metrics["metric"].unique()), key=_natural)
    first = _first(runs, metrics, config.metric)
    final = summary.final_values(runs, metrics)
    counts, repeats = curves.counted(runs, labels)
    groups = curves.Groups(names, [names.index(label) for label in labels], counts)
    charts = _charts(runs, metrics, groups)
    adaptation = curves.adaptation(runs, groups)
    data = {
        "runs": _runs(runs.table, groups),
        "groups": names,
        "metrics": metrics,
        "axes": AXES,
        "final": final,
        "grids": charts["grids"],
        "adaptation": adaptation,
    }
    texts = _texts(runs, config, labels) | _tables(runs, metrics, first, final)
    shown, left_out = pictures.inline(runs.artifacts, config.pictures_mib * (1 << 20), dict(runs.table["directory"]))
    return _fill(
        texts,
        data=data,
        payloads=charts["payloads"],
        metrics=metrics,
        first_metric=first,
        axes=[(key, label) for key, label in AXES.items() if any(grid.get(key) for grid in charts["grids"])],
        different_tasks=summary.differing_tasks(runs.table),
        curves_note=_curves_note(charts, repeats),
        adaptation=adaptation and _in_numbers(adaptation, names),
        pictures=shown,
        left_out=left_out,
    )


def _runs(table: pd.DataFrame, groups: curves.Groups) -> list[dict[str, Any]]:
    """Returns the name, seed, status and group of each run."""
    return [
        {"name": str(run), "seed": summary.text(seed), "status": status, "group": group}
        for run, seed, status, group in zip(table.index, table["seed"], table["status"], groups.of_run, strict=True)
    ]


def _check_tasks(runs: Runs, labels: Sequence[str], config: PageConfig) -> None:
    """Raises ValueError if a group has runs that were evaluated on different tasks."""
    groups = runs.table.assign(group=labels)["group"]
    for name in () if config.allow_different_tasks else dict.fromkeys(labels):
        if name != summary.UNKNOWN:
            chosen(runs, groups[groups == name], status=None, repeats="all")


def _charts(runs: Runs, metrics: Sequence[str], groups: curves.Groups) -> dict[str, Any]:
    totals = curves.env_steps(runs)
    packer = curves.Packer(curves.points_of_curve(runs), groups, len(metrics))
    for metric in metrics:
        packer.add(curves.of_metric(runs, metric, totals))
    grids = packer.grids()
    payloads = [_script(payload) for payload in packer.payloads(grids)]
    return {"grids": grids, "payloads": payloads, "most": packer.most, "num_thinned": packer.num_thinned}


def _texts(runs: Runs, config: PageConfig, labels: Sequence[str]) -> dict[str, Any]:
    missing = summary.missing(runs.table, labels, config.seeds)
    expected = (
        f"Expected of each: seeds {', '.join(map(str, config.seeds))}."
        if config.seeds
        else ("Seeds that other configurations of the same experiment have.")
    )
    return {
        "title": config.title,
        "where": config.where,
        "command": config.command,
        "generated": config.generated,
        "sources": sorted(set(runs.table["source"])),
        "counts": summary.counts(runs.table),
        "troubles": summary.troubles(runs, labels),
        "missing": missing,
        "num_missing": sum(len(seeds) for _, seeds in missing),
        "missing_note": f"No COMPLETED run has these. {expected}",
    }


def _tables(runs: Runs, metrics: Sequence[str], first: int, final: Sequence[Sequence[Any]]) -> dict[str, Any]:
    columns, rows, hidden = summary.table_of(runs.table, *((metrics[first], final[first]) if metrics else (None, [])))
    configurations, settings = summary.configurations(runs.table)
    num_differing = sum(setting.differs for setting in settings)
    configs = {"columns": configurations, "rows": settings, "num_differing": num_differing}
    return {"columns": columns, "rows": rows, "hidden_keys": hidden, "configs": configs}


def _curves_note(charts: dict[str, Any], repeats: Sequence[str]) -> str:
    notes = [
        "An IQM (interquartile mean) is over the COMPLETED runs of a group, up to the last iteration that all "
        f"of them have; their environment steps and times are medians. Values that are not finite: {NOT_FINITE}."
    ]
    if charts["num_thinned"]:
        notes.append(
            f"{charts['num_thinned']} curves of more than {charts['most']} points are thinned to these: the lowest and "
            "the highest of each stretch stay."
        )
    if repeats:
        notes.append(f"Not averaged, since a later run has their settings and seed: {', '.join(repeats)}.")
    return " ".join(notes)


def _in_numbers(adaptation: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns the bands of adaptation as a table of at most 6 steps, including the first and the last."""
    steps = sorted({step for band in adaptation["bands"] for step in band["x"]})
    if len(steps) > 6:
        steps = sorted({steps[round(place * (len(steps) - 1) / 5)] for place in range(6)})
    rows = []
    for band in adaptation["bands"]:
        values = []
        for step in steps:
            if step not in band["x"]:
                values.append("")
                continue
            place = band["x"].index(step)
            values.append(_estimate(*(band[key][place] for key in ("y", "low", "high"))))
        rows.append({"group": names[band["group"]], "runs": band["count"], "unit": band["unit"], "cells": values})
    intervals = dict.fromkeys(band["interval"] for band in adaptation["bands"] if band["interval"])
    note = (
        "Mean over the tasks of the last evaluation of each run (test tasks at its end, else validation tasks). "
        f"Groups: IQM over COMPLETED runs [{'; '.join(intervals)}]."
        if intervals
        else "No COMPLETED run has one, so there is no average."
    )
    return {"steps": steps, "rows": rows, "note": note}


def _estimate(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "diverged"
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _natural(name: str) -> list[Any]:
    """Returns the sort key of a metric: numbers by value, so that `after_10` follows `after_9`, and times last."""
    return [name.startswith("time/"), *(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))]


def _first(runs: Runs, metrics: Sequence[str], wanted: str) -> int:
    """Returns the place of the metric that is shown first. Raises ValueError if no run has the one that is wanted."""
    if wanted and wanted not in metrics:
        runs.curves(wanted, by=[], **curves.ALL)  # raises an error with similar names
    if wanted:
        return metrics.index(wanted)
    for pattern in _FIRST:
        found = [place for place, metric in enumerate(metrics) if re.match(pattern, metric)]
        if found:
            return found[-1]
    return 0


def _script(value: Any) -> Markup:
    """Returns JSON for a `<script>` element, escaped so that it cannot end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _fill(texts: dict[str, Any], **values: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    here = files("analysis.report_page")
    style, script, page = (here.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html"))
    values["data"] = _script(values["data"])
    plotly = re.sub(r"</(?=script)", r"<\\/", get_plotlyjs(), flags=re.IGNORECASE)
    return environment.from_string(page).render(
        **texts, **values, css=Markup(style), js=Markup(script), plotly=Markup(plotly)
    )
