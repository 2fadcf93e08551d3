"""What `analysis.studies.classical` measured, as tables in Markdown and as a csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.studies import rl2_paper as paper
from analysis.studies.pages import markdown_table


class Family(NamedTuple):
    """A way to act, with a setting.

    Attributes:
        column: Its column in the paper's table.
        label: What it is; `{}` stands for the setting.
        make: (setting, pulls) → the policy or agent. Most ignore one of them or both.
        setting: The one that is reported, see `chosen`.
        candidates: What the search tries.
        thinning: One bandit or MDP is played where others play so many; for slow ones.
        longest: Games with more pulls are left out.
        prior_mean: What an agent for MDPs believes of mean rewards before it sees any.
    """

    column: str
    label: str
    make: Callable[[float, int], Any]
    setting: float = 0.0
    candidates: tuple[float, ...] = ()
    thinning: int = 1
    longest: int = max(paper.PULLS)
    prior_mean: float = 0.0

    def named(self, setting: float) -> str:
        """The label with a setting."""
        return self.label.format(f"{setting:g}")


class Total(NamedTuple):
    """A mean total reward.

    Attributes:
        value: The estimate.
        error: Its standard error.
        spread: The standard deviation of the total that one bandit or MDP pays, its noise included.
        instances: Bandits or MDPs.
    """

    value: float
    error: float
    spread: float
    instances: int


class Row(NamedTuple):
    """A total beside the paper's.

    Attributes:
        family: Who acted.
        setting: With which setting.
        arms: Arms of a bandit; 0 for MDPs.
        size: Pulls or episodes.
        total: What was measured.
        published: What the paper has.
    """

    family: Family
    setting: float
    arms: int
    size: int
    total: Total
    published: float

    @property
    def label(self) -> str:
        """The family with its setting."""
        return self.family.named(self.setting)

    @property
    def game(self) -> str:
        """Pulls or episodes, and arms."""
        return f"n = {self.size}, k = {self.arms}" if self.arms else f"n = {self.size}"

    @property
    def difference(self) -> float:
        """From the paper, in percent."""
        return 100 * (self.total.value / self.published - 1)

    @property
    def surprise(self) -> float:
        """The difference from the paper's mean of 1,000, in standard deviations of such a difference."""
        noise = self.total.spread / math.sqrt(paper.INSTANCES)
        return (self.total.value - self.published) / math.hypot(self.total.error, noise)


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each label, short games first."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.size, row.arms)):
        groups.setdefault(row.label, []).append(row)
    return {label: groups[label] for label in dict.fromkeys(row.label for row in rows)}


def totals_table(rows: Sequence[Row]) -> str:
    """A row for each game: totals ± 1.96 standard errors, in brackets the paper's and the difference in percent."""
    groups = grouped(rows)
    cells = [["", *groups], ["---", *["---:"] * len(groups)]]
    for same_game in zip(*groups.values(), strict=True):
        cells.append([same_game[0].game, *map(_total, same_game)])
    return markdown_table(cells)


def _total(row: Row) -> str:
    return f"{row.total.value:.2f} ± {1.96 * row.total.error:.2f} ({row.published}, {row.difference:+.1f})"


def differences_table(rows: Sequence[Row]) -> str:
    """A row for each label: its differences from the paper in percent, their largest, and the largest surprise."""
    groups = grouped(rows)
    games = [row.game for row in max(groups.values(), key=len)]
    cells = [["", *games, "largest", "surprise"], ["---", *["---:"] * (len(games) + 2)]]
    for label, found in groups.items():
        differences = {row.game: f"{row.difference:+.1f}" for row in found}
        largest = max(abs(row.difference) for row in found)
        surprise = max((row.surprise for row in found), key=abs)
        cells.append([label, *(differences.get(game, "–") for game in games), f"{largest:.1f}", f"{surprise:+.1f}"])
    return markdown_table(cells)


def shortfalls(rows: Sequence[Row]) -> dict[str, float]:
    """How far each label of one family falls short of the best, in percent; the mean over the games."""
    groups = grouped(rows)
    values = np.array([[row.total.value for row in found] for found in groups.values()])
    return dict(zip(groups, (100 * (1 - values / values.max(0)).mean(1)).tolist(), strict=True))


def chosen(rows: Sequence[Row], tolerance: float = 2.0, noise: float = 0.1) -> str:
    """The label to report of one family: of those within 2 % of the best, the nearest to the paper.

    The paper chose its settings by a search over values that it does not tell. Among distances that differ by less than
    0.1 % of the paper's figures, which is noise, the better setting counts.
    """
    short, groups = shortfalls(rows), grouped(rows)
    able = {label: _distance(groups[label]) for label in groups if short[label] - min(short.values()) <= tolerance}
    near = [label for label, distance in able.items() if distance <= min(able.values()) + noise]
    return min(near, key=lambda label: short[label])


def _distance(rows: Sequence[Row]) -> float:
    return float(np.mean([abs(row.difference) for row in rows]))


def search_table(rows: Sequence[Row]) -> str:
    """Every setting of every family: how good it is and how near to the paper. Those to report are bold."""
    cells = [["", "short of the best, %", "distance from the paper, %"], ["---", "---:", "---:"]]
    for column in dict.fromkeys((row.family.column, row.arms > 0) for row in rows):
        own = [row for row in rows if (row.family.column, row.arms > 0) == column]
        short, best = shortfalls(own), chosen(own)
        for label, found in grouped(own).items():
            name = f"**{label}**" if label == best else label
            cells.append([name, f"{short[label]:.2f}", f"{_distance(found):.2f}"])
    return markdown_table(cells)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Everything, a line for each game."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["problem", "column", "label", "k", "n", "instances", "total", "half_width", "paper",
                         "difference_percent", "surprise"])  # fmt: skip
        for row in rows:
            problem, arms = ("bandit", row.arms) if row.arms else ("tabular_mdp", "")
            figures = (row.total.value, 1.96 * row.total.error)
            writer.writerow([problem, row.family.column, row.label, arms, row.size, row.total.instances,
                             *(f"{value:.4f}" for value in figures), row.published, f"{row.difference:.3f}",
                             f"{row.surprise:.2f}"])  # fmt: skip
