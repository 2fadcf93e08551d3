"""The games of the RL² paper, each with its best total, policies from the books and what the paper reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from analysis.studies import rl2_paper as paper

if TYPE_CHECKING:
    import pandas as pd

    from analysis.studies.classical_tables import Family

OURS = "RL²"
SEEDS = range(100, 105)
"""Of the tasks that the classical policies play: others than those of runs, so there are no pairs."""

_SHOWN = ("random", "greedy", "ucb1", "thompson", "gittins", "psrl", "optimistic_psrl", "ucrl2", "beb")


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
        """The expected total of the best policy for each task; of MDPs the mean of 200,000."""
        from analysis.studies.classical import mean_optimum

        return self.length * (self.arms / (self.arms + 1) if self.arms else mean_optimum()[0])

    def families(self) -> tuple[list[Family], list[Family]]:
        """Policies from the books: some of the paper's, and one that the paper does not have."""
        from analysis.studies import classical

        if self.arms:
            own, other = classical.BANDITS, classical.REMAINING_GITTINS
        else:
            own, other = classical.MDPS, classical.BEB_OF_THE_PRIOR
        return [family for family in own if family.column in _SHOWN], [other] * (self.length <= other.longest)

    def classical_regrets(self, num_tasks: int) -> pd.DataFrame:
        """The mean regret of every pull or episode of them, in a format of `analysis.plots.plot_regrets`."""
        from analysis.studies import classical

        families = {family.named(family.setting): family for group in self.families() for family in group}
        policies = {name: family.make(family.setting, self.length) for name, family in families.items()}
        if self.arms:
            return classical.bandit_regrets(policies, self.arms, self.length, num_tasks, SEEDS)
        agents = {name: (policies[name], family.prior_mean) for name, family in families.items()}
        return classical.mdp_regrets(agents, self.length, num_tasks, SEEDS)

    def reported(self, name: str) -> float | None:
        """What the paper has for a policy, by our name."""
        columns = {family.named(family.setting): family.column for family in self.families()[0]} | {OURS: "rl2"}
        if name not in columns:
            return None
        return paper.BANDITS[columns[name]].get(self) if self.arms else paper.MDPS[columns[name]].get(self.length)
