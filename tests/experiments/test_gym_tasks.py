"""Gymnasium's environments as tasks, from the command line."""

from __future__ import annotations

import json
import shlex

import gymnasium
import numpy as np
import pytest
import torch

from experiments import maml_trpo
from research import checkpoint
from research.sampling.gym import Row
from research.tracking.records import read_rows

TINY = "fast num_threads=1 horizon=5 meta_batch_size=2 episodes_per_task=2 eval_episodes=1 num_eval_tasks=2"


def run(line: str):
    return maml_trpo.experiment.run_commandline([maml_trpo.__file__, *shlex.split(line)]).result


@pytest.mark.parametrize(
    "settings",
    [
        "env_id=Pendulum-v1 randomize.g=[5.0,15.0] randomize.l=[0.5,2]",
        "env_id=CartPole-v1 randomize.length=[0.2,1] 'derived.polemass_length=masspole * length'",
        "env_id=Acrobot-v1 choose.LINK_LENGTH_1=[0.5,1.0,1.5] scale.LINK_MASS_2=[0.5,2]",
        "env_id=MountainCarContinuous-v0 randomize_kwargs.goal_velocity=[0.0,0.02]",
    ],
)
def test_a_line_of_settings_is_enough(runs, settings):
    updates = " ".join(shlex.quote(f"task_args.{update}") for update in shlex.split(settings))
    result = run(f"with {TINY} task=gym_tasks {updates}")
    assert np.isfinite(result["score"]).all()
    config = json.loads((runs / "1" / "config.json").read_text())
    assert config["task_args"]["env_id"] in settings
    assert run("evaluate with checkpoint=runs/1/checkpoints/latest") == result


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ("env_id=Pendulm-v1", "task_args.env_id='Pendulm-v1': no such environment; there are Pendulum-v1, "),
        ("randomize.gg=[1,2]", "task_args.randomize.gg=[1, 2]: PendulumEnv has no gg; its numbers are g, "),
        ("randomize.g=[2,1]", "task_args.randomize.g=[2, 1]: need the lower end first"),
        ("randomize=3", "task_args.randomize=3: need keys below it or None; write task_args.randomize.<key>=<value>"),
        ("env_id=CartPole-v1", "task_args.randomize=None: nothing differs from task to task"),
        ("choose.g=[1.0,2.0]", "num_eval_tasks=2: of the 2 tasks that there are, 1 are held out"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_run_exists(runs, capsys, updates, message):
    with pytest.raises(SystemExit) as stopped:
        run(f"with {TINY} task=gym_tasks task_args.{updates}")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


class Failing(gymnasium.Env):
    """Raises after a number of steps that all its instances take together."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    steps_left = 10**9

    def __init__(self):
        self.gain = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if Failing.steps_left == 0:
            raise RuntimeError("the simulator is on fire")
        Failing.steps_left -= 1
        return np.zeros(1, np.float32), -float(np.square(self.gain * action - 0.3).sum()), False, False, {}


def test_a_run_whose_environment_raises_keeps_what_was_finished(runs, monkeypatch, capsys):
    monkeypatch.setattr(Row, "try_step", lambda self: None)  # steps before a run starts are not counted
    monkeypatch.setitem(gymnasium.registry, "Failing-v0", None)  # taken out again at the end
    del gymnasium.registry["Failing-v0"]
    gymnasium.register("Failing-v0", entry_point=Failing)
    line = (
        f"with {TINY} task=gym_tasks task_args.env_id=Failing-v0 task_args.randomize.gain=[0.5,2.0] num_iterations=9 "
        "eval_interval=0 checkpoint_interval=5"
    )
    run(line)
    per_iteration = 2 * 2 * 5 * 2  # tasks, episodes, steps, before and after adaptation
    monkeypatch.setattr(Failing, "steps_left", 6 * per_iteration + 7)
    with pytest.raises(SystemExit) as stopped:
        run(line)
    assert stopped.value.code == 1
    assert "the simulator is on fire" in capsys.readouterr().err
    record = runs / "2"
    assert json.loads((record / "run.json").read_text())["status"] == "FAILED"
    assert [row["step"] for row in read_rows(record)] == [1, 2, 3, 4, 5, 6]
    assert checkpoint.load(record / "checkpoints" / "latest").state["iteration"] == 6
    monkeypatch.setattr(Failing, "steps_left", 10**9)
    run("resume with run=2")
    states = [checkpoint.load(runs / name / "checkpoints" / "latest").state for name in ("1", "2")]
    assert all(torch.equal(states[0]["meta"]["model"][key], value) for key, value in states[1]["meta"]["model"].items())
    assert [row["step"] for row in read_rows(record)] == list(range(1, 10))
