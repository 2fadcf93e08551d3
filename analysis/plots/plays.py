"""Pictures of plays: the strategies of two players, and their distance to the equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.plots.style import COLOURS, INK, STYLE, make_figure, save

Paths = Sequence[NDArray[np.float64]]
"""Strategies of each player, `[plays, time, size]`."""

_SHOWN = 3
_FLOOR = 1e-16
"""Smallest distance that is drawn; smaller ones are rounding errors."""


def plot_plays(
    paths: Paths,
    plain_paths: Paths,
    distance: NDArray[np.float64],
    plain_distance: NDArray[np.float64],
    path: Path | str,
    *,
    unit: str,
    label: str,
) -> None:
    """Draws the first few plays with Lookahead and without, and the distance to the equilibrium of all.

    If there are three actions, the strategy of player 1 is drawn in the simplex; otherwise the first entry of
    player 2's strategy against that of player 1.

    Args:
        paths: Strategies with Lookahead, `[plays, time, size]` for each player.
        plain_paths: Strategies with plain simultaneous steps, `[plays, time, size]` for each player.
        distance: Distance to the equilibrium with Lookahead, `[plays, time]`.
        plain_distance: Distance to the equilibrium with plain steps, `[plays, time]`.
        path: The file to write.
        unit: Unit of the time axis.
        label: Name of the distance, for the axis.
    """
    with rc_context(STYLE):
        figure = make_figure(6.6, 3.2)
        left, right = figure.subplots(1, 2)
        _draw_paths(left, paths, plain_paths)
        for values, colour, name in ((plain_distance, COLOURS[1], "plain"), (distance, COLOURS[0], "Lookahead")):
            shown = np.maximum(values, _FLOOR)
            right.plot(shown.T, color=colour, linewidth=0.5, alpha=0.25)
            right.plot(np.median(shown, 0), color=colour, linewidth=1.8, label=f"{name}: median and every play")
        right.set(yscale="log", xlabel=unit, ylabel=label)
        right.yaxis.grid(visible=True, linewidth=0.5, alpha=0.3)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        save(figure, path)


def _draw_paths(axes: Axes, paths: Paths, plain_paths: Paths) -> None:
    are_policies = np.allclose(paths[0].sum(-1), 1)
    is_simplex = are_policies and paths[0].shape[-1] == 3
    for group, colour, width in ((plain_paths, COLOURS[1], 0.5), (paths, COLOURS[0], 1.0)):
        for play in range(min(_SHOWN, len(group[0]))):
            at = _in_simplex(group[0][play]) if is_simplex else np.column_stack([p[play, :, 0] for p in group])
            axes.plot(*at.T, color=colour, linewidth=width, alpha=0.8)
            axes.plot(*at[0], marker="o", markersize=3.5, color=INK, zorder=4)
    axes.set_aspect("equal")
    if is_simplex:
        axes.plot(*_in_simplex(np.eye(3)[[0, 1, 2, 0]]).T, color=INK, linewidth=0.8)
        axes.set_axis_off()
        axes.set_title("policy of player 1", loc="left")
        return
    axes.set(xlabel="player 1", ylabel="player 2")
    axes.set_title("probability of the first action" if are_policies else "first coordinate", loc="left")
    if not are_policies:  # plain steps leave every frame
        limit = 1.3 * max(np.abs(player[:_SHOWN, 0, 0]).max() for player in paths)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit))


def _in_simplex(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns points of the plane, `[..., 2]`, for probabilities of three actions, `[..., 3]`."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    return probabilities @ corners
