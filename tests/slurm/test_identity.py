"""Which completed runs count after the code has changed."""

from __future__ import annotations

import dataclasses

import pytest
import toy_experiment

from research.tracking.experiment import make_experiment
from slurm.identity import Identifier
from slurm.known import Past


def experiment_of(config_class):
    return make_experiment("toy", config_class, script=toy_experiment.__file__)


def past_of(identity, run=1, kind="completed", given=True):
    own = tuple(identity.given) if given else None
    return Past(run, kind, "ensure", name="toy", settings=identity.settings, given=own)


TODAY = Identifier(experiment_of(toy_experiment.Config))


@dataclasses.dataclass(frozen=True)
class WithOneMore(toy_experiment.Config):
    note_of_mine: str = ""


@dataclasses.dataclass(frozen=True)
class WithAnotherDefault(toy_experiment.Config):
    lr: float | tuple[float, ...] = 0.2


LATER = Identifier(experiment_of(WithOneMore))
CHANGED = Identifier(experiment_of(WithAnotherDefault))


@pytest.mark.parametrize("values", [{}, {"lr": 0.5, "surface": {"size": 2}}, {"extra": {"a": 1.0}}])
def test_a_new_setting_at_its_default_makes_no_other_experiment(values):
    then = past_of(TODAY.identify(values))
    assert LATER.identify_past(then).hash == LATER.identify(values).hash
    assert LATER.identify_past(then).hash != LATER.identify({**values, "note_of_mine": "x"}).hash


def test_a_setting_that_is_gone_counts_only_if_it_was_given():
    at_default, given = LATER.identify({"lr": 0.5}), LATER.identify({"lr": 0.5, "note_of_mine": "x"})
    assert TODAY.identify_past(past_of(at_default)).hash == TODAY.identify({"lr": 0.5}).hash
    assert TODAY.identify_past(past_of(given)) is None
    assert TODAY.identify_past(past_of(at_default, given=False)) is None, "whether it was given is unknown"


def test_another_default_makes_another_experiment_and_is_named():
    then = past_of(TODAY.identify({"seed": 3}), run=7)
    other = past_of(TODAY.identify({"seed": 4}), run=8)
    now = CHANGED.identify({"seed": 3})
    pasts = [(past, CHANGED.identify_past(past)) for past in (then, other)]
    assert pasts[0][1].hash != now.hash
    assert CHANGED.changed_defaults([now], pasts) == [(7, "lr", 0.1, 0.2)]
    as_then = CHANGED.identify({"seed": 3, "lr": 0.1})
    assert pasts[0][1].hash == as_then.hash, "the old value, given now, is the old experiment"


def test_a_run_of_another_experiment_or_without_settings_is_unknown():
    identity = TODAY.identify({})
    assert TODAY.identify_past(past_of(identity)._replace(name="other")) is None
    assert TODAY.identify_past(Past(1, "completed", "ensure")) is None


def test_settings_are_the_same_whatever_their_order_and_type():
    assert TODAY.identify({"lr": 1, "seed": 2}).hash == TODAY.identify({"seed": 2, "lr": 1.0}).hash
    assert TODAY.identify({"lr": 0.1}).hash == TODAY.identify({}).hash, "given, and the default"


@pytest.mark.thorough
def test_a_sweep_of_completed_runs_and_a_changed_default(desk, no_slurm, monkeypatch):
    desk.slurm("submit", desk.sweep(fixed={"num_iterations": 1}, seeds=2), "--local", "--no-snapshot")
    words = ("submit", desk.sweep(fixed={"num_iterations": 1}, seeds=3), "--local", "--no-snapshot", "--dry-run")
    monkeypatch.setattr("slurm.checking.load_experiment", lambda script: experiment_of(WithOneMore))
    shown = desk.slurm(*words)
    assert "2 have completed already and are skipped: runs 1, 2" in shown and "Would claim the ids 3 to 3" in shown
    monkeypatch.setattr("slurm.checking.load_experiment", lambda script: experiment_of(WithAnotherDefault))
    shown = desk.slurm(*words)
    assert "lr: the default is 0.2 and was 0.1 in runs 1, 2. Another default makes another experiment" in shown
    assert "Would claim the ids 3 to 5" in shown
