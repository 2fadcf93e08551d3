"""The numbers of every algorithm and of every task are those that were recorded."""

from __future__ import annotations

import golden_cases
import pytest
from golden_differences import changes
from golden_records import RECORDS, all_cases, load

from research.algorithms import ALGORITHMS
from research.estimators import ESTIMATORS
from research.inner_loops import INNER_LOOPS

CASES = all_cases()
SHOWN = 8


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_that_were_recorded(name):
    case, command = CASES[name], f"python tests/golden/record.py --only {name}"
    assert case.file.exists(), f"{name} has no record; make it:  {command}"
    found = changes(load(case.file), case.run(), case.tolerance)
    assert not found, "\n".join(
        [
            f"{len(found)} numbers of {name} changed:",
            *map(str, found[:SHOWN]),
            f"If they are meant to, record them and name the reason in the CHANGELOG:  {command}",
        ]
    )


def test_every_record_has_a_case():
    recorded = {str(file.relative_to(RECORDS).with_suffix("")) for file in RECORDS.glob("**/*") if file.is_file()}
    orphans = sorted(recorded - set(CASES))
    assert not orphans, f"records without a case: {', '.join(orphans)}; remove them:  python tests/golden/record.py"


def test_every_algorithm_has_a_case():
    without = [name for name in ALGORITHMS if not golden_cases.ALGORITHM_CASES.get(name)]
    assert not without, f"{', '.join(without)}: add settings to ALGORITHM_CASES in tests/golden/golden_cases.py"


def test_every_estimator_has_a_case_with_every_inner_loop():
    cases = golden_cases.ALGORITHM_CASES["maml_ppo"].values()
    covered = {(case.get("estimator"), case.get("inner_loop")) for case in cases}
    for pair in [(estimator, inner_loop) for estimator in ESTIMATORS for inner_loop in INNER_LOOPS]:
        assert pair in covered, f"estimator, inner_loop = {pair}: add a case of maml_ppo to golden_cases.py"


@pytest.mark.parametrize("algorithm", ["maml_trpo", "maml_regression", "maml_dqn"])
def test_every_inner_loop_has_a_case(algorithm):
    covered = {case.get("inner_loop") for case in golden_cases.ALGORITHM_CASES[algorithm].values()}
    assert covered >= set(INNER_LOOPS)
