"""Animated pictures (GIF) of several episodes in a row of panels, with their names and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from research.files import atomic_write

HEIGHT = 240
"""Height in pixels to which every frame is scaled; its width is scaled in proportion."""

_LINE = 20
_GAP = 8
_BACKGROUND, _INK, _FAINT = (255, 255, 255), (51, 51, 51), (120, 120, 120)
_NUM_COLOURS = 256
_SAMPLES = 8  # frames that the colours are chosen from
_HOLD_MILLISECONDS = 1000  # the end stays, so that its numbers can be read


class Panel(NamedTuple):
    """An episode in pictures.

    Attributes:
        title: Title above the panel.
        frames: Pictures of the episode, at least one, `[frames, height, width, 3]`.
        captions: Caption below each frame.
    """

    title: str
    frames: NDArray[np.uint8]
    captions: Sequence[str]


def write_film(path: Path, title: str, panels: Sequence[Panel], seconds: float) -> None:
    """Writes a GIF that repeats. A panel whose episode ends earlier keeps its last frame.

    Args:
        path: The file to write.
        title: Title above all panels.
        panels: Panels in the order from left to right.
        seconds: Time between two frames, in seconds.

    Raises:
        ValueError: There is no panel, a panel has no frame or not one caption per frame, or the time is not above 0.
    """
    if not panels or any(not 0 < len(panel.frames) == len(panel.captions) for panel in panels):
        counts = [(len(panel.frames), len(panel.captions)) for panel in panels]
        raise ValueError(f"panels: (frames, captions)={counts}; need a panel, and in each as many captions as frames")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: need a time above 0")
    count = max(len(panel.frames) for panel in panels)
    frames = [_frame(title, panels, i) for i in range(count)]
    colours = _palette(frames)
    indexed = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    times = [max(20, round(1000 * seconds))] * (count - 1) + [_HOLD_MILLISECONDS]
    atomic_write(
        path,
        lambda file: indexed[0].save(
            file, format="GIF", save_all=True, append_images=indexed[1:], duration=times, loop=0, optimize=False
        ),
        durable=False,
    )


def _frame(title: str, panels: Sequence[Panel], i: int) -> Image.Image:
    """Returns frame `i` of all panels."""
    shown = [(panel, min(i, len(panel.frames) - 1)) for panel in panels]
    pictures = [_scaled(panel.frames[k]) for panel, k in shown]
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) + 1)
    whole = Image.new("RGB", (width, HEIGHT + 3 * _LINE + 2 * _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(whole)
    _write(draw, title, _GAP, _GAP // 2, width - 2 * _GAP, _INK)
    left = _GAP
    for picture, (panel, k) in zip(pictures, shown, strict=True):
        whole.paste(picture, (left, _GAP + 2 * _LINE))
        _write(draw, panel.title, left, _GAP + _LINE, picture.width, _FAINT)
        _write(draw, panel.captions[k], left, _GAP + 2 * _LINE + HEIGHT + 2, picture.width, _INK)
        left += picture.width + _GAP
    return whole


def _scaled(frame: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    if picture.height == HEIGHT:
        return picture
    return picture.resize((max(1, round(picture.width * HEIGHT / picture.height)), HEIGHT), Image.Resampling.LANCZOS)


def _write(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int, colour: tuple[int, int, int]) -> None:
    """Writes a line of text, in a font size that fits the width."""
    from matplotlib.font_manager import findfont  # slow to import, and experiments import this file at their start

    path = findfont("DejaVu Sans")  # comes with matplotlib
    size = 13
    while size > 8 and ImageFont.truetype(path, size).getlength(text) > width:
        size -= 1
    draw.text((x, y), text, fill=colour, font=ImageFont.truetype(path, size))


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Returns a palette for all frames, so that static parts do not flicker."""
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(_SAMPLES, len(frames))).round().astype(int)]
    every = Image.new("RGB", (chosen[0].width, sum(frame.height for frame in chosen)))
    top = 0
    for frame in chosen:
        every.paste(frame, (0, top))
        top += frame.height
    return every.quantize(_NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE)
