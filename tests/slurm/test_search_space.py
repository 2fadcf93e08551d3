"""Search files: what they say, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml

from research import rng
from slurm.errors import SlurmError
from slurm.search.file import load_search
from slurm.search.space import draw_dimension, draws, parse_space, run_seed, sampler_seed

SPACE = {
    "lr": {"log": [1e-4, 1e-1]},
    "policy": {
        "activation": {"choice": ["tanh", "relu", None, [1, 2]]},
        "widths": {"widths": [4, 64], "layers": [1, 3]},
    },
    "task_args.size": {"int": [2, 5]},
    "batch": {"log_int": [1, 1000]},
    "discount": {"float": [0.9, 1]},
}
FILE = {
    "experiment": "toy",
    "fixed": {"num_iterations": 9, "surface": {"size": 3}},
    "space": {"lr": {"log": [1e-4, 1e-1]}},
    "objective": {"metric": "loss", "direction": "minimize"},
    "budget": {"trials": 4},
    "method": "random",
}


def load(directory, **sections):
    path = directory / "search.yaml"
    path.write_text(yaml.safe_dump({**FILE, **sections}))
    return load_search(path)


def test_draws_lie_in_the_space_and_depend_on_seed_key_and_trial_alone():
    space = parse_space(SPACE)
    rows = [draws(space, 3, trial) for trial in range(200)]
    assert rows == [draws(space, 3, trial) for trial in range(200)]
    assert rows[0] != draws(space, 4, 0)
    assert {row["policy.activation"] if not isinstance(row["policy.activation"], list) else "list" for row in rows} == {
        "tanh", "relu", None, "list",
    }  # fmt: skip
    assert {row["task_args.size"] for row in rows} == {2, 3, 4, 5}
    assert {len(row["policy.widths"]) for row in rows} == {1, 2, 3}
    assert all(4 <= width <= 64 and type(width) is int for row in rows for width in row["policy.widths"])
    assert all(0.9 <= row["discount"] <= 1 and 1e-4 <= row["lr"] <= 1e-1 for row in rows)
    assert abs(np.mean([math.log10(row["lr"]) for row in rows]) + 2.5) < 0.2
    assert 12 < np.median([row["batch"] for row in rows]) < 40
    fewer = parse_space({"batch": SPACE["batch"]})
    assert [draws(fewer, 3, trial)["batch"] for trial in range(9)] == [row["batch"] for row in rows[:9]]
    found = draw_dimension(3, 0, "batch", space["batch"].dimension)
    assert found == rows[0]["batch"]
    assert found == space["batch"].dimension.draw(rng.generator(3, "search/batch", 0))
    assert len({run_seed(3, trial) for trial in range(50)} | {sampler_seed(3, trial) for trial in range(50)}) == 100


def test_corners_and_nearest_values():
    space = parse_space(SPACE)
    assert list(space["lr"].corners()) == [1e-4, 1e-1]
    assert list(space["policy.widths"].corners()) == [[4], [64, 64, 64]]
    assert len(space["policy.activation"].corners()) == 4
    assert space["batch"].clip(1e9) == 1000 and space["task_args.size"].clip(2.4) == 2
    assert space["policy.widths"].clip([1, 100, 7, 9]) == [4, 64, 7]
    assert space["policy.widths"].describe() == "a list of 1 to 3 integers from 4 to 64"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"space": {}}, "space={}: need a setting to search"),
        ({"space": {"lr": 0.1}}, "space.lr=0.1: need a kind and its values"),
        ({"space": {"lr": {"logg": [1, 2]}}}, "space.lr.logg=[1, 2]: no such kind; did you mean log?"),
        ({"space": {"a": {"b": {"int": [1, 2.5]}}}}, "space.a.b.int=[1, 2.5]: need two integers, [low, high]"),
        ({"space": {"lr": {"log": [0, 1]}}}, "space.lr.log=[0, 1]: need ends above 0"),
        ({"space": {"lr": {"float": [2, 1]}}}, "space.lr.float=[2, 1]: need two numbers, [low, high], low ≤ high"),
        ({"space": {"lr": {"log": [1, 2], "int": [1, 2]}}}, "space.lr.int=[1, 2]: no such key with log"),
        ({"space": {"lr": {"choice": []}}}, "space.lr.choice=[]: need a list of at least one value"),
        ({"space": {"lr": {"choice": [1, 1]}}}, "space.lr.choice=[1, 1]: 1 is there twice"),
        ({"space": {"w": {"widths": [4, 8]}}}, "space.w.layers: missing"),
        ({"space": {"w": {"widths": [4, 8], "layers": [0, 1]}}}, "space.w.layers=[0, 1]: need ends of at least 1"),
        ({"space": {"surface.size": {"int": [1, 2]}}}, "space.surface.size: is in fixed, too"),
        ({"space": {"seed": {"int": [1, 2]}}}, "space.seed: cannot be searched"),
        ({"sapce": {}}, "sapce={}: no such key; did you mean space?"),
        ({"objective": {"metrik": "loss"}}, "objective.metrik='loss': no such key; did you mean objective.metric?"),
        ({"objective": {"metric": "loss", "direction": "up"}}, "objective.direction='up': need one of maximize"),
        ({"objective": {"metric": "loss", "at": 0}}, "objective.at=0: need an iteration of at least 1"),
        ({"objective": {"metric": "result.score.-1", "points": 2}}, "need last, and 1 point, for a result"),
        (
            {"objective": {"metric": "result.score"}, "method": {"asha": {"min_iterations": 1}}},
            "asha stops trials early",
        ),
        ({"budget": {}}, "budget={}: need at least one of trials, core_minutes, until"),
        ({"budget": {"trials": 0}}, "budget.trials=0: need at least 1 trial"),
        ({"budget": {"until": "soon"}}, "budget.until='soon': need a date"),
        ({"method": "tpa"}, "method='tpa': no such method; did you mean tpe?"),
        ({"method": {"asha": {}}}, "method.asha.min_iterations: missing"),
        ({"method": {"asha": {"min_iterations": 1, "eta": 3}}}, "method.asha.eta=3: no such key"),
        ({"method": {"asha": {"min_iterations": 1, "reduction": 1}}}, "method.asha.reduction=1: need at least 2"),
        ({"method": {"tpe": {"startup": 0}}}, "method.tpe.startup=0: need at least 1"),
        ({"seed": -1}, "seed=-1: need at least 0"),
    ],
)
def test_what_is_refused_is_named(tmp_path, sections, message):
    with pytest.raises(SlurmError) as refused:
        load(tmp_path, **sections)
    assert str(refused.value).startswith(f"{tmp_path / 'search.yaml'}: ") and message in str(refused.value)


def test_a_file_runs_no_code(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text("experiment: !!python/object/apply:os.system [touch pwned]\n")
    with pytest.raises(SlurmError):
        load_search(path)


def test_a_search_whose_budget_grows_is_the_same_search(tmp_path):
    file = load(tmp_path)
    assert file.apart_from_budget(load(tmp_path, budget={"trials": 9}))
    assert not file.apart_from_budget(load(tmp_path, seed=1))
