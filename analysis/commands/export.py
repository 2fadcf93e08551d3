"""`python -m analysis export runs/ metrics -o metrics.csv`: writes DataFrames of runs as CSV, Parquet or LaTeX.

    export runs/ table|metrics|adaptation|artifacts -o file.csv       the frames of `load_runs`; .parquet needs pyarrow
    export runs/ scores --metric return_post --by inner_loop -o scores.csv
    export runs/ scores --metric return_post,result.score_after_3 --by inner_loop -o table.tex

A LaTeX table (booktabs) has a row for each group, and a column with value and interval for each metric. Runs that have
not completed are listed on the terminal, and have no scores.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands import command_line
from analysis.commands.compare import add_statistic

if TYPE_CHECKING:
    import pandas as pd

    from analysis.data.load import Runs

FRAMES = ("table", "metrics", "adaptation", "artifacts", "scores")
SUFFIXES = (".csv", ".parquet", ".tex")


def main(argv: Sequence[str]) -> int:
    """Writes the file. Returns the exit status."""
    parser = command_line.parser("export", __doc__)
    command_line.add_runs(parser)
    parser.add_argument("what", choices=FRAMES, help="the DataFrame to write")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help=f"the file to write; its suffix chooses the format: {', '.join(SUFFIXES)}",
    )
    parser.add_argument("--metric", metavar="NAMES", help="metrics or columns, separated by commas; for scores only")
    command_line.add_choice(parser)
    add_statistic(parser)
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> str:
    suffix = arguments.output.suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"--output {arguments.output}: need a name that ends with one of {', '.join(SUFFIXES)}")
    if suffix == ".tex" and arguments.what != "scores":
        raise ValueError(f"{arguments.what}: LaTeX is for tables of groups; need scores, with --metric")
    if (arguments.what == "scores") != (arguments.metric is not None):
        raise ValueError("--metric: scores need it, and nothing else does, e.g. scores --metric return_post")
    runs = command_line.load(arguments.source, arguments.where)
    print(command_line.readable(runs.report()), file=sys.stderr)
    frame = scores(runs, arguments) if arguments.what == "scores" else getattr(runs, arguments.what)
    write(frame, arguments)
    return f"{arguments.output}: {len(frame)} rows"


def scores(runs: Runs, arguments: argparse.Namespace) -> pd.DataFrame:
    """Returns `metric, group, seed, run, value` for the requested metrics."""
    import pandas as pd

    how = command_line.choice(arguments)
    parts = [runs.scores(name, **how).assign(metric=name) for name in arguments.metric.split(",")]
    notes = [part.attrs.pop("note") for part in parts]  # pandas keeps attributes only if all parts have the same
    found = pd.concat(parts, ignore_index=True)[["metric", "group", "seed", "run", "value"]]
    found.attrs["note"] = "; ".join(dict.fromkeys(filter(None, notes)))
    return found


def write(frame: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """Writes the DataFrame in the format that the suffix of the file chooses.

    Raises:
        ValueError: The format is Parquet, and pyarrow is not installed.
    """
    path: Path = arguments.output
    if path.suffix == ".tex":
        path.write_text(latex(frame, arguments.statistic, arguments.bootstrap_seed), encoding="utf-8")
        return
    flat = frame.reset_index() if frame.index.name == "run" else frame
    if path.suffix == ".csv":
        flat.to_csv(path, index=False)
        return
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"--output {path}: Parquet needs pyarrow, which is not installed: pip install pyarrow")
    _plain(flat).to_parquet(path, index=False)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the DataFrame with columns of mixed types as text, which Parquet can store."""
    mixed = [name for name in frame.columns if frame[name].dtype == object]
    return frame.assign(**{name: frame[name].map(lambda one: None if one is None else str(one)) for name in mixed})


def latex(frame: pd.DataFrame, statistic: str = "iqm", seed: int = 0) -> str:
    """Returns a LaTeX table with value and interval for every group and metric, and the kind of interval below.

    Args:
        frame: `metric, group, value`, a row for each run.
        statistic: `"iqm"`, `"mean"` or `"median"`.
        seed: The seed of the bootstrap.
    """
    import numpy as np

    from analysis import stats

    metrics, groups = list(dict.fromkeys(frame["metric"])), list(dict.fromkeys(frame["group"]))
    lines = [r"\begin{tabular}{l" + "r" * (len(metrics) + 1) + "}", r"\toprule"]
    lines += [" & ".join(["", "runs", *map(escaped, metrics)]) + r" \\", r"\midrule"]
    kinds: dict[str, None] = {}
    for group in groups:
        cells, counts = [], set()
        for metric in metrics:
            part = frame[(frame["group"] == group) & (frame["metric"] == metric)]
            if part.empty:
                cells.append("--")
                continue
            found = stats.estimate(part["value"].to_numpy(), np.random.default_rng(seed), statistic)
            kinds[found.interval] = None
            counts.add(len(part))
            if found.has_interval:
                cells.append(f"${found.text()}$")
            else:
                is_number = not np.isnan(found.value)
                cells.append(f"${found._replace(interval='').text()[:-3]}$" if is_number else found.text())
        runs = "--".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"
        lines.append(" & ".join([escaped(group), runs, *cells]) + r" \\")
    lost = [stats.NOT_FINITE] if not np.isfinite(frame["value"]).all() else []
    about = [frame.attrs["note"]] if frame.attrs.get("note") else []
    note = escaped("; ".join([stats.NAMES[statistic], *kinds, *lost, *about]))
    columns = rf"\multicolumn{{{len(metrics) + 2}}}{{l}}"
    return "\n".join([*lines, r"\bottomrule", rf"{columns}{{\footnotesize {note}}}", r"\end{tabular}", ""])


def escaped(text: str) -> str:
    """Returns text with the special characters of LaTeX escaped."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in text)
