"""The numbers of every algorithm and every task are those that were recorded; see golden_cases.py and record.py."""

from __future__ import annotations

import golden_cases
import pytest
from golden_records import RECORDS, all_cases, changes, load

from research.algorithms import ALGORITHMS
from research.estimators import ESTIMATORS
from research.inner_loops import INNER_LOOPS

CASES = all_cases()
SHOWN = 8


def advice(name):
    return f"if that is meant:  python tests/golden/record.py --only {name}  (and say in the CHANGELOG why)"


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_that_were_recorded(name):
    case = CASES[name]
    assert case.file.exists(), f"{name} has no record yet; make it:  python tests/golden/record.py --only {name}"
    found = changes(load(case.file), case.run(), case.tolerance)
    assert not found, "\n".join([f"{len(found)} numbers of {name} changed", *map(str, found[:SHOWN]), advice(name)])


def test_every_record_has_a_case():
    recorded = {str(file.relative_to(RECORDS).with_suffix("")) for file in RECORDS.glob("**/*") if file.is_file()}
    assert not recorded - set(CASES), "remove them:  python tests/golden/record.py"


def test_every_algorithm_has_a_case():
    without = set(ALGORITHMS) - {name for name, cases in golden_cases.ALGORITHM_CASES.items() if cases}
    assert not without, "add settings to ALGORITHM_CASES in tests/golden/golden_cases.py, and record them"


def test_every_estimator_has_a_case_with_every_backend():
    cases = golden_cases.ALGORITHM_CASES["maml_ppo"].values()
    have = {(case["estimator"], case.get("inner_loop", "func")) for case in cases if "estimator" in case}
    assert have >= {(estimator, backend) for estimator in ESTIMATORS for backend in INNER_LOOPS}
