"""Settings of every format, from files and command lines: nothing in them is run, whatever the command."""

from __future__ import annotations

import json
import pickle

import pytest
import toy_experiment
import yaml
from payload import MARK, Payload

from research.conversion import ConfigError
from research.tracking import settings_file
from research.tracking.settings_file import read_settings, read_updates

FUNCTION = {"py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [MARK]}]}
TYPE = {"py/reduce": [{"py/type": "pathlib.Path"}, {"py/tuple": [MARK]}]}
OBJECT = {"py/object": "subprocess.Popen", "py/newargs": [["mkdir", MARK]]}
OBJECTS = {"function": FUNCTION, "type": TYPE, "object": OBJECT, "repr": {"py/repr": f"os/os.mkdir('{MARK}')"}}

FILES: dict[str, str | bytes] = {
    **{f"{name}.json": json.dumps({"extra": value}) for name, value in OBJECTS.items()},
    "whole.json": json.dumps(FUNCTION),
    "list.json": json.dumps([FUNCTION]),
    "settings.pickle": pickle.dumps({"extra": Payload()}),
    "settings.pkl": pickle.dumps(Payload()),
    "pickle.json": pickle.dumps(Payload()),
    "apply.yaml": f"extra: !!python/object/apply:os.mkdir [{MARK}]\n",
    "apply.yml": f"!!python/object/apply:os.mkdir [{MARK}]\n",
    "new.yaml": f"extra: !!python/object/new:subprocess.Popen [[mkdir, {MARK}]]\n",
    "name.yaml": "extra: !!python/name:os.mkdir\n",
    "module.yaml": "extra: !!python/module:this\n",
    "jsonpickle.yaml": yaml.safe_dump({"extra": FUNCTION}),
    "settings.py": f"import os\nos.mkdir('{MARK}')\n",
    "settings": json.dumps({"extra": FUNCTION}),
}


@pytest.mark.parametrize("name", FILES)
def test_no_settings_file_runs_code(place, capsys, name):
    place.write(name, FILES[name])
    for line in (["with", name], ["print_config", "with", name], ["evaluate", "with", "run=1", name], ["-O", name]):
        assert place.run(*line) == 2, line
        assert capsys.readouterr().err.startswith("error: ")
        assert place.is_untouched(), line
    assert not (place.directory / "runs").exists()


@pytest.mark.parametrize("name", FILES)
def test_no_settings_file_runs_code_in_a_program(place, name):
    place.write(name, FILES[name])
    with pytest.raises(ConfigError):
        toy_experiment.make().run(named_configs=[name])
    with pytest.raises(ConfigError):
        read_settings(place.directory / name)
    assert place.is_untouched()


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("key", ["extra", "extra.a", "surface", "lr", "remark", "unknown"])
def test_no_value_of_a_command_line_runs_code(place, capsys, name, key):
    place.run("print_config", "with", f"{key}={OBJECTS[name]!r}")
    assert place.is_untouched()
    place.run("with", "num_iterations=1", f"{key}=[{OBJECTS[name]!r}]")
    assert place.is_untouched()
    assert "Traceback" not in capsys.readouterr().err


def test_plain_settings_are_read_from_every_format(place, capsys):
    content = {"lr": 0.001, "surface": {"size": 2}, "extra": {"a": 1.5}, "remark": "no"}
    place.write("a.json", json.dumps(content))
    place.write("b.yaml", "lr: 1e-3\nsurface.size: 2\nextra: {a: 1.5}\nremark: no\n")
    place.write("c.yml", "\ufefflr: 1e-3\nsurface: {size: 2}\nextra.a: 1.5\nremark: 'no'\n")
    for name in ("a.json", "b.yaml", "c.yml"):
        assert read_settings(place.directory / name) == content
        assert place.run("print_config", "with", name) == 0
        assert "size = 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"seed": 1, "num_iterations": 1, "seed": 2}', "a.json: seed is there twice; keep one"),
        ("a.json", '{"surface": {"size": 1}, "surface.size": 2}', "a.json: surface.size is there twice"),
        ("a.json", '{"surface.size": 1, "surface": 2}', "a.json: surface is there twice"),
        ("a.json", '{"lr": NaN}', "a.json: NaN is no JSON"),
        ("a.json", '{"lr": 1e999}', "a.json: inf: need a finite number"),
        ("a.json", "[" * 100_000, "a.json: nested too deeply"),
        ("a.json", '{"lr": 1', "a.json: Expecting"),
        ("a.json", b"\xff\xfe", "a.json: 'utf-8' codec"),
        ("a.json", '{"$where": 1}', "a.json: '$where': no key of a setting"),
        ("a.yaml", "seed: 1\nseed: 2", "a.yaml: line 2: seed is there twice; keep one"),
        ("a.yaml", "{}: 2", "a.yaml: line 1: need a text as a key"),
        ("a.yaml", "lr: !!float 1", "a.yaml: line 1: tag:yaml.org,2002:float: a tag; leave it out"),
        ("a.yaml", "a: &a [*a]", "a.yaml: invalid YAML: found unconstructable recursive node"),
        ("a.yaml", "[" * 10_000, "a.yaml: nested too deeply"),
        ("a.yaml", "lr: [1", "a.yaml: invalid YAML: "),
        ("a.yaml", "--- 1\n--- 2", "a.yaml: invalid YAML: "),
        ("a.toml", "lr = 1", "a.toml: settings are read from files with names in .json, .yaml, .yml"),
    ],
)
def test_a_file_that_is_not_plain_settings_is_refused_by_name(place, capsys, name, content, message):
    place.write(name, content)
    assert place.run("with", name) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}") and shown.count("\n") == 1


def test_a_short_file_that_stands_for_billions_of_values_is_refused(place, capsys, monkeypatch):
    monkeypatch.setattr(settings_file, "_MOST_VALUES", 10_000)
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    place.write("laughs.yaml", "\n".join(lines))
    assert place.run("with", "laughs.yaml") == 2
    assert "laughs.yaml: more than 10000 values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("(1, 2)", [1, 2]),
        ("{'a': [None, True]}", {"a": [None, True]}),
        ("{1: 2.5}", {"1": 2.5}),
        ("2024_01_05", "2024_01_05"),
        ("[1_0, 2]", "[1_0, 2]"),
        ("'2024_01'", "2024_01"),
        ("007", "007"),
        ("{1, 2}", "{1, 2}"),
        ("b'x'", "b'x'"),
        ("...", "..."),
        ("1j", "1j"),
        ("1e999", "1e999"),
        ("(" * 500, "(" * 500),
        ("__import__('os')", "__import__('os')"),
        ("{'py/object': 'x'}", "{'py/object': 'x'}"),
        ("", ""),
    ],
)
def test_a_value_is_a_plain_literal_or_a_text(text, value):
    assert read_updates([f"key={text}"]) == ({"key": value}, [])


@pytest.mark.parametrize("content", [FILES["apply.yaml"], FILES["apply.yml"], FILES["new.yaml"], FILES["name.yaml"]])
def test_no_sweep_and_no_profile_runs_code(place, capsys, content):
    from slurm.cli import main

    place.write("sweep.yaml", "experiment: maml_sinusoid\nfixed:\n  " + content)
    place.write("plain.yaml", "experiment: maml_sinusoid\n")
    place.write("profile.yaml", content)
    for line in (["sweep.yaml"], ["plain.yaml", "--profile", "profile.yaml"]):
        assert main(["submit", *line, "--dry-run"]) == 2
        assert "a tag; leave it out" in capsys.readouterr().err
    assert place.is_untouched()
