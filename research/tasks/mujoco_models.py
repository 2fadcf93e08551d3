"""Edits of a compiled MuJoCo model: which numbers may be edited, and the constants that follow from them.

A compiled model has constants that follow from others: inertias at rest, which scale contacts and the solver, masses of
subtrees, accelerations of motors. An edit of a mass leaves them as they were, and the physics is then that of no body.
`completed` computes them again, so that the model is the one that the edited XML file would give. Of other numbers the
compiler derives what cannot be computed again from the compiled model, e.g. masses and bounding boxes from the sizes of
geoms: an edit of those is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

EDITABLE = (
    "actuator_biasprm", "actuator_gainprm", "actuator_gear", "body_inertia", "body_mass", "dof_armature", "dof_damping",
    "dof_frictionloss", "geom_friction", "geom_gap", "geom_solimp", "geom_solmix", "geom_solref", "jnt_stiffness",
    "opt", "tendon_damping", "tendon_frictionloss", "tendon_stiffness",
)  # fmt: skip
"""Attributes of a model that may be edited. Everything that the compiler derives from them is computed again."""

_STATISTICS = ("meaninertia", "meanmass", "meansize", "extent", "center")


def refuse_other_edits(path: list[Any], owner: Any) -> None:
    """Refuses to edit a number of a model if that would leave others as they were.

    Args:
        path: The steps of the path below `owner`: names and indices.
        owner: Any object.

    Raises:
        ValueError: `owner` is a model, and its number is not one of `EDITABLE`.
    """
    if isinstance(owner, mujoco.MjModel) and path and path[0] not in EDITABLE:
        raise ValueError(
            f"{path[0]} of a MuJoCo model cannot be edited alone: the compiler derives others from it, or it from "
            f"others, and they would stay as they were; of a model, name one of {', '.join(EDITABLE)}, or let tasks "
            "have XML files of their own (task_args.choose_kwargs.xml_file)"
        )


@contextlib.contextmanager
def completed(model: mujoco.MjModel) -> Iterator[None]:
    """Computes again all that follows from the numbers that the block edits.

    Statistics that the XML file sets stay as they are, as they do when it is compiled.

    Args:
        model: The model.

    Raises:
        ValueError: A mass or an inertia of a body that had one is not above 0.
    """
    scratch = mujoco.MjData(model)
    stated = {name: np.copy(getattr(model.stat, name)) for name in _STATISTICS}
    mujoco.mj_setConst(model, scratch)  # changes nothing but statistics that the file sets
    given = {name: value for name, value in stated.items() if not np.array_equal(value, getattr(model.stat, name))}
    is_positive = _masses(model) > 0
    yield
    left = _masses(model)[is_positive]
    if not (left > mujoco.mjMINVAL).all():
        raise ValueError(f"a mass or an inertia is {left.min():g}; need values above 0, as for MuJoCo's compiler")
    mujoco.mj_setConst(model, scratch)
    for name, value in given.items():
        setattr(model.stat, name, value)


def _masses(model: mujoco.MjModel) -> NDArray[np.float64]:
    return np.append(model.body_mass, model.body_inertia.ravel())
