"""One command brings a run to its end, whatever there is of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from toy_experiment import OPTIONS

from experiments import lookahead_dqn
from research import files
from research.conversion import ConfigError
from research.tracking.kept_settings import with_recorded
from research.tracking.lock import FILE as LOCK
from research.tracking.lock import Lock
from research.tracking.settings import RUN_KEYS

ENSURE = f"ensure with run=7 {OPTIONS}"


@pytest.fixture
def reference(lab):
    lab.run(f"with {OPTIONS}")
    return 1


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_run_that_is_not_there_is_started_under_its_number(lab, reference, is_claimed):
    if is_claimed:
        (lab.directory / "runs" / "7").mkdir()
    result = lab.run(ENSURE)
    lab.assert_same(7, reference)
    assert result == lab.record(7)["result"]
    assert lab.record(7)["command"] == "ensure"
    assert lab.record(7)["status"] == "COMPLETED"
    assert files.claim_number(lab.directory / "runs") == 8


def test_a_complete_run_is_left_as_it_is(lab, capsys):
    first = lab.run(ENSURE)
    record = lab.directory / "runs" / "7"
    before = {path.name: path.read_bytes() for path in record.iterdir() if path.is_file()}
    assert lab.run(ENSURE) == first
    assert lab.exit_code == 0
    assert "Run 7 is complete" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in record.iterdir() if path.is_file()} == before
    (record / "checkpoints" / "latest.pt").unlink()
    assert lab.run(ENSURE) == first


def test_more_iterations_go_on(lab, reference):
    lab.run(ENSURE.replace("num_iterations=12", "num_iterations=4"))
    lab.run(ENSURE)
    lab.assert_same(7, reference)


@pytest.mark.parametrize(("name", "code"), [("SIGUSR1", 85), ("SIGTERM", 143)])
def test_a_stopped_run_goes_on(lab, reference, after_step, name, code):
    after_step(7, lambda: signal.raise_signal(signal.Signals[name]))
    lab.run(ENSURE)
    assert (lab.exit_code, lab.record(7)["status"], lab.state(7)["iteration"]) == (code, "INTERRUPTED", 7)
    start_time = lab.record(7)["start_time"]
    lab.run(ENSURE)
    lab.assert_same(7, reference)
    assert lab.record(7)["start_time"] == start_time
    assert [entry["iteration"] for entry in lab.record(7)["resumed"]] == [7]


def test_without_a_checkpoint_it_starts_over_and_nothing_recorded_is_lost(lab, reference, after_step):
    after_step(7, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(ENSURE)
    recorded = lab.metrics(7)
    assert len(recorded) == 7
    (lab.directory / "runs" / "7" / "checkpoints" / "latest.pt").unlink()
    (lab.directory / "runs" / "7" / "checkpoints" / "best.pt").unlink()
    lab.run(ENSURE)
    lab.assert_same(7, reference)
    cut = (lab.directory / "runs" / "7" / "metrics.cut.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in cut] == [step for step, _ in recorded]


def test_a_damaged_checkpoint_gives_way_to_the_best(lab, reference, after_step, capsys):
    after_step(7, lambda: signal.raise_signal(signal.SIGUSR1))
    lab.run(ENSURE)
    latest = lab.directory / "runs" / "7" / "checkpoints" / "latest.pt"
    latest.write_bytes(latest.read_bytes()[:-100])
    lab.run(ENSURE)
    assert "warning" in capsys.readouterr().out
    lab.assert_same(7, reference)
    assert [entry["iteration"] for entry in lab.record(7)["resumed"]] == [4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (ENSURE.replace("seed=2", "seed=3"), "seed=3: runs/7 was trained with 2, and ensure keeps to it"),
        (f"{ENSURE} lr=0.2", "lr=0.2: runs/7 was trained with 0.1"),
        (ENSURE.replace("run=7", ""), "ensure needs run=<id>"),
        (f"{ENSURE} checkpoint=x", "ensure needs run=<id> and no checkpoint"),
        (ENSURE.replace("run=7", "run=nothing runs_dir=/proc"), "runs_dir='/proc': /proc/nothing cannot be written"),
    ],
)
def test_what_contradicts_the_record_is_refused(lab, capsys, line, message):
    lab.run(ENSURE)
    before = lab.record(7)
    capsys.readouterr()
    lab.run(line)
    assert lab.exit_code == 2
    assert message in capsys.readouterr().err
    assert lab.record(7) == before
    Lock(lab.directory / "runs" / "7").release()  # a refusal keeps nobody out


def test_a_setting_that_nobody_gives_keeps_the_value_of_the_record(lab, reference, after_step, capsys):
    after_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    lab.run(ENSURE)
    config = lab.directory / "runs" / "7" / "config.json"
    recorded = json.loads(config.read_text())
    del recorded["remark"]  # as if the setting were new
    config.write_text(json.dumps(recorded))
    lab.run(ENSURE.replace("seed=2", ""))
    assert "warning: seed=2: runs/7 keeps it; its default is 0 now" in capsys.readouterr().out
    lab.assert_same(7, reference)
    assert json.loads(config.read_text())["seed"] == 2
    lab.run(f"{ENSURE} remark=other")
    assert lab.exit_code == 2 and "remark='other': runs/7 was trained with ''" in capsys.readouterr().err


def test_all_settings_that_nobody_gives_are_kept(lab, after_step, capsys):
    """Those below a key, too, and those that a run may change when they are given."""
    given = f"{OPTIONS} extra.a=1.5 extra.b=2"
    lab.run(f"with {given}")
    after_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    lab.run(f"ensure with run=7 {given}")
    capsys.readouterr()
    lab.run("ensure with run=7 extra.c=1")
    assert lab.exit_code == 2 and "extra.c=1.0: runs/7 was trained with nothing" in capsys.readouterr().err
    lab.run("ensure with run=7 extra.b=2 device=cpu")
    shown = capsys.readouterr().out
    assert "warning: extra.a=1.5: runs/7 keeps it\n" in shown and "extra.b" not in shown
    assert "warning: num_iterations=12: runs/7 keeps it; its default is 10 now" in shown
    lab.assert_same(7, 1)
    assert lab.record(7, "config.json")["extra"] == {"a": 1.5, "b": 2}
    assert lab.record(7)["resumed"][0]["changed"] == {}


def test_a_design_that_nobody_gives_is_kept():
    settings = lookahead_dqn.experiment.settings
    trained = settings.defaults({"design": "reptile"}) | {"num_iterations": 7}
    kept = with_recorded(settings, {"num_iterations": 9}, trained, Path("runs/7"))
    assert (kept["design"], kept["num_iterations"]) == ("reptile", 9)
    assert kept.keys() == trained.keys() - RUN_KEYS
    with pytest.raises(ConfigError, match="design='maml': runs/7 was trained with 'reptile'"):
        with_recorded(settings, {"design": "maml"}, trained, Path("runs/7"))


def test_of_two_at_once_the_second_is_refused(lab, capsys):
    (lab.directory / "runs" / "7").mkdir(parents=True)
    held = Lock(lab.directory / "runs" / "7")
    lab.run(ENSURE)
    assert lab.exit_code == 75
    assert "run=7: another process writes runs/7" in capsys.readouterr().err
    held.release()
    lab.run(ENSURE)
    assert lab.record(7)["status"] == "COMPLETED"


def test_who_lost_its_record_stops_and_writes_nothing_more(lab, after_step, capsys):
    lock = lab.directory / "runs" / "7" / LOCK

    def take_over():
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs", "slurm_job": None}))

    after_step(7, take_over)
    lab.run(ENSURE)
    assert lab.exit_code == 75
    assert "another process has taken over" in capsys.readouterr().err
    assert lab.record(7)["status"] == "RUNNING"
    assert lab.state(7)["iteration"] == 5
    assert [step for step, _ in lab.metrics(7)] == [1, 2, 3, 4, 5]


def test_overrides_arrive_as_they_are(lab, capsys):
    text = "a 'b' \"c\" $(touch pwned) `touch pwned`\nnew line; --x with ✓"
    (lab.directory / "o.json").write_text(json.dumps({"seed": 2, "surface.size": 2, "surface": {"curvature": [3]}}))
    lab.run("--overrides=o.json print_config with surface.size=4")
    shown = capsys.readouterr().out
    assert "size = 4" in shown and "seed = 2" in shown and "curvature = [3" in shown
    (lab.directory / "o.json").write_text(json.dumps({"runs_dir": text, "num_iterations": 1}))
    lab.run("train -O o.json")
    config = json.loads((lab.directory / text / "1" / "config.json").read_text())
    assert config["runs_dir"] == text
    assert not (lab.directory / "pwned").exists()


@pytest.mark.parametrize(("name", "text"), [("o.txt", '{"seed": 3}'), ("o", '{"seed": 3}'), ("o.yml", "seed: 3")])
def test_a_file_of_overrides_with_another_name_holds_json(lab, capsys, name, text):
    (lab.directory / name).write_text(text)
    lab.run(f"--overrides={name} print_config")
    assert "seed = 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"seed": "2"}', "seed='2': need an integer"),
        ('{"surface.siz": 2}', "did you mean surface.size?"),
        ("[1]", "o.json: need keys and values, got [1]"),
        ('{"lr": NaN}', "NaN is no JSON"),
        ("{", "--overrides=o.json: Expecting property name"),
        ('{"seed": {"py/reduce": []}}', "'py/reduce': no key of a setting"),
        (None, "--overrides=o.json: [Errno 2] No such file"),
    ],
)
def test_overrides_are_checked_like_a_command_line(lab, capsys, content, message):
    if content is not None:
        (lab.directory / "o.json").write_text(content)
    lab.run("train --overrides=o.json")
    assert lab.exit_code == 2
    assert message in capsys.readouterr().err
    assert lab.runs() == []


def test_killed_twice_in_processes_of_its_own(lab):
    """The real thing: `kill -9`, and the same command again."""
    lab.run(f"with {OPTIONS} pause=0.05")
    for iteration in (0, 5):
        process = lab.start(f"{ENSURE} pause=0.05", run=7, iteration=iteration)
        process.kill()
        process.communicate()
    process = lab.start(f"{ENSURE} pause=0.05", run=7, iteration=10)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lab.assert_same(7, 1)
    assert len(lab.record(7)["resumed"]) == 2
