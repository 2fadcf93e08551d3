"""Edited MuJoCo models against models that are compiled anew with the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from research.tasks.gym_tasks import GymTasks
from research.tasks.mujoco_models import EDITABLE, completed

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
STATED = """
<mujoco>
  <statistic meaninertia="3.5" extent="2"/>
  <worldbody>
    <geom type="plane" size="1 1 .1" friction="0.7 .01 .001"/>
    <body name="upper" pos="0 0 1">
      <joint name="first" axis="0 1 0" stiffness="2" damping="0.3" armature=".1" frictionloss=".2"/>
      <geom type="capsule" fromto="0 0 0 .5 0 0" size=".05" mass="1" solmix="2" gap="0.01" margin="0.02"/>
      <site name="near" pos=".1 0 .2"/>
      <camera pos="1 0 0" mode="trackcom"/>
      <body name="lower" pos=".5 0 0">
        <joint name="second" axis="0 1 0" damping="0.3"/>
        <geom type="box" size=".1 .1 .3" mass="2"/>
        <site name="far" pos="0 0 .3"/>
      </body>
    </body>
    <body name="loose" pos="2 0 1"><freejoint/><geom type="sphere" size=".2"/></body>
  </worldbody>
  <tendon>
    <spatial name="rope" stiffness="4" damping=".5" frictionloss=".1"><site site="near"/><site site="far"/></spatial>
  </tendon>
  <equality><weld body1="loose" body2="world"/></equality>
  <actuator><motor joint="first" gear="20"/><position joint="second" kp="10"/><motor tendon="rope" gear="3"/></actuator>
</mujoco>
"""
PARTS = {
    "body": "bodies",
    "dof": "joints",
    "jnt": "joints",
    "geom": "geoms",
    "actuator": "actuators",
    "tendon": "tendons",
}
ARRAYS = [name for name in EDITABLE if name != "opt"]


def specification(name):
    return mujoco.MjSpec.from_string(STATED) if name == "stated" else mujoco.MjSpec.from_file(str(ASSETS / name))


def with_explicit_masses(spec, model):
    """Masses and inertias as numbers of their own, which otherwise follow from the geoms."""
    spec.compiler.inertiafromgeom, spec.compiler.settotalmass = 0, -1
    for body in spec.bodies[1:]:
        body.explicitinertial, body.fullinertia = True, [np.nan] * 6
        for part in ("mass", "inertia", "ipos", "iquat"):
            setattr(body, part, getattr(model, f"body_{part}")[model.body(body.name).id])
    return spec


def numbers(model):
    arrays = {name: getattr(model, name) for name in dir(model) if isinstance(getattr(model, name, None), np.ndarray)}
    return arrays | {
        f"stat.{name}": getattr(model.stat, name) for name in ("meaninertia", "meanmass", "meansize", "extent")
    }


def differences(ours, theirs):
    ours, theirs = numbers(ours), numbers(theirs)
    return [name for name in ours if not np.allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12)]


@pytest.mark.parametrize("field", ARRAYS)
@pytest.mark.parametrize("name", ["hopper.xml", "half_cheetah.xml", "swimmer.xml", "stated"])
def test_an_edited_model_is_the_one_that_is_compiled_with_these_numbers(name, field):
    original = specification(name).compile()
    spec = with_explicit_masses(specification(name), original)
    edited = copy.copy(original)
    with completed(edited):
        getattr(edited, field)[:] *= 1.37
    part, attribute = field.split("_")
    for element in getattr(spec, PARTS[part]):
        setattr(element, attribute, 1.37 * np.asarray(getattr(element, attribute)))
    assert differences(edited, spec.compile()) == []
    derived = set(differences(edited, original)) - {field}
    assert derived or field not in ("body_mass", "body_inertia", "dof_armature", "actuator_gear") or name == "stated"


def test_without_completion_numbers_stay_those_of_the_old_body():
    """The negative control of the comparison above."""
    original, edited = specification("hopper.xml").compile(), specification("hopper.xml").compile()
    edited.body_mass[:] *= 3.0
    assert differences(edited, original) == ["body_mass"]
    spec = with_explicit_masses(specification("hopper.xml"), original)
    for body in spec.bodies[1:]:
        body.mass *= 3.0
    expected = spec.compile()
    stale = {"actuator_acc0", "body_invweight0", "body_subtreemass", "dof_M0", "dof_invweight0", "stat.meaninertia"}
    assert stale <= set(differences(edited, expected))


def test_statistics_that_the_file_states_stay():
    model = specification("stated").compile()
    with completed(model):
        model.body_mass[:] *= 4.0
    assert (model.stat.meaninertia, model.stat.extent) == (3.5, 2.0)


@pytest.mark.parametrize(
    "settings", [{"scale": {"model.body_mass": [3.0, 3.0001]}}, {"scale": {"model": {"body_mass": [3.0, 3.0001]}}}]
)
def test_gym_tasks_have_the_physics_of_a_body_with_these_masses(settings):
    distribution = GymTasks(env_id="Hopper-v5", horizon=400, **settings)
    tasks = distribution.test_tasks(1)
    model = distribution.make_task_env(tasks.values[0]).unwrapped.model
    spec = with_explicit_masses(specification("hopper.xml"), specification("hopper.xml").compile())
    for body in spec.bodies[1:]:
        body.mass *= tasks.values[0, 0]
    expected = spec.compile()
    assert differences(model, expected) == []
    ends = []
    for each in (model, expected):
        data = mujoco.MjData(each)
        data.qpos[1] = 1.25
        for t in range(400):
            data.ctrl[:] = np.sin(0.05 * t)
            mujoco.mj_step(each, data)
        ends.append(data.qpos.copy())
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": {"model.geom_size": [0.5, 2.0]}},
        {"scale": {"model.body_pos": [0.5, 2.0]}},
        {"randomize": {"model.geom_margin[1]": [0.0, 0.1]}},
        {"randomize": {"model.dof_M0[2]": [0.5, 2.0]}},
        {"randomize": {"model.stat.meaninertia": [0.5, 2.0]}},
        {
            "randomize": {"model.opt.gravity[2]": [-12.0, -5.0]},
            "derived": {"model.body_ipos[1][2]": "model.opt.timestep"},
        },
    ],
)
def test_other_numbers_are_refused_with_those_that_may_be_edited(settings):
    with pytest.raises(ValueError, match=r"model\.\w+.*=.*: \w+ of a MuJoCo model cannot be edited alone.*body_mass, "):
        GymTasks(env_id="Hopper-v5", **settings)


@pytest.mark.parametrize("path", ["model.body_mass[2]", "model.body_inertia[2][0]"])
def test_bodies_without_mass_are_refused(path):
    with pytest.raises(ValueError, match="a mass or an inertia is 0; need values above 0"):
        GymTasks(env_id="Hopper-v5", randomize={path: [0, 0.0], "model.opt.gravity[2]": [-12.0, -5.0]})


def test_what_may_be_edited_exists():
    model = specification("stated").compile()
    assert all(hasattr(model, name) for name in EDITABLE)
