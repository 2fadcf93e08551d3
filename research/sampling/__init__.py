"""Collection of trajectories: policies × environments."""

import os

try:
    import mujoco
except (AttributeError, ImportError, RuntimeError):
    # mujoco loads the OpenGL that MUJOCO_GL names when it is imported. Simulations also work without OpenGL;
    # research/sampling/offscreen.py raises an error when a picture is needed.
    _wanted = os.environ.pop("MUJOCO_GL", None)
    if _wanted is None:
        raise
    os.environ["MUJOCO_GL"] = "disable"
    import mujoco  # noqa: F401

    os.environ["MUJOCO_GL"] = _wanted
