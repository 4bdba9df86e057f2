"""Pictures of a running pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import ensure_tuple_rep, optional_import

from monai_infoaug._require import is_count, refusal
from monai_infoaug.handlers._planes import Plane, planes_of
from monai_infoaug.handlers.maps import draw_information, draw_tiers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        A Matplotlib figure. Of volumes, the axial, coronal and sagittal slice of each view through the first point, by
        the affine of the view, with all points cast on it; views without an affine lie as RAS, with equal sides.
    """
    from matplotlib.figure import Figure

    def array(name: str) -> np.ndarray:
        return torch.as_tensor(item[prefix + name]).detach().cpu().float().numpy()

    points = [array(f"points_view{k}") for k in (1, 2)]
    valid = np.flatnonzero(array("points_valid"))
    tiers = array("points_tier")
    shown = sorted(valid, key=lambda i: (np.sum(tiers[valid[valid < i]] == tiers[i]), tiers[i]))[:num_points]
    panels = [(f"view {k}", array(f"{key}_view{k}"), k - 1) for k in (1, 2)]
    panels += [
        (f"{name} of view 1", array(f"{name}_view1"), 0)
        for name in ("information", "tiers")
        if f"{prefix}{name}_view1" in item
    ]
    planes = [_planes_of_view(item[f"{prefix}{key}_view{k}"]) for k in (1, 2)]
    rows = len(planes[0])
    figure = Figure(figsize=(4 * len(panels), 4 * rows + 0.3), layout="constrained")
    cells: Any = figure.subplots(rows, len(panels), squeeze=False)
    for row, column in np.ndindex(*cells.shape):
        (title, values, view), axes = panels[column], cells[row, column]
        plane = planes[view][row]
        through = points[view][shown[0]] if shown else np.array(values.shape[1:]) // 2
        picture = values[0] if plane.cut < 0 else values[0].take(round(float(through[plane.cut])), plane.cut)
        picture = picture if plane.axes == tuple(sorted(plane.axes)) else picture.T
        _draw_panel(axes, title, picture, plane)
        if title in ("view 1", "view 2"):
            for number, i in enumerate(shown):
                x, y = points[view][i, list(plane.axes)]
                axes.plot(x, y, "o", color=f"C{number % 10}", markersize=5)
                axes.annotate(str(number), (x, y), color=f"C{number % 10}", xytext=(3, 3), textcoords="offset points")
    return figure


def _planes_of_view(view: Any) -> list[Plane]:
    """The planes of a view (C, *S) that are drawn: itself, or three of a volume."""
    if view.ndim == 3:
        return [Plane("", (0, 1), -1, (False, False), 1.0)]
    affine = view.affine.cpu().reshape(-1, 4, 4)[0].numpy() if isinstance(view, MetaTensor) else np.eye(4)
    return list(planes_of(affine))


def _draw_panel(axes: Axes, title: str, picture: np.ndarray, plane: Plane) -> None:
    """A plane of a view (H, W), in voxels of the view."""
    if title.startswith("information"):
        draw_information(axes, picture, aspect=plane.aspect, origin="upper")
    elif title.startswith("tiers"):
        draw_tiers(axes, picture, aspect=plane.aspect, origin="upper")
    else:
        axes.imshow(picture.T, cmap="gray", aspect=plane.aspect, origin="upper")
        axes.axis("off")
    axes.set_title(f"{title}, {plane.name}" if plane.name else title)
    for turn, is_turned in zip((axes.invert_xaxis, axes.invert_yaxis), plane.turned, strict=True):
        if is_turned:
            turn()


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
