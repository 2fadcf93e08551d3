"""Sweep files: what they expand to, and what is refused with the place where it stands."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_experiment import make

from slurm.checking import check, load_experiment
from slurm.errors import SlurmError
from slurm.identity import config_hash, nest
from slurm.sweep import Random, Sweep, expand, load_sweep
from slurm.task import ROOT
from slurm.yaml_files import read_yaml


def written(directory: Path, text: str) -> Path:
    path = directory / "some.yaml"
    path.write_text(text)
    return path


def test_all_sections_are_combined_as_nested_loops_would(tmp_path):
    sweep = load_sweep(written(tmp_path, """
experiment: toy
fixed: {num_iterations: 7, surface: {size: 2}}
grid: {lr: [0.1, 0.2], optimizer: [sgd, momentum]}
zip: {num_eval_tasks: [4, 5], num_adapt_steps: [1, 2]}
list: [{pause: 0.5}, {eval_interval: 3, pause: 0.25}]
random: {count: 2, seed: 3, draw: {extra.a: {uniform: [0, 1]}}}
seeds: [5, 9]
"""))  # fmt: skip
    draws = [row["extra.a"] for row in expand(Sweep("toy", random=sweep.random))]
    expected = []
    for lr in (0.1, 0.2):
        for optimizer in ("sgd", "momentum"):
            for tasks, steps in ((4, 1), (5, 2)):
                for listed in ({"pause": 0.5}, {"eval_interval": 3, "pause": 0.25}):
                    for drawn in draws:
                        for seed in (5, 9):
                            row = {"num_iterations": 7, "surface.size": 2, "lr": lr, "optimizer": optimizer}
                            row |= {"num_eval_tasks": tasks, "num_adapt_steps": steps, **listed}
                            expected.append(row | {"extra.a": drawn, "seed": seed})
    assert list(expand(sweep)) == expected
    assert len(set(draws)) == 2 and all(0 <= draw <= 1 for draw in draws)


@st.composite
def sweeps(draw) -> Sweep:
    """Sweeps with any of the sections, each with keys of its own."""

    def keys(section, least=0):
        return [f"{section}.{i}" for i in range(draw(st.integers(least, 2)))]

    values = st.lists(st.integers(), min_size=1, max_size=3)
    length = draw(st.integers(1, 3))
    rows = st.dictionaries(st.sampled_from(["list.0", "list.1"]), st.integers(), max_size=2)
    drawn = st.builds(
        Random,
        count=st.integers(1, 3),
        draw=st.just({f"{key}.uniform": [0, 1] for key in keys("random", least=1)}),
        seed=st.integers(0, 9),
    )
    seeds = st.one_of(st.integers(1, 3), st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True).map(tuple))
    return Sweep(
        "toy",
        fixed={key: draw(st.integers()) for key in keys("fixed")},
        grid={key: draw(values) for key in keys("grid")},
        zip={key: draw(st.lists(st.integers(), min_size=length, max_size=length)) for key in keys("zip")},
        list=tuple(draw(st.lists(rows, max_size=3))),
        random=draw(st.none() | drawn),
        seeds=draw(st.none() | seeds),
    )


@given(sweeps())
def test_the_place_of_a_configuration_says_what_is_in_it(sweep):
    """The sections are the digits of its number, the last section the lowest."""
    steps = len(next(iter(sweep.zip.values()), [0]))
    draws = list(expand(Sweep("toy", random=sweep.random)))
    digits = [len(values) for values in sweep.grid.values()]
    digits += [steps, len(sweep.list) or 1, len(draws), len(sweep.all_seeds) or 1]
    found = list(expand(sweep))
    assert len(found) == math.prod(digits)
    for number, row in enumerate(found):
        *of_grid, step, listed, drawn, seed = (int(digit) for digit in np.unravel_index(number, digits))
        expected = dict(sweep.fixed) | draws[drawn]
        expected |= {key: values[digit] for digit, (key, values) in zip(of_grid, sweep.grid.items(), strict=True)}
        expected |= {key: values[step] for key, values in sweep.zip.items()}
        expected |= sweep.list[listed] if sweep.list else {}
        expected |= {"seed": sweep.all_seeds[seed]} if sweep.all_seeds else {}
        assert row == expected
    assert found == list(expand(sweep)), "the same draws every time"


def test_draws_have_their_distributions_and_stay_when_the_sweep_grows():
    draw = {"u.uniform": [2, 3], "l.log_uniform": [1e-4, 1], "i.integers": [1, 3], "c.choice": [[1], "x"]}
    rows = list(expand(Sweep("toy", random=Random(2000, draw))))
    columns = {key: [row[key] for row in rows] for key in "ulic"}
    assert all(2 <= value < 3 for value in columns["u"]) and abs(sum(columns["u"]) / 2000 - 2.5) < 0.03
    exponents = [math.log10(value) for value in columns["l"]]
    assert all(-4 <= value <= 0 for value in exponents) and abs(sum(exponents) / 2000 + 2) < 0.12
    assert {type(value) for value in columns["i"]} == {int}
    assert all(abs(columns["i"].count(value) / 2000 - 1 / 3) < 0.04 for value in (1, 2, 3))
    assert all(abs(columns["c"].count(value) / 2000 - 1 / 2) < 0.04 for value in ([1], "x"))
    shares = [(value - 2, 1 + exponent / 4) for value, exponent in zip(columns["u"], exponents, strict=True)]
    assert sum(abs(one - other) < 1e-6 for one, other in shares) < 5, "keys have draws of their own"
    fewer = Random(5, {"l.log_uniform": [1e-4, 1], "new.uniform": [0, 1]})
    assert [row["l"] for row in expand(Sweep("toy", random=fewer))] == columns["l"][:5]
    other = Random(5, {"l.log_uniform": [1e-4, 1]}, seed=1)
    assert [row["l"] for row in expand(Sweep("toy", random=other))] != columns["l"][:5]


def test_a_number_of_seeds_stands_for_the_first_ones():
    assert [row["seed"] for row in expand(Sweep("toy", seeds=3))] == [0, 1, 2]
    assert list(expand(Sweep("toy"))) == [{}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experimnt: toy", "experimnt='toy': no such key; did you mean experiment?"),
        ("grid: {lr: [1]}", "experiment: missing"),
        ("experiment: toy\ngrid: {lr: 0.1}", "grid.lr=0.1: need a list"),
        ("experiment: toy\ngrid: {lr: []}", "grid.lr=[]: need at least one value"),
        ("experiment: toy\nzip: {lr: [1, 2], pause: [1]}", "zip: need lists of one length, and lr has 2, pause has 1"),
        ("experiment: toy\nfixed: {lr: 1}\ngrid: {lr: [1]}", "lr: is in grid and, as lr, in fixed; keep one"),
        ("experiment: toy\nfixed: {surface: {size: 1}}\ngrid: {surface: [{}]}", "surface: is in grid and, as surf"),
        ("experiment: toy\nfixed: {seed: 1}\nseeds: 3", "seed: is in seeds and, as seed, in fixed"),
        ("experiment: toy\nseeds: 0", "seeds=0: need at least one seed"),
        ("experiment: toy\nseeds: 1000000000", "1000000000 (seeds) = 1000000000 runs: need at most 100000"),
        ("experiment: toy\nrandom: {count: 10000000, draw: {lr: {uniform: [0, 1]}}}", "10000000 (random.count) = 1000"),
        (
            "experiment: toy\ngrid: {a: [1, 2], b: [1, 2]}\nseeds: 50000\nthen: [{command: evaluate}]",
            "2 (grid.a) × 2 (grid.b) × 50000 (seeds) × 2 (commands) = 400000 runs",
        ),
        (f"experiment: toy\nseeds: 1{'0' * 5000}", "cannot read the file"),
        ("experiment: toy\nseeds: [1, 1]", "seeds=[1, 1]: need each seed once"),
        ("experiment: toy\nrandom: {count: 0, draw: {lr: {uniform: [0, 1]}}}", "random.count=0: need at least 1"),
        (
            "experiment: toy\nrandom: {count: 1, draw: {lr: {unifrom: [0, 1]}}}",
            "got 'unifrom'; did you mean uniform",
        ),
        ("experiment: toy\nrandom: {count: 1, draw: {lr: [0, 1]}}", "random.draw.lr: need one distribution"),
        ("experiment: toy\nrandom: {count: 1, draw: {lr: {uniform: [1, 0]}}}", "need two numbers, [low, high]"),
        ("experiment: toy\nrandom: {count: 1, draw: {lr: {log_uniform: [0, 1]}}}", "need ends above 0"),
        ("experiment: toy\nrandom: {count: 1, draw: {lr: {integers: [0.5, 1]}}}", "need two integers"),
        ("experiment: toy\nrandom: {count: 1, draw: {lr: {choice: []}}}", "choice=[]: need at least one value"),
        ("experiment: toy\nfixed: {lr: 1}\nfixed: {lr: 2}", "line 3: fixed is there twice; keep one"),
        ("experiment: toy\nthen: [{command: evalute}]", "then[0].command='evalute': need one of evaluate, render"),
        ("[1, 2]", "need keys and values, got [1, 2]"),
        ("experiment: [", "cannot read the file"),
    ],
)
def test_what_a_file_cannot_say_is_refused_with_its_name(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(SlurmError) as refused:
        load_sweep(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_yaml_is_read_as_people_mean_it(tmp_path):
    text = "a: 1e-3\nb: 4:00:00\nc: no\nd: 2026-11-21\ne: [1, -2.5, .5, 010, true, null, ~, 1_000, 3.]\nf:\n"
    assert read_yaml(written(tmp_path, text)) == {
        "a": 0.001,
        "b": "4:00:00",
        "c": "no",
        "d": "2026-11-21",
        "e": [1, -2.5, 0.5, "010", True, None, None, "1_000", 3.0],
        "f": None,
    }


TOY = "experiment: tests/support/array_experiment.py\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "random: {count: 9, draw: {lr: {uniform: [0, 1]}, surface.siez: {integers: [1, 3]}}}",
            r"random: surface\.siez=\d: no such key; did you mean surface\.size\?",
        ),
        (
            "random: {count: 9, draw: {num_iterations: {integers: [-1, 0]}}}",
            "random: num_iterations=.*: need at least 1",
        ),
        ("fixed: {surface: {sise: 3}}", r"fixed: surface\.sise=3: no such key; did you mean surface\.size"),
        ("grid: {lr: [0.1, fast]}", "grid: lr='fast': need a number"),
        ("zip: {surface.curvature: [[1, 2], [1, x]]}", r"zip: surface\.curvature"),
        ("list: [{optimizer: adam}]", "list: optimizer='adam': need one of sgd, momentum"),
        ("seeds: [-1]", "seeds: seed=-1: need an integer from 0"),
        (
            "fixed: {runs_dir: elsewhere}",
            r"fixed\.runs_dir: a sweep cannot set this key; --runs-dir sets the directory of runs",
        ),
        ("named_configs: [lnog]", "named_configs: lnog: toy has no such named config; did you mean long?"),
        ("then: [{command: render}]", "then.command='render': toy has no such command; there is evaluate"),
        ("then: [{command: evaluate, fixed: {num_adapt_step: 3}}]", "then.fixed: num_adapt_step=3: no such key"),
    ],
)
def test_one_impossible_configuration_refuses_the_sweep(tmp_path, text, message):
    path = written(tmp_path, TOY + text)
    with pytest.raises(SlurmError, match=message) as refused:
        check(load_sweep(path), path, ROOT)
    assert str(refused.value).startswith(f"{path}: ")


def test_an_experiment_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    for experiment, message in {
        "maml_trop": "did you mean maml_trpo?",
        "/etc/passwd.py": "is outside of",
        "tests/support/toy_experiment.py": "need a variable `experiment`",
    }.items():
        with pytest.raises(SlurmError, match=message):
            check(Sweep(experiment), tmp_path / "some.yaml", ROOT)


def test_configurations_that_are_the_same_are_done_once(tmp_path):
    path = written(tmp_path, TOY + "random: {count: 20, draw: {surface.size: {choice: [2, 3]}}}\nseeds: 2")
    checked = check(load_sweep(path), path, ROOT)
    found = [(row.overrides["surface.size"], row.seed) for row in checked.configurations]
    assert sorted(found) == list(itertools.product((2, 3), (0, 1)))


def test_the_hash_is_that_of_what_the_run_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(
        tmp_path, TOY + "named_configs: [long]\nfixed: {lr: 1, num_iterations: 1, surface.curvature: [1, 2]}"
    )
    checked = check(load_sweep(path), path, ROOT)
    updates = {"lr": 1.0, "num_iterations": 1, "surface": {"curvature": [1.0, 2]}}
    run = make().run("train", config_updates=updates, named_configs=["long"])
    (configuration,) = checked.configurations
    assert configuration.hash == config_hash("toy", run.config)
    changed = make().run("train", config_updates=updates | {"lr": 1.5}, named_configs=["long"])
    assert configuration.hash != config_hash("toy", changed.config)
    assert configuration.hash != config_hash("another", run.config)


@pytest.mark.parametrize("path", sorted((ROOT / "slurm" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_along_are_possible(path):
    sweep = load_sweep(path)
    checked = check(sweep, path, ROOT)
    assert len(checked.configurations) == len(list(expand(sweep))) >= 4
    experiment = load_experiment(ROOT / checked.script)
    assert experiment.name == checked.name
    defaults = experiment.settings.defaults({})
    assert all(set(nest(row.overrides)) <= set(defaults) for row in checked.configurations)


def test_settings_that_are_valid_one_by_one_and_refused_together_are_refused_whole(tmp_path):
    text = """
experiment: maml_trpo
grid: {inner_lr: [0.1, 0.2], adapt_only: [[], ["layers.7*"]]}
seeds: 3
"""
    path = written(tmp_path, text)
    with pytest.raises(SlurmError, match=r"some.yaml: grid: adapt_only: 'layers.7\*' matches no parameter; there are "):
        check(load_sweep(path), path, ROOT)


def test_a_file_that_the_training_would_miss_is_missed_before_anything_is_submitted(tmp_path):
    path = written(tmp_path, "experiment: distillation\nnamed_configs: [fast]\nfixed: {histories: none.npz}\nseeds: 2")
    with pytest.raises(SlurmError, match=r"some.yaml: .*histories='none.npz': no such file"):
        check(load_sweep(path), path, ROOT)


def test_what_is_trained_is_built_once_for_all_seeds_and_never_on_the_jobs_device(tmp_path, monkeypatch):
    path = written(tmp_path, "experiment: maml_trpo\nfixed: {device: cuda}\ngrid: {max_kl: [0.01, 0.02]}\nseeds: 50")
    built = []
    experiment = load_experiment(ROOT / "experiments" / "maml_trpo.py")
    monkeypatch.setattr("slurm.checking.load_experiment", lambda script: experiment)
    monkeypatch.setattr("research.tracking.commands.Trainer.build", lambda self, config: built.append(config))
    assert len(check(load_sweep(path), path, ROOT).configurations) == 100
    assert [(config.max_kl, config.device) for config in built] == [(0.01, "cpu"), (0.02, "cpu")]
