"""Formats the results of `analysis.studies.classical` as Markdown tables and a CSV file."""

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
    """A policy or agent with one setting.

    Attributes:
        column: Its column in the paper's table.
        label: Its name; `{}` stands for the setting.
        make: (setting, pulls) → the policy or agent. Most ignore at least one argument.
        setting: The reported setting, see `chosen`.
        candidates: The settings that the search tries.
        thinning: A divisor of the number of bandits or MDPs, for slow policies.
        longest: The maximum number of pulls; longer games are skipped.
        prior_mean: The mean of an agent's prior over the mean rewards of an MDP.
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
        """Returns the label with a setting inserted."""
        return self.label.format(f"{setting:g}")


class Total(NamedTuple):
    """A mean total reward.

    Attributes:
        value: The estimate.
        error: Its standard error.
        spread: The standard deviation over bandits or MDPs of the total, including reward noise.
        instances: The number of bandits or MDPs.
    """

    value: float
    error: float
    spread: float
    instances: int


class Row(NamedTuple):
    """A measured total and the published one.

    Attributes:
        family: The policy or agent.
        setting: Its setting.
        arms: The number of arms of the bandits; 0 for MDPs.
        size: The number of pulls or episodes.
        total: The measured total.
        published: The total in the paper.
    """

    family: Family
    setting: float
    arms: int
    size: int
    total: Total
    published: float

    @property
    def label(self) -> str:
        """The label of the family with the setting."""
        return self.family.named(self.setting)

    @property
    def game(self) -> str:
        """The number of pulls or episodes, and of arms."""
        return f"n = {self.size}, k = {self.arms}" if self.arms else f"n = {self.size}"

    @property
    def difference(self) -> float:
        """The difference from the paper in percent."""
        return 100 * (self.total.value / self.published - 1)

    @property
    def surprise(self) -> float:
        """The difference from the paper's mean of 1,000 instances, in standard errors of the difference."""
        noise = self.total.spread / math.sqrt(paper.INSTANCES)
        return (self.total.value - self.published) / math.hypot(self.total.error, noise)


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows by label, ordered by the length of the game."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.size, row.arms)):
        groups.setdefault(row.label, []).append(row)
    return {label: groups[label] for label in dict.fromkeys(row.label for row in rows)}


def totals_table(rows: Sequence[Row]) -> str:
    """Returns totals ± 1.96 standard errors by game, in brackets the paper's and the difference in percent."""
    groups = grouped(rows)
    cells = [["", *groups], ["---", *["---:"] * len(groups)]]
    for same_game in zip(*groups.values(), strict=True):
        cells.append([same_game[0].game, *map(_total, same_game)])
    return markdown_table(cells)


def _total(row: Row) -> str:
    return f"{row.total.value:.2f} ± {1.96 * row.total.error:.2f} ({row.published}, {row.difference:+.1f})"


def differences_table(rows: Sequence[Row]) -> str:
    """Returns the differences from the paper in percent by label, with the largest one and the largest `surprise`."""
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
    """Returns by how many percent each label of a family is below the best, averaged over games."""
    groups = grouped(rows)
    values = np.array([[row.total.value for row in found] for found in groups.values()])
    return dict(zip(groups, (100 * (1 - values / values.max(0)).mean(1)).tolist(), strict=True))


def chosen(rows: Sequence[Row], tolerance: float = 2.0, noise: float = 0.1) -> str:
    """Returns the label to report for a family: the one nearest to the paper among those within 2 % of the best.

    The paper chose its settings by a search over values that it does not name. Distances that differ by less than
    0.1 % of the paper's figures count as equal, and the better setting is then chosen.
    """
    short, groups = shortfalls(rows), grouped(rows)
    able = {label: _distance(groups[label]) for label in groups if short[label] - min(short.values()) <= tolerance}
    near = [label for label, distance in able.items() if distance <= min(able.values()) + noise]
    return min(near, key=lambda label: short[label])


def _distance(rows: Sequence[Row]) -> float:
    return float(np.mean([abs(row.difference) for row in rows]))


def search_table(rows: Sequence[Row]) -> str:
    """Returns each setting's shortfall from the best and distance from the paper. The settings to report are bold."""
    cells = [["", "short of the best, %", "distance from the paper, %"], ["---", "---:", "---:"]]
    for column in dict.fromkeys((row.family.column, row.arms > 0) for row in rows):
        own = [row for row in rows if (row.family.column, row.arms > 0) == column]
        short, best = shortfalls(own), chosen(own)
        for label, found in grouped(own).items():
            name = f"**{label}**" if label == best else label
            cells.append([name, f"{short[label]:.2f}", f"{_distance(found):.2f}"])
    return markdown_table(cells)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes all rows as CSV, a line for each game."""
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
