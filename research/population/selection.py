"""Exploit: which members of a population go on from the state of another one.

    truncation   members among the worst share copy one of the best share, drawn uniformly
    tournament   each member draws another one, and copies it if that is better

(Jaderberg et al. 2017, arXiv:1711.09846, section 3.1: truncation selection and binary tournament.)

Differs from the paper: all members compare themselves at the same iteration. A member without a finite value has lost:
it copies whatever its rank is, and nobody copies it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from research import rng
from research.population.settings import Selection


def donors(values: Mapping[int, float], method: Selection, share: float, seed: int, generation: int) -> dict[int, int]:
    """Returns for each member the member whose state it goes on from, itself if it keeps its own.

    A donor is better than who copies it, so it keeps its own state under truncation.

    Args:
        values: The value of each member, to be maximised; NaN and infinities lose.
        method: `"truncation"` or `"tournament"`.
        share: Share of the members that are among the best and among the worst; read by truncation.
        seed: Seed of the search.
        generation: Number of the generation that has ended.

    Example:
        >>> donors({0: 1.0, 1: 4.0, 2: 2.0, 3: 3.0}, "truncation", 0.25, seed=0, generation=0)
        {0: 1, 1: 1, 2: 2, 3: 3}
        >>> donors({0: float("nan"), 1: 4.0}, "truncation", 0.5, seed=0, generation=0)
        {0: 1, 1: 1}
    """
    finite = [member for member, value in values.items() if math.isfinite(value)]
    ranked = sorted(finite, key=lambda member: (-values[member], member))
    count = max(1, min(int(share * len(values)), len(values) // 2))
    best, worst = ranked[:count], ranked[len(values) - count :]
    chosen = {}
    for member, value in values.items():
        has_lost = not math.isfinite(value)
        pool = best if method == "truncation" else [other for other in finite if other != member]
        donor = member
        if pool and (has_lost or method == "tournament" or member in worst):
            donor = pool[int(rng.generator(seed, "population/exploit", generation, member).integers(len(pool)))]
        chosen[member] = donor if has_lost or values[donor] > value else member
    return chosen
