"""A generation's end as a plan: who copies whom, and with which settings each member goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from research.population.exploration import Setting, explored
from research.population.selection import donors
from research.population.settings import PopulationConfig
from research.population.study import Decision, Entry, Progress


def next_generation(
    values: Mapping[int, float],
    settings: Sequence[Mapping[str, Any]],
    space: Mapping[str, Setting],
    config: PopulationConfig,
    seed: int,
    generation: int,
) -> list[Decision]:
    """Returns how each member goes on: a pure function of the arguments.

    Args:
        values: The value of each member that goes on at the end of the generation, to be maximised.
        settings: The settings of the space of each member.
        space: The values that they may have.
        config: The settings of the search.
        seed: Seed of the search.
        generation: Number of the generation that has ended.
    """
    decisions = []
    for member, donor in donors(values, config.exploit, config.share, seed, generation).items():
        own, new, why = settings[member], dict(settings[member]), "keeps its state"
        if donor != member:
            new = explored(settings[donor], space, config, seed, generation, member)
            why = f"{config.exploit}: {values[member]:g} is worse than {values[donor]:g}"
        changed = {key: [own[key], new[key]] for key in new if new[key] != own[key]}
        decisions.append(Decision(member, donor, new, changed, why))
    return decisions


def decided(progress: Progress, space: Mapping[str, Setting], seed: int) -> Entry:
    """Returns the entry for the end of a generation, all of whose slices have finished.

    Args:
        progress: The progress.
        space: The values that settings may have.
        seed: Seed of the search.
    """
    assert progress.is_finished
    values = {member: progress.values[member] for member in progress.living}
    decisions = next_generation(values, progress.settings, space, progress.config, seed, progress.generation)
    every = [values.get(member, math.nan) for member in range(len(progress.settings))]
    noted = [value if math.isfinite(value) else None for value in every]
    plain = [decision._asdict() for decision in decisions]
    return {"kind": "decided", "generation": progress.generation, "values": noted, "decisions": plain}
