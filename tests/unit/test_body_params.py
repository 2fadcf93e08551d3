"""Edited bodies against Gymnasium's environments edited the same way, and against models compiled from edited XML."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from research import rng
from research.tasks import make_tasks
from research.tasks.body_params import BodyTasks, scaled_models

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
ROBOTS = {"walker_params": ("Walker2d-v5", "walker2d_v5.xml"), "hopper_params": ("Hopper-v5", "hopper.xml")}
DERIVED = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "actuator_acc0")
EDITED = {"body_mass": "mass", "body_inertia": "inertia", "geom_friction": "friction", "dof_damping": "damping"}


@pytest.fixture(params=ROBOTS)
def robot(request):
    """Name of the distribution, the distribution itself, and a batch of tasks."""
    distribution = make_tasks(request.param, horizon=10_000, terminate=False)
    return request.param, distribution, distribution.sample(3, rng.generator(0, "test"))


def edited_gymnasium(name, tasks, task):
    """Gymnasium's own environment with the body of a task."""
    env = gymnasium.make(ROBOTS[name][0], terminate_when_unhealthy=False).unwrapped
    for attribute, field in EDITED.items():
        values = getattr(env.model, attribute)
        values[:] = values * getattr(tasks, field)[task]
    mujoco.mj_setConst(env.model, env.data)
    return env


@pytest.mark.thorough
def test_robots_match_gymnasiums_that_were_edited_the_same_way(robot):
    name, distribution, tasks = robot
    envs = distribution.make_envs(tasks, 2)
    theirs = [edited_gymnasium(name, tasks, row // 2) for row in range(6)]
    observation = envs.reset(seed=1)[0]
    np.testing.assert_array_equal(observation, [env.reset(seed=1 + row)[0] for row, env in enumerate(theirs)])
    generator = np.random.default_rng(0)
    for _ in range(200):
        action = generator.uniform(-1.2, 1.2, (6, *envs.single_action_space.shape))
        observation, reward, terminated, _, info = envs.step(action)
        peers = [env.step(own) for env, own in zip(theirs, action, strict=True)]
        np.testing.assert_array_equal(observation, [peer[0] for peer in peers])
        np.testing.assert_array_equal(reward, [peer[1] for peer in peers])
        assert not terminated.any() and not info["diverged"].any()
    assert len(np.unique(observation[:, 0])) == 6


def recompiled(name, tasks, task):
    """The model of a task, compiled from XML that says its masses, inertias, friction and damping as text."""
    source = mujoco.MjModel.from_xml_path(str(ASSETS / ROBOTS[name][1]))
    tree = ElementTree.parse(ASSETS / ROBOTS[name][1]).getroot()
    tree.find("compiler").set("inertiafromgeom", "false")
    written = lambda values: " ".join(repr(float(value)) for value in np.atleast_1d(values))  # noqa: E731
    for element in tree.iter("body"):
        body = source.body(element.get("name"))
        inertial = ElementTree.Element("inertial")
        inertial.set("pos", written(body.ipos))
        inertial.set("quat", written(body.iquat))
        inertial.set("mass", written(body.mass * tasks.mass[task, body.id]))
        inertial.set("diaginertia", written(body.inertia * tasks.inertia[task, body.id]))
        element.insert(0, inertial)
        for part in element.findall("geom"):
            geom = source.geom(part.get("name"))
            part.set("friction", written(geom.friction * tasks.friction[task, geom.id]))
        for part in element.findall("joint"):
            joint = source.joint(part.get("name"))
            part.set("damping", written(joint.damping * tasks.damping[task, joint.dofadr[0]]))
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree, encoding="unicode"))


def test_models_equal_those_compiled_from_edited_xml(robot):
    """A compiler refuses inertias that no rigid body has, so all three axes have one factor here."""
    name, distribution, tasks = robot
    tasks = tasks._replace(inertia=np.repeat(tasks.inertia[..., :1], 3, axis=2), friction=tasks.friction.copy())
    tasks.friction[:, 0] = 1.0  # the floor belongs to no body of the XML
    original = distribution.robot.model
    for task, model in enumerate(scaled_models(original, tasks)):
        expected = recompiled(name, tasks, task)
        for attribute in (*EDITED, *DERIVED, "body_iquat", "body_ipos"):
            ours, theirs = getattr(model, attribute), getattr(expected, attribute)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=attribute)
        for statistic in ("meanmass", "meaninertia"):
            assert getattr(model.stat, statistic) == pytest.approx(getattr(expected.stat, statistic), rel=1e-9)
            assert getattr(model.stat, statistic) != pytest.approx(getattr(original.stat, statistic), rel=1e-3)
        assert not np.allclose(model.body_invweight0, original.body_invweight0), "there was something to derive"


def test_other_numbers_of_the_model_and_the_shared_model_stay(robot):
    _, distribution, tasks = robot
    original = distribution.robot.model
    kept = copy.copy(original)
    models = scaled_models(original, tasks)
    for attribute in (*EDITED, *DERIVED):
        np.testing.assert_array_equal(getattr(original, attribute), getattr(kept, attribute))
    for attribute in ("geom_size", "body_ipos", "jnt_range", "actuator_gear", "qpos0"):
        np.testing.assert_array_equal(getattr(models[0], attribute), getattr(original, attribute))


def test_a_simulation_that_another_body_used_starts_afresh(robot):
    _, distribution, tasks = robot

    def last(task, steps):
        envs = distribution.make_envs(BodyTasks(*(field[task : task + 1] for field in tasks)), 1)
        envs.reset(seed=0)
        generator = np.random.default_rng(0)
        for _ in range(steps):
            shown = envs.step(generator.uniform(-1, 1, (1, *envs.single_action_space.shape)))[0]
        envs.close()
        return shown

    first = last(0, 30)
    assert (last(1, 30) != first).any()
    np.testing.assert_array_equal(last(0, 30), first)


def test_every_number_has_a_factor_of_its_own_log_uniform_in_its_range(robot):
    _, distribution, _ = robot
    tasks = distribution.sample(3000, rng.generator(2, "test"))
    model = distribution.robot.model
    assert tasks.mass.shape[1:] == model.body_mass.shape and tasks.inertia.shape[1:] == model.body_inertia.shape
    assert tasks.friction.shape[1:] == model.geom_friction.shape and tasks.damping.shape[1:] == model.dof_damping.shape
    for field, base in zip(tasks, (1.5, 1.5, 1.5, 1.3), strict=True):
        exponent = (np.log(field) / np.log(base)).reshape(3000, -1)
        assert np.abs(exponent).max() <= 3 + 1e-12
        assert (exponent.min(0) < -2.9).all() and (exponent.max(0) > 2.9).all()
        assert np.abs(exponent.mean(0)).max() < 0.15  # five standard errors
        assert np.abs(exponent.std(0) - np.sqrt(3)).max() < 0.1
        correlation = np.corrcoef(exponent.T) - np.eye(exponent.shape[1])
        assert np.abs(correlation).max() < 0.1


def test_equal_ends_fix_a_quantity():
    tasks = make_tasks("hopper_params", mass_scale=(2.0, 2.0), friction_scale=(1.0, 1.0)).test_tasks(4)
    assert (tasks.mass == 2.0).all() and (tasks.friction == 1.0).all()
    assert np.ptp(tasks.inertia) > 1 and np.ptp(tasks.damping) > 1


def test_a_task_is_described_by_the_mean_of_its_factors(robot):
    _, distribution, _ = robot
    tasks = distribution.test_tasks(2)
    for field in tasks:
        field[0] = 2.0
    tasks.mass[1] = 1.0
    tasks.mass[1, :2] = 4.0, 0.5
    described = distribution.describe(tasks)
    assert {name: values[0] for name, values in described.items()} == dict.fromkeys(BodyTasks._fields, "×2.00")
    assert described["mass"][1] == f"×{2 ** (1 / tasks.mass.shape[1]):.2f}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(mass_scale=(-1.0, 2.0)), r"mass_scale=\(-1.0, 2.0\): need values above 0; equal ends fix the quantity"),
        (dict(damping_scale=(0.0, 2.0)), r"damping_scale=\(0.0, 2.0\): need values above 0"),
        (dict(friction_scale=(2.0, 1.0)), r"friction_scale=\(2.0, 1.0\): need the lower end first"),
        (dict(mass_scale=3.0), r"mass_scale=3.0: need a list \[a number, a number\]"),
        (dict(inertia_scale=(1.0, float("inf"))), r"inertia_scale=\(1.0, inf\): need two finite numbers"),
        (
            {f"{part}_scale": (1.0, 1.0) for part in ("mass", "inertia", "friction", "damping")},
            r"mass_scale=\(1.0, 1.0\): every task is the same, so none can be held out",
        ),
    ],
)
def test_ranges_that_make_no_sense_are_refused(robot, settings, message):
    with pytest.raises(ValueError, match=message):
        make_tasks(robot[0], **settings)
