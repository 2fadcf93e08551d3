"""Pictures of MuJoCo simulations without a screen, by EGL or OSMesa, whichever works on this machine."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 240
"""Size of a picture in pixels."""

_PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
_OFF = ("disable", "disabled", "off", "false", "0")
_SCREEN = ("glfw", "glx", "enable", "enabled", "on", "true", "1")
_ENOUGH_SECONDS = 60
_MAX_GEOMS = 2000
_MARKER_RADIUS = 0.15
_MARKER_COLOUR = (1.0, 0.1, 0.05, 1.0)

_TRIAL = """
import os
import mujoco
from mujoco.{name} import GLContext
context = GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100.value)
os._exit(0)
"""


def backend() -> str:
    """Returns the OpenGL for drawing without a screen: `MUJOCO_GL`, or the first of EGL and OSMesa that works.

    Raises:
        ValueError: None works; the message names the Debian packages.
    """
    return _backend(os.environ.get("MUJOCO_GL", "").lower().strip())


@functools.cache
def _backend(wanted: str) -> str:
    if wanted in _OFF:
        raise ValueError(f"MUJOCO_GL={wanted!r}: it turns pictures off; unset it, or set it to egl or osmesa")
    if wanted and wanted not in (*_PACKAGES, *_SCREEN):
        raise ValueError(f"MUJOCO_GL={wanted!r}: need egl or osmesa, or leave it unset: then either is tried")
    candidates = ("egl", "osmesa") if not wanted else ("glfw",) if wanted in _SCREEN else (wanted,)
    reasons = {}
    for name in candidates:
        reasons[name] = _why_not(name)
        if reasons[name] is None:
            return name
    tried = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if candidates == ("glfw",):
        raise ValueError(f"MUJOCO_GL={wanted!r}: it draws on a screen only, and that does not work here ({tried}); "
                         "unset it, or set it to egl or osmesa")  # fmt: skip
    given = f"MUJOCO_GL={wanted!r}" if wanted else "MUJOCO_GL is unset"
    packages = " or ".join(f"`apt-get install {_PACKAGES[name]}`" for name in candidates)
    raise ValueError(f"{given}: no OpenGL that draws off-screen works here ({tried}); on Debian or Ubuntu: {packages}")


def _why_not(name: str) -> str | None:
    """Why this OpenGL does not work, or None if it works. Another process tries it: a broken driver may crash it."""
    code = _TRIAL.format(name=name)
    environment = {**os.environ, "MUJOCO_GL": name}
    if os.environ.get("PYOPENGL_PLATFORM") in _PACKAGES:
        environment.pop("PYOPENGL_PLATFORM")  # mujoco sets it when it is imported
    try:
        tried = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ENOUGH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_ENOUGH_SECONDS} s"
    if tried.returncode == 0:
        return None
    said = [line for line in tried.stderr.splitlines() if line.strip() and not line.startswith((" ", "Exception ign"))]
    return said[-1] if said else f"it ended with code {tried.returncode}"


class Camera:
    """Camera that draws simulations of a model, or of edited copies of it, from the model's first camera.

    Args:
        model: The model.

    Raises:
        ValueError: No OpenGL works, see `backend`.
    """

    def __init__(self, model: mujoco.MjModel):
        # It logs that an optional package is missing.
        logging.getLogger("OpenGL.acceleratesupport").setLevel(logging.WARNING)
        self._context = importlib.import_module(f"mujoco.{backend()}").GLContext(WIDTH, HEIGHT)
        self._context.make_current()
        self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        for costly in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[costly] = False  # they take three quarters of the time of software rendering
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        if model.ncam:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        else:
            mujoco.mjv_defaultFreeCamera(model, self._camera)

    def draw(
        self, model: mujoco.MjModel, data: mujoco.MjData, markers: Sequence[Sequence[float]] = ()
    ) -> NDArray[np.uint8]:
        """Returns a picture `[height, width, 3]` of the state `data`, with a ball at each point of `markers`."""
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, every, self._scene)
        for marker in markers:
            self._add_ball(np.asarray(marker, np.float64))
        self._context.make_current()
        area = mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        mujoco.mjr_render(area, self._scene, self._drawing)
        mujoco.mjr_readPixels(picture, None, area, self._drawing)
        return np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the bottom

    def close(self) -> None:
        """Frees the OpenGL resources; the camera cannot be used afterwards."""
        self._context.make_current()  # otherwise it would free the resources of another camera
        self._drawing.free()
        self._context.free()

    def _add_ball(self, place: NDArray[np.float64]) -> None:
        size, colour = np.array([_MARKER_RADIUS, 0, 0]), np.array(_MARKER_COLOUR, np.float32)
        ball = self._scene.geoms[self._scene.ngeom]
        mujoco.mjv_initGeom(ball, mujoco.mjtGeom.mjGEOM_SPHERE, size, place, np.eye(3).ravel(), colour)
        self._scene.ngeom += 1
