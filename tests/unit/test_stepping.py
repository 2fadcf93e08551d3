"""Stepping in C: the numbers of Python's loop, and its errors."""

import mujoco
import numpy as np
import pytest

from research.sampling import simulations, stepping
from research.sampling.simulations import Robot, Simulations, load_robot

# Bodies in so little memory that a step of Euler's just finds room, and one of Runge and Kutta's does not.
CROWDED = f"""<mujoco><size memory="14000"/><worldbody>
{'<body><freejoint/><geom size=".1" contype="0" conaffinity="0"/></body>' * 20}</worldbody></mujoco>"""


@pytest.fixture(scope="module", autouse=True)
def _a_compiler_is_here():
    assert stepping.load() is not None, "the tests are to run with a C compiler"


def walk(name, contact_forces, threads):
    robot = load_robot(name)
    rows, rng = list(range(6)), np.random.default_rng(0)
    sims = Simulations(robot, [robot.model] * 6, 5, ("qpos", "qvel", "cfrc_ext"), contact_forces)
    sims.num_threads = threads
    qpos = robot.model.qpos0 + rng.uniform(-0.1, 0.1, (6, robot.model.nq))
    sims.reset(rows, qpos, rng.normal(0, 0.1, (6, robot.model.nv)))
    states = []
    for step in range(40):
        moving = rows if step % 2 else rows[1::2]
        control = rng.uniform(-1, 1, (len(moving), robot.model.nu))
        state, blown_up = sims.step(moving, control)()
        assert not blown_up.any()
        states += [state["qpos"].copy(), state["qvel"].copy(), state["cfrc_ext"]]
    sims.wait()
    return states


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("name", "contact_forces"), [("half_cheetah.xml", False), ("ant.xml", True)])
def test_c_and_python_step_to_the_same_bits(name, contact_forces, threads, monkeypatch):
    ours = walk(name, contact_forces, threads)
    monkeypatch.setattr(simulations, "load", lambda: None)
    for mine, theirs in zip(ours, walk(name, contact_forces, threads), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any(state.any() for state in ours[2::3]) == contact_forces


def test_what_mujoco_cannot_do_is_an_error_and_not_the_end_of_the_process():
    robot = Robot(mujoco.MjModel.from_xml_string(CROWDED))
    sims = Simulations(robot, [robot.model] * 2, 1, ("qpos",))
    sims.num_threads = 1
    sims.reset([0, 1], np.tile(robot.model.qpos0, (2, 1)), np.zeros((2, robot.model.nv)))
    sims.step([0, 1], np.zeros((2, 0)))()
    robot.model.opt.integrator = mujoco.mjtIntegrator.mjINT_RK4
    with pytest.raises(mujoco.FatalError, match="out of memory, stack overflow at mj_RungeKutta"):
        sims.step([0, 1], np.zeros((2, 0)))()
    free = load_robot("half_cheetah.xml")
    others = Simulations(free, [free.model], 5, ("qpos",))
    others.reset([0], free.model.qpos0[None], np.zeros((1, free.model.nv)))
    state, _ = others.step([0], np.ones((1, free.model.nu)))()
    assert np.isfinite(state["qpos"]).all()
    others.wait()
