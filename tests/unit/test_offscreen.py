"""Pictures where this machine has an OpenGL for them; where it has none, the error that says so."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys

import numpy as np
import pytest

from research.sampling import offscreen
from research.tasks import make_tasks

NONE_WORKS = r"no OpenGL that draws off-screen works here .*apt-get install libegl1 libgl1-mesa-dri.*libosmesa6"


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    offscreen._backend.cache_clear()
    yield
    offscreen._backend.cache_clear()


@functools.cache
def works():
    return [name for name in ("egl", "osmesa") if offscreen._why_not(name) is None]


def started(task="cheetah_vel", num_tasks=2, **settings):
    distribution = make_tasks(task, **settings)
    envs = distribution.make_envs(distribution.test_tasks(num_tasks), 1)
    envs.reset(seed=0)
    return envs


@pytest.mark.thorough
def test_it_draws_with_what_works_or_says_what_to_install():
    able = works()
    envs = started()
    if able:
        assert offscreen.backend() == able[0]
        picture = envs.draw(0)
        assert picture.shape == (offscreen.HEIGHT, offscreen.WIDTH, 3) and picture.dtype == np.uint8
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50, "a cheetah on a floor has more colours"
    else:
        with pytest.raises(ValueError, match=NONE_WORKS):
            envs.draw(0)
    envs.close()


@pytest.mark.thorough
def test_pictures_show_the_state_of_their_row():
    if not works():
        with pytest.raises(ValueError, match=NONE_WORKS):
            offscreen.backend()
        return
    envs, others = started(), started()
    start = [envs.draw(0), envs.draw(1)]
    assert (start[0] != start[1]).any(), "rows start in different states"
    np.testing.assert_array_equal(envs.draw(0), start[0])
    np.testing.assert_array_equal(others.draw(0), start[0])  # a second context
    for _ in range(10):
        envs.step(np.ones((2, 6)))
    assert (envs.draw(0) != start[0]).any()
    np.testing.assert_array_equal(others.draw(0), start[0])
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.draw(1), start[1])
    others.close()
    np.testing.assert_array_equal(envs.draw(0), start[0])
    envs.close()


@pytest.mark.thorough
def test_pictures_are_the_right_way_up_and_follow_the_robot():
    if not works():
        with pytest.raises(ValueError, match=NONE_WORKS):
            offscreen.backend()
        return
    envs = started(num_tasks=1)
    picture = envs.draw(0).astype(int)
    floor_contrast, sky_contrast = picture[-40:].std(), picture[:40].std()
    assert floor_contrast > 3 * sky_contrast, "the chequered floor is below"
    envs._simulations._kept[0, envs._simulations._places["qpos"].start] += 300.0
    brown = lambda shown: ((shown[..., 0] - shown[..., 2]) > 40).sum()  # noqa: E731
    assert brown(envs.draw(0).astype(int)) > 0.5 * brown(picture) > 100
    envs.close()


def test_an_edited_model_and_a_marker_are_seen():
    if not works():
        with pytest.raises(ValueError, match=NONE_WORKS):
            offscreen.backend()
        return
    envs = started(num_tasks=1)
    plain, data = envs.robot.model, envs._simulations.data(0)
    camera = offscreen.Camera(plain)
    edited = copy.copy(plain)
    edited.geom_rgba[:] = (0.0, 0.0, 1.0, 1.0)
    before, blue = camera.draw(plain, data).astype(int), camera.draw(edited, data).astype(int)
    assert (blue[..., 2] - blue[..., 0] > 60).sum() > 10 + (before[..., 2] - before[..., 0] > 60).sum()
    marked = camera.draw(plain, data, [data.xpos[1] + (0.0, 0.0, 0.5)]).astype(int)
    changed = np.abs(marked - before).max(-1) > 30
    assert changed.sum() > 30
    assert (marked[changed][:, 0] > marked[changed][:, 1] + 40).mean() > 0.7, "the ball is red"
    np.testing.assert_array_equal(camera.draw(plain, data), before)
    camera.close()
    envs.close()


def test_the_ant_marks_its_goal_and_only_a_goal():
    envs = started("ant_goal")
    goal = make_tasks("ant_goal").test_tasks(2).goal
    np.testing.assert_array_equal(envs.markers(1), [[*goal[1], 0.15]])
    assert not len(started("ant_vel").markers(0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("off", "MUJOCO_GL='off': it turns pictures off; unset it, or set it to egl or osmesa"),
        ("opengl", "MUJOCO_GL='opengl': need egl or osmesa, or leave it unset"),
    ],
)
def test_a_setting_that_draws_nothing_is_refused(monkeypatch, value, message):
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(ValueError, match=message):
        offscreen.backend()


def test_the_first_that_works_is_taken_and_mujoco_gl_is_obeyed(monkeypatch):
    working = {"osmesa"}
    asked = []

    def why_not(name):
        asked.append(name)
        return None if name in working else "it is broken"

    monkeypatch.setattr(offscreen, "_why_not", why_not)
    assert offscreen.backend() == "osmesa"
    assert offscreen.backend() == "osmesa"
    assert asked == ["egl", "osmesa"]  # once
    monkeypatch.setenv("MUJOCO_GL", "EGL")
    with pytest.raises(ValueError, match=r"MUJOCO_GL='egl'.*egl: it is broken\).*libegl1") as refused:
        offscreen.backend()
    assert "osmesa" not in str(refused.value)
    monkeypatch.setenv("MUJOCO_GL", "glx")
    with pytest.raises(ValueError, match=r"MUJOCO_GL='glx': it draws on a screen only.*unset it, or set it to egl"):
        offscreen.backend()
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert offscreen.backend() == "osmesa"
    working.clear()
    offscreen._backend.cache_clear()
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(ValueError, match=NONE_WORKS):
        offscreen.backend()


def test_trying_says_why_it_failed():
    assert offscreen._why_not("nothing") == "RuntimeError: invalid value for environment variable MUJOCO_GL: nothing"


@pytest.mark.thorough
def test_simulations_run_where_mujoco_gl_names_what_is_missing():
    code = """
import os
from research.sampling import mujoco, offscreen
from research.tasks import make_tasks
tasks = make_tasks("cheetah_vel")
envs = tasks.make_envs(tasks.test_tasks(1), 1)
assert envs.reset(seed=0)[0].shape == (1, 17)
assert os.environ["MUJOCO_GL"] == "nonsense"
try:
    envs.draw(0)
except ValueError as error:
    print(error)
"""
    environment = os.environ | {"MUJOCO_GL": "nonsense", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.startswith("MUJOCO_GL='nonsense': need egl or osmesa")
