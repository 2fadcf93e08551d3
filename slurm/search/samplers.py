"""Samplers of Optuna whose draws are pure functions of (seed of the search, number of the trial, trials so far)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from slurm.search.file import SearchFile
from slurm.search.space import Dimension, draw_dimension, sampler_seed


def make_sampler(file: SearchFile, trial: int) -> BaseSampler:
    """Returns the sampler that chooses the settings of a trial.

    Args:
        file: The search.
        trial: Number of the trial, which is the number of trials before it.
    """
    if file.method.name == "tpe" and trial >= file.method.settings.startup:
        return TPESampler(n_startup_trials=1, seed=sampler_seed(file.seed, trial))
    return OwnStreams(file.seed)


class OwnStreams(BaseSampler):
    """Draws each dimension from a random stream of its own, see `space.draws`.

    Args:
        seed: Seed of the search.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns nothing: dimensions do not depend on each other."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns nothing, see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns the draw of a dimension in a trial."""
        return draw_dimension(self.seed, trial.number, param_name, _dimension(param_distribution))


def suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    """Returns the value of a dimension that the sampler of the study chooses for a trial."""
    low, high = dimension.low, dimension.high
    if dimension.kind == "choice":
        return trial.suggest_categorical(name, dimension.labels)
    if dimension.kind == "int":
        return trial.suggest_int(name, int(low), int(high), log=dimension.log)
    return trial.suggest_float(name, low, high, log=dimension.log)


def _dimension(found: BaseDistribution) -> Dimension:
    if isinstance(found, CategoricalDistribution):
        return Dimension("choice", labels=tuple(found.choices))
    assert isinstance(found, FloatDistribution | IntDistribution)  # `suggest` makes no other
    return Dimension("int" if isinstance(found, IntDistribution) else "float", found.low, found.high, found.log)
