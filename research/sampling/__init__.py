"""From environments and policies to trajectories."""

import os

try:
    import mujoco
except (AttributeError, ImportError, RuntimeError):
    # mujoco loads the OpenGL that MUJOCO_GL names as soon as it is imported. Where that cannot be had, simulations
    # work all the same, and who asks for pictures is told (research/sampling/offscreen.py).
    _wanted = os.environ.pop("MUJOCO_GL", None)
    if _wanted is None:
        raise
    os.environ["MUJOCO_GL"] = "disable"
    import mujoco  # noqa: F401

    os.environ["MUJOCO_GL"] = _wanted
