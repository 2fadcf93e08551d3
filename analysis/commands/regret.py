"""`python -m analysis regret runs/1 runs/2 runs/3`: compares agents on bandits or MDPs with classical policies.

The table has the total reward of each run, its mean over runs with an interval, the same for classical policies on
other tasks (`analysis.studies.classical`), and the figures of the RL² paper. `--picture` draws the cumulative regret
against pulls or episodes.

A total is the expected total of the best policies less the regret, so the values of the sampled tasks do not affect it.
The total that runs on MDPs record (`expected_total`) uses the best returns of the sampled tasks instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.commands import command_line
from analysis.stats import estimate
from analysis.studies.pages import markdown_table
from analysis.studies.rl2_games import OURS, Game

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = command_line.parser("regret", __doc__)
    command_line.add_runs(parser)
    parser.add_argument(
        "--tasks",
        type=int,
        default=2000,
        help="tasks that each classical policy plays, for each of 5 seeds (%(default)s)",
    )
    parser.add_argument("--picture", type=Path, help="the file to draw the regret to, e.g. regret.png")
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _regret(arguments))


def _regret(arguments: argparse.Namespace) -> str:
    import pandas as pd

    if arguments.tasks < 2:
        raise ValueError(f"--tasks={arguments.tasks}: need at least 2")
    runs = command_line.load(arguments.source, arguments.where)
    ours = runs.adaptation_curves(by=[key for key in ("task", "learn_from") if f"config.{key}" in runs.table])
    table = runs.table.loc[ours["run"].unique()]
    game = game_of(table, ours.groupby("run")["adapt_step"].max() + 1)
    ours["group"] = [_name(table.loc[run]) for run in ours["run"]]
    if "regret" not in ours or ours["regret"].isna().any():
        raise ValueError(
            "the runs have no recorded regret, or one that is not finite; need runs on tasks whose best returns are "
            "known, evaluated again"
        )
    every = pd.concat([ours.assign(value=ours["regret"]).drop(columns="regret"),
                       game.classical_regrets(arguments.tasks)], ignore_index=True)  # fmt: skip
    lines = [f"{game}, total rewards", "", totals_table(every, game)]
    if arguments.picture:
        from analysis import plots

        shown = every[every["group"] != "random"]  # its regret is so large that the other curves would coincide
        plots.save(plots.plot_regrets(shown, label="regret so far", statistic="mean", width=4.2), arguments.picture)
        lines += ["", f"Picture: {arguments.picture}"]
    return "\n".join(lines)


def _name(row: pd.Series) -> str:
    return OURS if row.get("config.learn_from") != "regret" else f"{OURS}, learns from regret"


def game_of(table: pd.DataFrame, lengths: pd.Series) -> Game:
    """Returns the game that the runs of a table were evaluated on.

    Args:
        table: `Runs.table` or some of its rows.
        lengths: The pulls or episodes of each run's evaluation.

    Raises:
        ValueError: The runs play several games, or one that the RL² paper does not have.
    """
    found = {Game(_arms(str(name), row), int(lengths[name])) for name, row in table.to_dict("index").items()}
    if len(found) != 1:
        games = sorted(str(game) for game in found)
        raise ValueError(f"the runs play {'; '.join(games)}: need one game; choose with --where")
    return found.pop()


def _arms(name: str, row: Mapping[str, Any]) -> int:
    """Returns the number of arms of a run's bandit, or 0 for MDPs."""
    from research.tasks.bandit import Bandit
    from research.tasks.tabular_mdp import TabularMDP

    settings = {key.removeprefix("config.task_args."): value for key, value in row.items() if "task_args." in key}
    settings["horizon"] = row.get("config.horizon")
    given = {key: value for key, value in settings.items() if value is not None and value == value}
    task = row.get("config.task")
    if task == "bandit" and given.get("reward", "bernoulli") == "bernoulli":
        return int(given.get("num_arms", Bandit.num_arms))
    if task == "tabular_mdp" and all(getattr(TabularMDP, key, None) == value for key, value in given.items()):
        return 0
    raise ValueError(
        f"run {name}: its task is {task!r} with {given}; need task='bandit' with Bernoulli arms, or task='tabular_mdp' "
        "with its default settings: the best totals of those are known"
    )


def totals_table(regrets: pd.DataFrame, game: Game) -> str:
    """Returns a Markdown table with the total of every recorded run, then the means over runs."""
    best = game.best()
    totals = best - regrets.groupby(["group", "seed", "run"], sort=False)["value"].agg(
        lambda values: values.sum(skipna=False)
    )
    rows = [["policy", "total", "95 % interval", "the RL² paper"], ["---", "---:", "---:", "---:"]]
    for (group, seed, _), value in totals.items():
        if str(group).startswith(OURS):
            rows.append([f"{group}, seed {seed}", f"{value:.2f}", "", ""])
    for name, values in totals.groupby("group", sort=False):
        found = estimate(values.to_numpy(), np.random.default_rng(0), "mean")
        interval = f"[{found.low:.2f}, {found.high:.2f}]" if found.has_interval else found.interval
        reported = game.reported(str(name))
        total = "–" if np.isnan(found.value) else f"{found.value:.2f}"
        rows.append([f"**{name}**", f"**{total}**", interval, "" if reported is None else f"{reported:.1f}"])
    rows.append(["the best policy from the start", f"{best:.2f}", "", ""])
    return markdown_table(rows)
