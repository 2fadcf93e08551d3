"""The command `render` as a person uses it: pictures where this machine can draw, an error where it cannot."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from experiments import maml_sinusoid, maml_trpo, reptile
from experiments.render import task_labels
from experiments.replay import check_drawable
from research.evaluation import AdaptationCurve
from research.sampling import offscreen
from research.tasks import TASKS, make_tasks
from research.tasks.navigation_2d import Navigation2D, NavigationEnvs

TINY = "fast num_iterations=1 horizon=9 num_threads=1 num_eval_tasks=5 eval_episodes=2 eval_interval=0 seed=3"


def run(line: str, script=maml_trpo):
    return script.experiment.run_commandline([script.__file__, *shlex.split(line)]).result


def refused(line: str, capsys, script=maml_trpo) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(line, script)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def recorded(runs) -> set[str]:
    return {path.name for path in runs.iterdir() if not path.name.startswith("_")}


def can_draw_robots() -> bool:
    try:
        offscreen.backend()
    except ValueError:
        return False
    return True


def test_robots_are_drawn_before_and_after_or_the_missing_package_is_named(runs, capsys):
    run(f"with {TINY} task=cheetah_vel")
    if not can_draw_robots():
        message = refused("render with run=1", capsys)
        assert "task='cheetah_vel': MUJOCO_GL is unset" in message and "apt-get install libegl1" in message
        assert recorded(runs) == {"1"}
        return
    capsys.readouterr()
    result = run("render with run=1 num_eval_tasks=2 num_adapt_steps=1")
    shown = capsys.readouterr().out
    assert recorded(runs) == {"1", "2"}
    assert json.loads((runs / "2" / "run.json").read_text())["artifacts"] == ["task_0.gif", "task_1.gif"]
    for task in range(2):
        assert f"runs/2/task_{task}.gif" in shown
        with Image.open(runs / "2" / f"task_{task}.gif") as film:
            assert film.size[0] > 2 * offscreen.WIDTH
            assert film.n_frames == 10
            assert film.info["duration"] == 50  # as fast as it happened
    assert run("evaluate with run=1 num_eval_tasks=2 num_adapt_steps=1") == result


def test_films_of_gymnasium_show_three_tasks_unless_told_otherwise(runs, capsys):
    run(f"with {TINY} task=gym_tasks", reptile)
    run("render with checkpoint=runs/1/checkpoints/latest", reptile)
    assert sorted(path.name for path in (runs / "2").glob("*.gif")) == ["task_0.gif", "task_1.gif", "task_2.gif"]
    config = json.loads((runs / "2" / "config.json").read_text())
    assert (config["num_eval_tasks"], config["num_adapt_steps"]) == (3, 3)
    with Image.open(runs / "2" / "task_0.gif") as first, Image.open(runs / "2" / "task_1.gif") as second:
        inside = (slice(60, 260), slice(20, 220))  # without what is written
        assert (np.asarray(first.convert("L"))[inside] != np.asarray(second.convert("L"))[inside]).any()


def test_without_an_adaptation_step_there_is_one_panel(runs):
    run(f"with {TINY} task=gym_tasks")
    run("render with run=1 num_eval_tasks=1 num_adapt_steps=0")
    run("render with run=1 num_eval_tasks=1 num_adapt_steps=1")
    widths = []
    for number in (2, 3):
        with Image.open(runs / str(number) / "task_0.gif") as film:
            widths.append(film.size[0])
    assert widths[1] > 1.8 * widths[0]


def test_the_plane_is_drawn_as_paths(runs, capsys):
    run(f"with {TINY}")
    run("render with run=1 num_adapt_steps=2")
    assert [path.name for path in (runs / "2").glob("*.png")] == ["paths.png"]
    assert not list((runs / "2").glob("*.gif"))
    assert "runs/2/paths.png" in capsys.readouterr().out


def test_goals_of_robots_have_paths_in_every_evaluation(runs):
    run(f"with {TINY} task=reacher_goal")
    artifacts = json.loads((runs / "1" / "run.json").read_text())["artifacts"]
    assert artifacts == ["evaluation.json", "adaptation_curve.png", "paths.png"]


def test_what_cannot_be_rendered_leaves_no_record(runs, capsys, monkeypatch):
    run(f"with {TINY} task=cheetah_vel")
    monkeypatch.setenv("MUJOCO_GL", "off")
    assert "task='cheetah_vel': MUJOCO_GL='off': it turns pictures off" in refused("render with run=1", capsys)
    assert "-u: render writes its pictures into the record" in refused(
        "-u render with run=1 task=gym_tasks task_args={}", capsys)  # fmt: skip
    assert "render needs either run=<id> or checkpoint=<path>" in refused("render", capsys)
    assert "and render keeps to it" in refused("render with run=1 inner_lr=0.7", capsys)
    assert recorded(runs) == {"1"}


class Hidden(NavigationEnvs):
    positions = None


class HiddenTasks(Navigation2D):
    def make_envs(self, tasks, episodes):
        return Hidden(self, tasks, episodes)


def test_a_task_without_pictures_names_those_that_have_them(runs, capsys, monkeypatch):
    monkeypatch.setitem(TASKS, "hidden", HiddenTasks)
    run(f"with {TINY} task=hidden")
    message = refused("render with run=1", capsys)
    assert "task='hidden': HiddenTasks: its environments cannot be drawn, they have no `draw(row)`" in message
    able = re.search(r"of the tasks here (.*) can", message)
    assert "hidden" not in able[1] and {"cheetah_vel", "gym_tasks"} <= set(able[1].split(", "))
    with pytest.raises(ValueError, match="HiddenTasks"):
        check_drawable(HiddenTasks())


def test_regression_has_no_such_command():
    assert "render" in maml_trpo.experiment.commands
    assert "render" not in maml_sinusoid.experiment.commands


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("cheetah_vel", r"velocity \d\.\d\d m/s"),
        ("cheetah_dir", "direction forward"),
        ("ant_goal", r"goal \(−?\d\.?\d*, −?\d\.?\d*\)"),
        ("gym_tasks", r".*g \d+\.?\d*"),
    ],
)
def test_labels_say_what_the_task_is(name, pattern):
    distribution = make_tasks(name)
    curve = AdaptationCurve("", np.zeros((1, 2)), distribution.test_tasks(2), distribution=distribution)
    labels = task_labels(curve)
    assert len(set(labels)) == 2
    assert re.fullmatch(pattern, labels[0]), labels[0]
