"""`python -m analysis regret runs/1 runs/2 runs/3`: what agents earn on bandits, beside policies from the books.

The totals of finished runs, their mean over runs with an interval, the same of classical policies on bandits of their
own (`analysis.classical`), and what the RL² paper reports; `--picture` draws the regret of all against the pulls. All
totals are expectations less regret, see `AdaptationCurve.total`: whether a sampled bandit is rich does not matter.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import command_line
from analysis import rl2_paper as paper
from analysis.pages import markdown_table
from analysis.stats import estimate

if TYPE_CHECKING:
    import pandas as pd

OURS = "RL²"
SEEDS = range(100, 105)
"""Of the bandits that the classical policies play: others than those of runs, so there are no pairs."""


def classical_regrets(arms: int, pulls: int, num_bandits: int) -> pd.DataFrame:
    """The mean regret of every pull of the classical policies, in a format of `analysis.plots.plot_regrets`."""
    from analysis.classical import bandit_regrets, gittins
    from research.oracles import bandits

    policies = {
        "random": bandits.random,
        "greedy": bandits.greedy,
        "UCB1, c = 0.2": bandits.ucb1(0.2),
        "Thompson": bandits.thompson,
        "Gittins": gittins(0.99),
    }
    return bandit_regrets(policies, arms, pulls, num_bandits, SEEDS)


_IN_PAPER = {"random": "random", "greedy": "greedy", "UCB1, c = 0.2": "ucb1", "Thompson": "thompson",
             "Gittins": "gittins", OURS: "rl2"}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = command_line.parser("regret", __doc__)
    command_line.add_runs(parser)
    parser.add_argument("--bandits", type=int, default=2000, help="each classical policy has, five times (%(default)s)")
    parser.add_argument("--picture", type=Path, help="where to draw the regret, e.g. regret.png")
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _regret(arguments))


def _regret(arguments: argparse.Namespace) -> str:
    import pandas as pd

    if arguments.bandits < 2:
        raise ValueError(f"--bandits={arguments.bandits}: need at least 2")
    runs = command_line.load(arguments.source, arguments.where)
    ours = runs.adaptation_curves(by=["task"]).assign(group=OURS)
    arms, pulls = game(runs.table.loc[ours["run"].unique()])
    if ours["regret"].isna().any():
        raise ValueError("the runs have no regret: they were recorded before evaluations kept it; evaluate them again")
    every = pd.concat([ours.assign(value=ours["regret"]).drop(columns="regret"),
                       classical_regrets(arms, pulls, arguments.bandits)], ignore_index=True)  # fmt: skip
    lines = [f"{arms} arms, {pulls} pulls, total rewards", "", totals_table(every, arms, pulls)]
    if arguments.picture:
        from analysis import plots

        shown = every[every["group"] != "random"]  # which would leave the others no room
        plots.save(plots.plot_regrets(shown, label="regret so far", statistic="mean", width=4.2), arguments.picture)
        lines += ["", f"Picture: {arguments.picture}"]
    return "\n".join(lines)


def game(table: pd.DataFrame) -> tuple[int, int]:
    """Arms and pulls of the bandits that the runs of a table were evaluated on.

    Raises:
        ValueError: They are no bandits of Bernoulli arms, or several games.
    """
    from research.tasks.bandit import Bandit

    found = set()
    for name, row in table.iterrows():
        settings = {key.removeprefix("config.task_args."): row[key] for key in table.columns if "task_args." in key}
        given = {key: value for key, value in settings.items() if value is not None and value == value}
        if row.get("config.task") != "bandit" or given.get("reward", "bernoulli") != "bernoulli":
            raise ValueError(f"run {name}: its task is {row.get('config.task')!r} with {given}; need task='bandit' "
                             "with Bernoulli arms, for which the best total is known")  # fmt: skip
        arms = int(given.get("num_arms", Bandit.num_arms))
        found.add((arms, int(row["config.episodes_per_trial"])))
    if len(found) != 1:
        raise ValueError(f"the runs play games of (arms, pulls) {sorted(found)}: need one; choose with --where")
    return found.pop()


def totals_table(regrets: pd.DataFrame, arms: int, pulls: int) -> str:
    """Markdown: the total of every run of ours, then the means over runs."""
    best = pulls * arms / (arms + 1)
    totals = best - regrets.groupby(["group", "seed", "run"], sort=False)["value"].sum()
    rows = [["policy", "total", "95 % interval", "the RL² paper"], ["---", "---:", "---:", "---:"]]
    for (_, seed, _), value in totals[OURS:OURS].items():
        rows.append([f"{OURS}, seed {seed}", f"{value:.2f}", "", ""])
    for name, values in totals.groupby("group", sort=False):
        found = estimate(values.to_numpy(), np.random.default_rng(0), "mean")
        interval = f"[{found.low:.2f}, {found.high:.2f}]" if found.has_interval else "one run: none"
        reported = paper.BANDITS[_IN_PAPER[str(name)]].get((arms, pulls))
        rows.append([f"**{name}**", f"**{found.value:.2f}**", interval, "" if reported is None else f"{reported:.1f}"])
    rows.append(["the best arm from the start", f"{best:.2f}", "", ""])
    return markdown_table(rows)
