"""Pictures of information, of tiers and of changes, in the same colours everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from monai_infoaug._require import refusal
from monai_infoaug.information import TIERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CHANGE_COLOURS", "INFORMATION_COLOURS", "TIER_COLOURS", "draw_change", "draw_information", "draw_tiers"]

# Told apart by those who see no red or no green, on dark pages, light ones and grey images.
TIER_COLOURS = dict(zip(TIERS, ("#4a9fe0", "#eab308", "#cf4520"), strict=True))
# Evenly spaced, from no information to the most.
INFORMATION_COLOURS = ("#000004", "#2b0f54", "#6a1b7f", "#a8327d", "#e2505f", "#fa8a63", "#fec488", "#fcfdbf")
# Evenly spaced, from darker over unchanged to brighter; none of a tier's.
CHANGE_COLOURS = ("#40004b", "#9970ab", "#f4f4f4", "#5aae61", "#00441b")


def draw_information(
    axes: Axes,
    information: np.ndarray,
    mask: np.ndarray | None = None,
    most: float | None = None,
    scale: bool = True,
    **kwargs: Any,
) -> Any:
    """Draw a map of information, with its scale below.

    Args:
        axes: Matplotlib axes.
        information: (H, W) in bits; axis 0 is drawn to the right.
        mask: (H, W), not zero where the map is drawn. None: everywhere.
        most: bits of the brightest colour. None: the most that there is.
        scale: whether the scale is drawn.
        kwargs: for ``axes.imshow``.

    Returns:
        What Matplotlib makes a scale of.

    Raises:
        ValueError: for a map that is no plane.
    """
    top = float(np.nanmax(information)) if most is None else most
    shown = _draw(axes, "information", information, mask, INFORMATION_COLOURS, (0, top), **kwargs)
    if scale:
        place: dict[str, Any] = {"orientation": "horizontal", "fraction": 0.06, "pad": 0.02}
        axes.figure.colorbar(shown, ax=axes, label="information (bits)", **place)
    return shown


def draw_tiers(axes: Axes, tiers: np.ndarray, mask: np.ndarray | None = None, **kwargs: Any) -> None:
    """Draw tiers in their colours, with a legend below.

    Args:
        axes: Matplotlib axes.
        tiers: (H, W) with 0 low, 1 medium, 2 high; axis 0 is drawn to the right.
        mask: (H, W), not zero where tiers are drawn. None: everywhere.
        kwargs: for ``axes.imshow``.

    Raises:
        ValueError: for tiers that are no plane.
    """
    from matplotlib.patches import Patch

    _draw(axes, "tiers", tiers, mask, tuple(TIER_COLOURS.values()), (0, 2), **kwargs)
    patches = [Patch(color=colour, label=name) for name, colour in TIER_COLOURS.items()]
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0)}
    axes.legend(handles=patches, ncols=3, frameon=False, handlelength=1, columnspacing=1, **place)


def draw_change(axes: Axes, change: np.ndarray, most: float, mask: np.ndarray | None = None, **kwargs: Any) -> Any:
    """Draw what a changed image has more or less than the image.

    Args:
        axes: Matplotlib axes.
        change: (H, W) differences; axis 0 is drawn to the right.
        most: difference of the strongest colours.
        mask: (H, W), not zero where differences are drawn. None: everywhere.
        kwargs: for ``axes.imshow``.

    Returns:
        What Matplotlib makes a scale of.

    Raises:
        ValueError: for a change that is no plane.
    """
    return _draw(axes, "change", change, mask, CHANGE_COLOURS, (-most, most), **kwargs)


def _draw(
    axes: Axes,
    name: str,
    values: np.ndarray,
    mask: np.ndarray | None,
    colours: tuple[str, ...],
    limits: tuple[float, float],
    **kwargs: Any,
) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    values = np.asarray(values)
    if values.ndim != 2:
        raise refusal(name, values.shape, "a plane (H, W)")
    shown = values if mask is None else np.ma.masked_where(np.asarray(mask) == 0, values)
    between = colours != tuple(TIER_COLOURS.values())
    cmap = LinearSegmentedColormap.from_list(name, colours) if between else ListedColormap(colours)
    axes.axis("off")
    return axes.imshow(shown.T, cmap=cmap, vmin=limits[0], vmax=limits[1], **kwargs)
