"""`python -m analysis compare runs/ --by inner_loop --metric result.score_after_3`: compares groups of runs.

    compare runs/ "inner_loop=func" "inner_loop=higher" --metric return_post     groups defined by expressions
    compare runs_a/ runs_b/ --metric return_post                                 groups defined by sources
    compare runs/ --metric eval/score_after_0 --value area                       areas under learning curves

The baseline is the first group, or --baseline. For each other group the table has the difference from the baseline,
paired by seed if the groups share seeds, and the probability that a run of the group is better than a run of the
baseline. The intervals of several comparisons are simultaneous. docs/statistics.md defines statistics and intervals; a
group of one run has no interval. Runs that have not completed are listed first, and do not count. A run whose value is
not finite counts, and its group has no value, unless --not-finite drop leaves it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands import command_line

if TYPE_CHECKING:
    import pandas as pd

    from analysis.data.load import Runs

Notes = dict[str, list[str]]
"""Remarks, each with the groups that it applies to."""


def main(argv: Sequence[str]) -> int:
    """Prints the comparison. Returns the exit status."""
    parser = command_line.parser("compare", __doc__)
    parser.add_argument(
        "groups",
        nargs="+",
        metavar="SOURCE|EXPRESSION",
        help="directories or databases with runs, and conditions that define groups",
    )
    command_line.add_where(parser)
    parser.add_argument("--metric", required=True, help="a metric, or a column, e.g. result.score_after_3")
    parser.add_argument(
        "--value",
        choices=("last", "area", "max", "min"),
        default="last",
        help="the number for each run: the last value, the mean height of the curve, or an extreme (%(default)s)",
    )
    parser.add_argument("--baseline", metavar="GROUP", help="the group to compare the others with (default: the first)")
    parser.add_argument("--lower-is-better", action="store_true", help="lower values of the metric are better")
    command_line.add_choice(parser)
    add_statistic(parser)
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _compare(arguments))


def add_statistic(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for the statistic and the seed of its bootstrap."""
    parser.add_argument("--statistic", default="iqm", choices=("iqm", "mean", "median"), help="(%(default)s)")
    parser.add_argument("--bootstrap-seed", type=int, default=0, help="(%(default)s)")


def _compare(arguments: argparse.Namespace) -> str:
    sources = [one for one in arguments.groups if "://" in one or Path(one).exists()]
    expressions = [one for one in arguments.groups if one not in sources]
    if not sources:
        raise ValueError(
            f"{' '.join(arguments.groups)}: none of these is a directory or mongodb://…; need the source of the runs"
        )
    runs = command_line.load(sources, arguments.where)
    how = command_line.choice(arguments) | {"value": arguments.value}
    if expressions:
        scores = by_expression(runs, sources, expressions, arguments)
    elif len(sources) > 1 and how["by"] is None:
        scores = runs.scores(arguments.metric, **{**how, "by": ["source"]})
    else:
        scores = runs.scores(arguments.metric, **how)
    return f"{runs.report()}\n\n{comparison(scores, arguments)}"


def by_expression(
    runs: Runs, sources: Sequence[str], expressions: Sequence[str], arguments: argparse.Namespace
) -> pd.DataFrame:
    """Returns the scores of the groups that the expressions define.

    Raises:
        ValueError: A group is empty, or a run belongs to two groups.
    """
    import pandas as pd

    from analysis.data.where import column, parse

    how = command_line.choice(arguments) | {"by": None, "value": arguments.value}
    rows = dict(zip(runs.table.index, runs.table.to_dict("records"), strict=True))
    owner: dict[str, str] = {}
    for expression in expressions:
        tests = [one._replace(key=column(one.key, runs.table.columns)) for one in parse(expression)]
        members = [name for name, row in rows.items() if all(test.holds(row) for test in tests)]
        if not members:
            raise ValueError(f"{expression}: no run matches, of {len(rows)} in {', '.join(sources)}")
        for name in members:
            if owner.setdefault(name, expression) != expression:
                raise ValueError(
                    f"run {name} is in two groups, {owner[name]!r} and {expression!r}; need groups without common runs"
                )
    scores = runs.scores(arguments.metric, groups=pd.Series(owner, dtype=object), **how)
    order = scores["group"].map(list(expressions).index).sort_values(kind="stable")
    return scores.loc[order.index]


def comparison(scores: pd.DataFrame, arguments: argparse.Namespace) -> str:
    """Returns the table of groups, followed by the remarks on its statistics."""
    import numpy as np

    from analysis import stats

    groups = {str(name): part for name, part in scores.groupby("group", sort=False)}
    baseline = next(iter(groups)) if arguments.baseline is None else arguments.baseline
    if baseline not in groups:
        raise ValueError(f"--baseline {baseline!r}: no such group; need one of {', '.join(map(repr, groups))}")
    is_single = len(groups) == 1
    rows = [["group", "runs", "seeds", stats.NAMES[arguments.statistic]]]
    if not is_single:
        rows[0] += ["less baseline", "P(better than baseline)"]
    notes: Notes = {}
    confidence = stats.simultaneous(len(groups) - 1)
    for name in [baseline, *(other for other in groups if other != baseline)]:
        part = groups[name]
        rng = np.random.default_rng(arguments.bootstrap_seed)  # a group's interval does not depend on the others
        found = stats.estimate(part["value"].to_numpy(), rng, arguments.statistic)
        notes.setdefault(f"{stats.NAMES[arguments.statistic]}: {found.interval}", []).append(name)
        row = [name, str(len(part)), _seeds(part), found.text()]
        if not is_single:
            row += (
                ["baseline", "–"]
                if name == baseline
                else _against(name, part, groups[baseline], arguments, notes, confidence)
            )
        rows.append(row)
    better = "lower" if arguments.lower_is_better else "higher"
    head = arguments.metric if is_single else f"{arguments.metric}, {better} is better"
    about = [scores.attrs["note"]] if scores.attrs["note"] else []
    lost = scores.loc[~np.isfinite(scores["value"]), "run"]
    if len(lost):
        about.append(f"not finite: {len(lost)} of {len(scores)} runs ({', '.join(lost)}): {stats.NOT_FINITE}")
    about += stats.simultaneous_note(len(groups) - 1, arguments.statistic)
    remarks = [f"{note} ({'; '.join(names)})" if len(names) < len(groups) else note for note, names in notes.items()]
    return "\n".join([head, command_line.text_table(rows), "", *about, *_ragged(groups), *remarks])


def _against(
    name: str,
    part: pd.DataFrame,
    reference: pd.DataFrame,
    arguments: argparse.Namespace,
    notes: Notes,
    confidence: float,
) -> list[str]:
    """Returns the difference from the baseline and the probability of improvement; adds remarks on them to `notes`."""
    import numpy as np

    from analysis import stats

    rng = np.random.default_rng(arguments.bootstrap_seed)
    ours, theirs = (one["value"].to_numpy() for one in (part, reference))
    pairs = [_by_seed(one) for one in (part, reference)]
    if pairs[0].keys() & pairs[1].keys():
        paired = stats.paired_difference(pairs[0], pairs[1], rng, arguments.statistic, confidence)
        less, kind = paired.estimate, "difference seed by seed"
        if paired.unpaired:
            alone = ", ".join(map(str, paired.unpaired))
            notes.setdefault(f"seeds without a partner, left out of the difference: {alone}", []).append(name)
    else:
        less = stats.difference(ours, theirs, rng, arguments.statistic, confidence)
        kind = "difference of groups that share no seed"
    notes.setdefault(f"{kind}: {less.interval}", []).append(name)
    sign = -1 if arguments.lower_is_better else 1
    better = stats.probability_of_improvement(sign * ours, sign * theirs, confidence)
    return [less.text(sign=True), better.text(digits=2)]


def _by_seed(part: pd.DataFrame) -> Mapping[int, float]:
    """Returns values by seed; empty if a seed is missing or occurs twice, since such runs cannot be paired."""
    seeds = part["seed"]
    if seeds.isna().any() or seeds.duplicated().any():
        return {}
    return dict(zip(seeds, part["value"], strict=True))


def _seeds(part: pd.DataFrame) -> str:
    """Returns the seeds of a group as text: `0–4`, `0, 2, 5` or `–`."""
    seeds = sorted({int(seed) for seed in part["seed"].dropna()})
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds)) or "–"


def _ragged(groups: Mapping[str, pd.DataFrame]) -> list[str]:
    """Returns a remark if the groups have different numbers of runs."""
    counts = {name: len(part) for name, part in groups.items()}
    if len(set(counts.values())) <= 1:
        return []
    sizes = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return [f"The groups differ in size ({sizes}); all of these runs count."]
