"""The records notice what they are for, and nothing else; recording them again says what changed."""

from __future__ import annotations

from typing import Any, NamedTuple

import golden_records
import numpy as np
import pytest
import record
import torch
from golden_differences import changes
from golden_records import Case, load, record_training, save

TOLERANCE = 1e-7
START = {"weight": torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).view(2, 3), "rate": torch.tensor(0.1)}


class Toy(NamedTuple):
    iteration: int
    params: dict[str, torch.Tensor]
    note: Any = None


class Renamed(NamedTuple):
    count: int
    learned: dict[str, torch.Tensor]
    remark: Any = None


class Curve:
    def __init__(self, score):
        self.score = score

    def by_task(self):
        return {"score": self.score.tolist(), "regret": None}


class Halving:
    """Every iteration halves the parameters."""

    def __init__(self, start=None, metrics=None, state=Toy, score=1.0):
        self.start, self.metrics, self.state = start or START, metrics or {"loss": 0.5}, state
        self.score = score

    def init(self):
        return self.state(0, self.start)

    def step(self, state):
        halved = {name: value / 2 for name, value in state[1].items()}
        return self.state(state[0] + 1, halved), self.metrics | {"time/seconds": np.random.default_rng().random()}

    def evaluate(self, state, num_tasks, num_adapt_steps):
        return Curve(np.full((num_adapt_steps + 1, num_tasks), self.score))


BEFORE = record_training(Halving())


def changed(**settings):
    return [str(each) for each in changes(BEFORE, record_training(Halving(**settings)), TOLERANCE)]


def with_weight(weight):
    return START | {"weight": weight}


def one_element(factor):
    weight = START["weight"].clone()
    weight[1, 2] *= factor
    return with_weight(weight)


def test_the_clock_is_not_recorded_and_the_same_numbers_are_no_change():
    assert changed() == []


@pytest.mark.parametrize(("factor", "number"), [(1 + 1e-9, 0), (1 + 1e-5, 6)])
def test_an_element_may_change_by_a_rounding_error(factor, number):
    assert len(changed(start=one_element(factor))) == number


def test_a_change_names_the_leaf_the_iteration_and_both_numbers():
    first = changed(start=one_element(1.1))[0]
    assert first == "state › params.weight, norm, iteration 1: 0.8366600265 → 0.8674675786  (3.0e-02)"


def test_the_order_of_elements_and_of_leaves_matters():
    weight = START["weight"]
    assert changed(start=with_weight(weight.flip(1)))
    assert changed(start=with_weight(weight.t().contiguous()))
    assert changed(start={"weight": weight[:1], "other": weight[1:]})
    assert changed(start=dict(reversed(START.items())))


def test_another_dtype_or_shape_is_a_change():
    (text,) = changed(start=START | {"rate": START["rate"].double()})
    assert text == "state › params.rate: float32[] [1, 1, 1] → float64[] [1, 1, 1]"
    (text,) = changed(start=with_weight(START["weight"].view(3, 2)))
    assert text.startswith("state › params.weight: float64[2, 3]")


def test_names_of_classes_and_fields_are_no_numbers():
    assert changed(state=Renamed) == []


def test_a_leaf_more_is_named():
    (text,) = changed(start=START | {"bias": torch.zeros(2)})
    assert text == "state › params.bias: nothing → float32[2] [2, 2, 2]"


def test_metrics_are_compared_by_name():
    assert changed(metrics={"error": 0.5}) == [
        "metrics › loss: [3] → nothing",
        "metrics › error: nothing → [3]",
    ]
    assert changed(metrics={"loss": 0.6})[0] == "metrics › loss, iteration 1: 0.5 → 0.6  (2.0e-01)"


def test_numbers_that_are_zero_but_for_rounding_errors_are_equal():
    before, after = (record_training(Halving(metrics={"loss": value})) for value in (1e-17, -3e-17))
    assert changes(before, after, TOLERANCE) == []


def test_a_number_that_is_not_finite_is_a_change_unless_it_was_so_before():
    assert changed(metrics={"loss": float("nan")})[0] == "metrics › loss, iteration 1: 0.5 → nan"
    infinite = record_training(Halving(metrics={"loss": float("inf")}))
    assert changes(infinite, infinite, TOLERANCE) == []


def test_scores_of_an_evaluation_are_recorded():
    assert changed(score=1.1)[0] == "evaluation › score, step 0, task 0: 1 → 1.1  (1.0e-01)"


def test_a_file_gives_the_record_back(tmp_path):
    odd = record_training(Halving(metrics={"loss": float("nan"), "größe": 1e-30}))
    for each in (BEFORE, odd):
        save(each, tmp_path / "deep" / "case.json")
        assert load(tmp_path / "deep" / "case.json") == each


@pytest.fixture
def renew(tmp_path, monkeypatch):
    """Records a toy with these settings again."""
    monkeypatch.setattr(golden_records, "RECORDS", tmp_path)
    return lambda **settings: record.renew(Case("toy/halving", lambda: record_training(Halving(**settings)), TOLERANCE))


def test_recording_again_says_what_changed_and_leaves_rounding_errors(renew, tmp_path):
    file = tmp_path / "toy" / "halving.json"
    assert renew() == "new"
    text = file.read_text()
    assert renew() == renew(start=one_element(1 + 1e-9)) == ""
    assert file.read_text() == text
    said = renew(metrics={"loss": 0.6})
    assert said.splitlines()[0] == "3 numbers changed" and "iteration 3: 0.5 → 0.6  (2.0e-01)" in said
    assert renew(metrics={"loss": 0.6}) == ""
    assert renew(metrics={"loss": 0.6}, state=Renamed) == "the same numbers under other names"
    assert "learned.weight" in file.read_text()


def test_a_record_without_a_case_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RECORDS", tmp_path)
    name = next(iter(golden_records.all_cases()))
    for each in (name, "maml_trpo/forgotten"):
        save(BEFORE, tmp_path / f"{each}.json")
    assert record.remove_orphans() == ["maml_trpo/forgotten"]
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.glob("**/*.json")] == [f"{name}.json"]


def test_the_first_changes_are_those_of_the_first_iteration():
    texts = changed(start=one_element(1.1), metrics={"loss": 0.6}, score=1.1)
    assert "iteration 1" in texts[0] and "iteration 3" in texts[-10] and "evaluation" in texts[-1]
