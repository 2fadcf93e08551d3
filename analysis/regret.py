"""`python -m analysis regret runs/1 runs/2 runs/3`: what agents earn on bandits or MDPs, beside those from the books.

The totals of finished runs, their mean over runs with an interval, the same of classical policies on tasks of their own
(`analysis.classical`), and what the RL² paper reports; `--picture` draws the regret of all against pulls or episodes.
All totals are expectations less regret, see `AdaptationCurve.total`: whether a sampled task is rich does not matter.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis import command_line
from analysis import rl2_paper as paper
from analysis.pages import markdown_table
from analysis.stats import estimate

if TYPE_CHECKING:
    import pandas as pd

OURS = "RL²"
SEEDS = range(100, 105)
"""Of the tasks that the classical policies play: others than those of runs, so there are no pairs."""


class Game(NamedTuple):
    """What runs play.

    Attributes:
        arms: Arms of the bandit; 0 for the tabular MDPs of the RL² paper.
        length: Pulls or episodes.
    """

    arms: int
    length: int

    def __str__(self) -> str:
        if self.arms:
            return f"{self.arms} arms, {self.length} pulls"
        return f"tabular MDPs, {self.length} episodes"

    def best(self) -> float:
        """The expected total of the best policy for each task."""
        from analysis.classical import mean_optimum

        return self.length * (self.arms / (self.arms + 1) if self.arms else mean_optimum()[0])

    def classical_regrets(self, num_tasks: int) -> pd.DataFrame:
        """The mean regret of every pull or episode of policies from the books, for `analysis.plots.plot_regrets`."""
        from analysis import classical

        policies = classical_policies(self.arms > 0)
        if self.arms:
            return classical.bandit_regrets(policies, self.arms, self.length, num_tasks, SEEDS)
        return classical.mdp_regrets(policies, self.length, num_tasks, SEEDS)

    def reported(self, name: str) -> float | None:
        """What the paper has for a policy, by our name."""
        column = _IN_PAPER.get(name)
        if column is None:
            return None
        return paper.BANDITS[column].get(self) if self.arms else paper.MDPS[column].get(self.length)


def classical_policies(on_bandits: bool) -> dict[str, Any]:
    """Policies for bandits, or agents for MDPs with their prior's mean reward, by name."""
    from analysis.classical import gittins
    from research.oracles import bandits, tabular_agents

    if on_bandits:
        return {
            "random": bandits.random,
            "greedy": bandits.greedy,
            "UCB1, c = 0.2": bandits.ucb1(0.2),
            "Thompson": bandits.thompson,
            "Gittins": gittins(0.99),
        }
    return {
        "random": (tabular_agents.random, 0.0),
        "greedy": (tabular_agents.greedy, 0.0),
        "PSRL": (tabular_agents.psrl, 0.0),
        "optimistic PSRL": (tabular_agents.optimistic_psrl(20), 0.0),
        "UCRL2": (tabular_agents.ucrl2(0.4), 0.0),
        "BEB": (tabular_agents.beb(25), 0.0),
        "BEB, prior mean 1": (tabular_agents.beb(10), 1.0),
    }


_IN_PAPER = {
    OURS: "rl2", "random": "random", "greedy": "greedy", "UCB1, c = 0.2": "ucb1", "Thompson": "thompson",
    "Gittins": "gittins", "PSRL": "psrl", "optimistic PSRL": "optimistic_psrl", "UCRL2": "ucrl2", "BEB": "beb",
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = command_line.parser("regret", __doc__)
    command_line.add_runs(parser)
    parser.add_argument("--tasks", type=int, default=2000, help="each classical policy has, five times (%(default)s)")
    parser.add_argument("--picture", type=Path, help="where to draw the regret, e.g. regret.png")
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _regret(arguments))


def _regret(arguments: argparse.Namespace) -> str:
    import pandas as pd

    if arguments.tasks < 2:
        raise ValueError(f"--tasks={arguments.tasks}: need at least 2")
    runs = command_line.load(arguments.source, arguments.where)
    ours = runs.adaptation_curves(by=["task"]).assign(group=OURS)
    game = game_of(runs.table.loc[ours["run"].unique()])
    if ours["regret"].isna().any():
        raise ValueError("the runs have no regret: they were recorded before evaluations kept it; evaluate them again")
    every = pd.concat([ours.assign(value=ours["regret"]).drop(columns="regret"),
                       game.classical_regrets(arguments.tasks)], ignore_index=True)  # fmt: skip
    lines = [f"{game}, total rewards", "", totals_table(every, game)]
    if arguments.picture:
        from analysis import plots

        shown = every[every["group"] != "random"]  # which would leave the others no room
        plots.save(plots.plot_regrets(shown, label="regret so far", statistic="mean", width=4.2), arguments.picture)
        lines += ["", f"Picture: {arguments.picture}"]
    return "\n".join(lines)


def game_of(table: pd.DataFrame) -> Game:
    """The game that the runs of a table were evaluated on.

    Raises:
        ValueError: It is none of the RL² paper's kinds, or they are several.
    """
    found = {_game_of(str(name), row) for name, row in table.to_dict("index").items()}
    if len(found) != 1:
        games = sorted(str(game) for game in found)
        raise ValueError(f"the runs play {'; '.join(games)}: need one game; choose with --where")
    return found.pop()


def _game_of(name: str, row: Mapping[str, Any]) -> Game:
    from research.tasks.bandit import Bandit

    settings = {key.removeprefix("config.task_args."): value for key, value in row.items() if "task_args." in key}
    settings["horizon"] = row.get("config.horizon")
    given = {key: value for key, value in settings.items() if value is not None and value == value}
    task, length = row.get("config.task"), int(row["config.episodes_per_trial"])
    if task == "bandit" and given.get("reward", "bernoulli") == "bernoulli":
        return Game(int(given.get("num_arms", Bandit.num_arms)), length)
    if task == "tabular_mdp" and not given:
        return Game(0, length)
    raise ValueError(
        f"run {name}: its task is {task!r} with {given}; need task='bandit' with Bernoulli arms, or task='tabular_mdp' "
        "with its own settings: the best totals of those are known"
    )


def totals_table(regrets: pd.DataFrame, game: Game) -> str:
    """Markdown: the total of every run of ours, then the means over runs."""
    best = game.best()
    totals = best - regrets.groupby(["group", "seed", "run"], sort=False)["value"].sum()
    rows = [["policy", "total", "95 % interval", "the RL² paper"], ["---", "---:", "---:", "---:"]]
    for (_, seed, _), value in totals[OURS:OURS].items():
        rows.append([f"{OURS}, seed {seed}", f"{value:.2f}", "", ""])
    for name, values in totals.groupby("group", sort=False):
        found = estimate(values.to_numpy(), np.random.default_rng(0), "mean")
        interval = f"[{found.low:.2f}, {found.high:.2f}]" if found.has_interval else "one run: none"
        reported = game.reported(str(name))
        rows.append([f"**{name}**", f"**{found.value:.2f}**", interval, "" if reported is None else f"{reported:.1f}"])
    rows.append(["the best policy from the start", f"{best:.2f}", "", ""])
    return markdown_table(rows)
