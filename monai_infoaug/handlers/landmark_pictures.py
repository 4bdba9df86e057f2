"""Pictures of landmarks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_landmarks"]


def draw_landmarks(
    axes: Axes,
    image: np.ndarray,
    found: np.ndarray,
    truth: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    low: np.ndarray | None = None,
) -> None:
    """Draw found landmarks (crosses), true ones (circles) and the lines between them on an image.

    Args:
        axes: Matplotlib axes.
        image: (H, W), axis 0 is drawn to the right; a volume (H, W, D) by its middle slice.
        found: (L, 2 or 3) in voxels.
        truth: (L, 2 or 3), the true landmarks.
        labels: names to write beside the found landmarks.
        low: (L,) whether a landmark is to be doubted: such are in yellow, the others then in green.
    """
    from matplotlib.patheffects import withStroke

    axes.imshow((image if image.ndim == 2 else image[..., image.shape[-1] // 2]).T, cmap="gray")
    if truth is not None:
        axes.plot(*np.stack([found[:, :2], truth[:, :2]], axis=1).T, color="yellow", linewidth=1)
        axes.plot(*truth[:, :2].T, "o", markerfacecolor="none", markeredgecolor="lime", markersize=6)
    groups = [(slice(None), "red")] if low is None else [(~low, "lime"), (low, "yellow")]
    for group, colour in groups:
        axes.plot(*found[group, :2].T, "+", color=colour, markersize=6)
        for position, label in zip(found[group], np.array(labels)[group] if labels else (), strict=False):
            text = axes.annotate(
                label, position[:2], (3, 3), textcoords="offset points", color=colour, fontsize=8, parse_math=False
            )
            text.set_path_effects([withStroke(linewidth=2, foreground="black")])
    axes.axis("off")


def landmark_figure(
    image: np.ndarray,
    found: np.ndarray,
    title: str,
    labels: Sequence[str],
    low: np.ndarray,
    truth: np.ndarray | None = None,
) -> Figure:
    """A figure of an image (C, W, H) or a volume (C, W, H, D) with landmarks, see :py:func:`draw_landmarks`."""
    from matplotlib.figure import Figure

    height = 8 * image.shape[2] / image.shape[1]
    figure = Figure(figsize=(8, height + 0.4))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.4)))
    draw_landmarks(axes, image[0], found, truth, labels, low)
    if len(image) == 3 and image.ndim == 3:
        axes.images[0].set_data(image.T)
    part_names(axes)
    figure.suptitle(
        title, x=0.01, y=0.99, horizontalalignment="left", verticalalignment="top", fontsize=11, parse_math=False
    )
    return figure


def part_names(axes: Axes) -> None:
    """Put each name beside its landmark where it lies on no other name and within the picture."""
    taken: list[Any] = []
    whole = axes.get_window_extent()
    for name in axes.texts:
        for up, side in product((3, -9, 13, -19), ("left", "right")):
            name.set(ha=side, position=(3 if side == "left" else -3, up))
            with _without_missing_glyphs():
                box = name.get_window_extent()
            if whole.x0 <= box.x0 and box.x1 <= whole.x1 and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


@contextmanager
def _without_missing_glyphs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in another script: a box stands for it
        yield


def png_bytes(figure: Figure, dpi: int) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    with _without_missing_glyphs():
        figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
