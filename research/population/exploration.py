"""Explore: how the settings of a member change after it has copied another one.

    number              resampled from the space with chance `resample`; else × or ÷ `factor`, one half each
    other value         resampled with chance `resample`; else it stays
    what only grows     with chance `grow` one step larger: a number × `growth`; of a list of widths one layer
                        × `growth`, or with chance `deepen`, if it can, one more layer, as wide as the one below it

Jaderberg et al. 2017, arXiv:1711.09846, section 3.2: perturb and resample, with factors of 1.2 and 0.8. The growth of
networks during the search is that of SEARL (Franke et al. 2021, arXiv:2009.01555).

Differs from the papers: ÷ 1.2 stands for × 0.8, so that steps up and down cancel. SEARL draws one kind of mutation for
each member; here every setting of the space may change. Units are added in proportion to those that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from research import rng
from research.population.settings import ExploreConfig


class Setting(NamedTuple):
    """The values that a setting may have.

    Attributes:
        draw: Function from a generator to a value.
        clip: Function from a value to the nearest allowed one.
        is_number: Whether values can be multiplied.
        grows: Whether a value can only be followed by a larger one.
        deepens: Whether a list that grows can get more layers.
    """

    draw: Callable[[np.random.Generator], Any]
    clip: Callable[[Any], Any]
    is_number: bool = False
    grows: bool = False
    deepens: bool = False


def first_settings(space: Mapping[str, Setting], seed: int, member: int) -> dict[str, Any]:
    """Returns the settings with which a member starts, each drawn from a stream of its own."""
    return {key: one.draw(rng.generator(seed, f"search/{key}", member)) for key, one in space.items()}


def explored(
    settings: Mapping[str, Any],
    space: Mapping[str, Setting],
    config: ExploreConfig,
    seed: int,
    generation: int,
    member: int,
) -> dict[str, Any]:
    """Returns the changed settings of a member, each drawn from a stream of its own.

    Args:
        settings: The settings of the member that it copies.
        space: The values that they may have, by the same keys.
        config: The settings of the changes.
        seed: Seed of the search.
        generation: Number of the generation that has ended.
        member: The member.
    """
    new = dict(settings)
    for key, one in space.items():
        generator = rng.generator(seed, f"population/explore/{key}", generation, member)
        change = _grown if one.grows else _moved
        new[key] = change(settings[key], one, config, generator)
    return new


def _moved(value: Any, one: Setting, config: ExploreConfig, generator: np.random.Generator) -> Any:
    """Returns a value that is drawn again, or perturbed if it is a number."""
    chance, is_up = generator.random(), bool(generator.integers(2))
    if chance < config.resample:
        return one.draw(generator)
    if not one.is_number:
        return value
    return one.clip(_scaled(value, config.factor, is_up))


def _scaled(value: Any, factor: float, is_up: bool = True) -> Any:
    """Returns value · factor or value / factor; of a whole number the nearest one that differs from it."""
    scaled = value * factor if is_up else value / factor
    if not isinstance(value, int):
        return scaled
    return round(scaled) if round(scaled) != value else value + (1 if is_up else -1)


def _grown(value: Any, one: Setting, config: ExploreConfig, generator: np.random.Generator) -> Any:
    """Returns a larger value, or the same one: with the chance that it stays, or where the space ends."""
    chance, deepens = generator.random(), generator.random() < config.deepen
    if chance >= config.grow:
        return value
    if not isinstance(value, (list, tuple)):
        larger = one.clip(_scaled(value, config.growth))
        return larger if larger > value else value
    widths = list(value)
    layer = int(generator.integers(max(1, len(widths))))
    if one.deepens and deepens and widths:
        deeper = [*widths[: layer + 1], widths[layer], *widths[layer + 1 :]]
        if list(one.clip(deeper)) == deeper:
            return type(value)(deeper)
    wider = [_scaled(width, config.growth) if place == layer else width for place, width in enumerate(widths)]
    clipped = list(one.clip(wider))
    fits = len(clipped) == len(widths) and all(now >= then for now, then in zip(clipped, widths, strict=True))
    return type(value)(clipped) if fits else value
