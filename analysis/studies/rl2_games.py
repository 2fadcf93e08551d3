"""The games of the RL² paper, each with its best total, its classical policies and the published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from analysis.studies import rl2_paper as paper

if TYPE_CHECKING:
    import pandas as pd

    from analysis.studies.classical_tables import Family

OURS = "RL²"
SEEDS = range(100, 105)
"""Seeds of the tasks that the classical policies play. Runs are evaluated on other tasks, so seeds are not paired."""

_SHOWN = ("random", "greedy", "ucb1", "thompson", "gittins", "psrl", "optimistic_psrl", "ucrl2", "beb")


class Game(NamedTuple):
    """A bandit or tabular MDP, and the length of a trial.

    Attributes:
        arms: The number of arms of the bandit; 0 for the tabular MDPs of the RL² paper.
        length: The number of pulls or episodes.
    """

    arms: int
    length: int

    def __str__(self) -> str:
        if self.arms:
            return f"{self.arms} arms, {self.length} pulls"
        return f"tabular MDPs, {self.length} episodes"

    def best(self) -> float:
        """Returns the expected total of the best policy for each task; for MDPs an estimate from 200,000."""
        from analysis.studies.classical import mean_optimum

        return self.length * (self.arms / (self.arms + 1) if self.arms else mean_optimum()[0])

    def families(self) -> tuple[list[Family], list[Family]]:
        """Returns classical policies: some of those in the paper, and one that the paper does not have."""
        from analysis.studies import classical

        if self.arms:
            own, other = classical.BANDITS, classical.REMAINING_GITTINS
        else:
            own, other = classical.MDPS, classical.BEB_OF_THE_PRIOR
        return [family for family in own if family.column in _SHOWN], [other] * (self.length <= other.longest)

    def classical_regrets(self, num_tasks: int) -> pd.DataFrame:
        """Plays these policies. Returns the mean regret of every pull or episode, for `analysis.plots.plot_regrets`."""
        from analysis.studies import classical

        families = {family.named(family.setting): family for group in self.families() for family in group}
        policies = {name: family.make(family.setting, self.length) for name, family in families.items()}
        if self.arms:
            return classical.bandit_regrets(policies, self.arms, self.length, num_tasks, SEEDS)
        agents = {name: (policies[name], family.prior_mean) for name, family in families.items()}
        return classical.mdp_regrets(agents, self.length, num_tasks, SEEDS)

    def reported(self, name: str) -> float | None:
        """Returns the total in the paper for a policy, by its label here; None if the paper has none."""
        columns = {family.named(family.setting): family.column for family in self.families()[0]} | {OURS: "rl2"}
        if name not in columns:
            return None
        return paper.BANDITS[columns[name]].get(self) if self.arms else paper.MDPS[columns[name]].get(self.length)
