"""Stepping in C: the numbers of Python's loop, its errors, and what happens without a compiler."""

import logging

import mujoco
import numpy as np
import pytest

from research.sampling import native, simulations
from research.sampling.simulations import Robot, Simulations, load_robot

# Bodies in so little memory that a step of Euler's just finds room, and one of Runge and Kutta's does not.
CROWDED = f"""<mujoco><size memory="14000"/><worldbody>
{'<body><freejoint/><geom size=".1" contype="0" conaffinity="0"/></body>' * 20}</worldbody></mujoco>"""


@pytest.fixture(scope="module", autouse=True)
def _a_compiler_is_here():
    assert native.load() is not None, "the tests are to run with a C compiler"


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


def test_without_a_compiler_the_reason_is_logged(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "/no/such/compiler")
    with caplog.at_level(logging.WARNING):
        assert native.load.__wrapped__() is None
    assert "stepped from Python" in caplog.text and "/no/such/compiler" in caplog.text
    caplog.clear()
    monkeypatch.setenv("CC", "false")
    with caplog.at_level(logging.WARNING):
        assert native.load.__wrapped__() is None
    assert "stepped from Python" in caplog.text
    assert not list((tmp_path / "metapolicy").iterdir()), "nothing half done is left"


def test_it_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.load.__wrapped__() is not None
    (made,) = (tmp_path / "metapolicy").iterdir()
    before = made.stat()
    assert native.load.__wrapped__() is not None
    assert [path.stat().st_mtime_ns for path in (tmp_path / "metapolicy").iterdir()] == [before.st_mtime_ns]


@pytest.mark.parametrize("damage", ["cut", "empty", "byte"])
def test_a_damaged_library_is_compiled_anew(monkeypatch, tmp_path, damage):
    """Loading a library that was cut ends the process with a bus error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = native._compiled()
    whole = bytearray(made.read_bytes())
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "byte": whole[:-1] + bytes([whole[-1] ^ 1])}[damage]
    made.write_bytes(damaged)
    again = native._compiled()
    assert again.read_bytes() == whole
    assert [path.name for path in (tmp_path / "metapolicy").iterdir()] == [again.name]
