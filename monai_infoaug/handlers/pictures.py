"""Pictures of a running pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.utils import ensure_tuple_rep, optional_import

from monai_infoaug._require import is_count, refusal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["PairPictureHandler", "draw_pair"]


def draw_pair(item: dict[str, Any], key: str = "image", prefix: str = "", num_points: int = 12) -> Figure:
    """Draw a pair of views with matched points, and what is known about view 1.

    Args:
        item: item of ``RandPairedViewsd`` (no batch dimension). Where views of ``information`` and ``tiers`` are in it
            too, they are drawn.
        key: key of the image.
        prefix: what the pair's keys begin with.
        num_points: number of drawn points, the first valid ones of each tier in turn.

    Returns:
        A Matplotlib figure. Of volumes, the slices of view 1 and view 2 through the first point.
    """
    from matplotlib.figure import Figure

    def array(name: str) -> np.ndarray:
        return torch.as_tensor(item[prefix + name]).detach().cpu().float().numpy()

    points = [array(f"points_view{k}") for k in (1, 2)]
    valid = np.flatnonzero(array("points_valid"))
    tiers = array("points_tier")
    shown = sorted(valid, key=lambda i: (np.sum(tiers[valid[valid < i]] == tiers[i]), tiers[i]))[:num_points]

    def plane(volume: np.ndarray, view: int) -> np.ndarray:
        # the last axis of a volume is cut, axis 0 is drawn to the right
        cut = round(float(points[view][shown[0], -1])) if shown and volume.ndim == 4 else volume.shape[-1] // 2
        return (volume[0] if volume.ndim == 3 else volume[0, ..., cut]).T

    panels = [("view 1", array(f"{key}_view1"), 0, "gray"), ("view 2", array(f"{key}_view2"), 1, "gray")]
    for name, colours in (("information", "magma"), ("tiers", "viridis")):
        if f"{prefix}{name}_view1" in item:
            panels.append((f"{name} of view 1", array(f"{name}_view1"), 0, colours))
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    for axes, (title, values, view, colours) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        limits = (0, 2) if title.startswith("tiers") else (None, None)
        axes.imshow(plane(values, view), cmap=colours, vmin=limits[0], vmax=limits[1], origin="upper")
        axes.set_title(title)
        axes.axis("off")
        if title in ("view 1", "view 2"):
            for number, i in enumerate(shown):
                x, y = points[view][i, :2]
                axes.plot(x, y, "o", color=f"C{number % 10}", markersize=5)
                axes.annotate(str(number), (x, y), color=f"C{number % 10}", xytext=(3, 3), textcoords="offset points")
    return figure


class PairPictureHandler:
    """Handler that sends a picture of the first pair of a batch to TensorBoard, see :py:func:`draw_pair`.

    Args:
        summary_writer: TensorBoard's ``SummaryWriter``.
        key: key of the image, or one for each of ``prefixes``.
        prefixes: what the keys of each pair that is drawn begin with.
        every: number of epochs between two pictures.
        num_points: number of drawn points.

    Raises:
        ValueError: for ``every`` that is no whole number of at least 1, or another number of keys than of prefixes.
    """

    def __init__(
        self,
        summary_writer: Any,
        key: str | Sequence[str] = "image",
        prefixes: Sequence[str] = ("",),
        every: int = 1,
        num_points: int = 12,
    ) -> None:
        if not is_count(every, 1):
            raise refusal("every", every, "a whole number of at least 1")
        self.summary_writer = summary_writer
        self.pairs = dict(zip(prefixes, ensure_tuple_rep(key, len(prefixes)), strict=True))
        self.every, self.num_points = every, num_points

    def attach(self, engine: Any) -> None:
        """Attach to a trainer or evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Any) -> None:
        """Draw the first pair of the batch."""
        batch = engine.state.batch
        item = {name: value[0] for name, value in batch.items() if isinstance(value, torch.Tensor)}
        for prefix, key in self.pairs.items():
            figure = draw_pair(item, key, prefix, self.num_points)
            self.summary_writer.add_figure(f"{prefix}{key} pair", figure, engine.state.epoch)
