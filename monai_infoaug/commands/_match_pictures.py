"""Pictures of a match."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import Tensor

from monai_infoaug.commands._slices import PLANES, Slice, painted
from monai_infoaug.commands.template_matcher import Match, TemplateMatcher
from monai_infoaug.handlers import draw_landmarks
from monai_infoaug.handlers.landmark_pictures import landmark_figure
from monai_infoaug.inferers import to_voxels, to_world

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROP_MM, MAX_SIDE, GAP = 80, 300, 4  # side of a landmark's crop from a volume, and pixels of it and between crops


def draw_match(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """Picture of a match: an image with its landmarks, or each landmark of a volume beside that of the template."""
    title += f": mean score {match.scores.mean():.2f}, low (yellow): {match.low.sum()} of {len(match.low)}"
    draw = _draw_overlay if image.ndim == 3 else _draw_crops
    return draw(image, match, matcher, title)


def _draw_overlay(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """An image with its landmarks."""
    array, points = _for_display(image, match.world)
    return landmark_figure(array, points, title, matcher.labels, match.low)


def _draw_crops(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """For each landmark, its three planes in the template and in the volume, side by side, in radiological view."""
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    first = matcher.templates[0]
    shown = [_in_lpi(first.image, to_world(first.points, first.image)[0].cpu().numpy()), _in_lpi(image, match.world)]
    sides = [volume.pixdim[:3].double() for volume, _ in shown]
    step = float(torch.stack(sides).min())  # millimetres a pixel
    longest = min(
        float((each * torch.tensor(volume.shape[1:])).max()) for each, (volume, _) in zip(sides, shown, strict=True)
    )
    side = min(MAX_SIDE, round(min(CROP_MM, longest) / step)) // 2 * 2 + 1  # a middle pixel
    count, columns = len(matcher.labels), 1 if len(matcher.labels) < 5 else 2
    cell = 6 * (side + GAP) + 4 * GAP, side + 2 * GAP
    corners = [(i % columns * cell[0], i // columns * cell[1]) for i in range(count)]
    size = columns * cell[0], -(-count // columns) * cell[1]
    sheet, marks = torch.zeros(1, *size), np.full((2, count, len(PLANES), 2), np.nan)
    for number, ((volume, points), spacing) in enumerate(zip(shown, sides, strict=True)):
        slices = []
        for i, plane in np.ndindex(count, len(PLANES)):
            if bool(points[i].isfinite().all()):  # another template may show what the first one does not
                left = corners[i][0] + (3 * number + plane) * (side + GAP) + number * GAP
                axes = list(PLANES.values())[plane]
                slices.append(Slice(points[i], axes, step / spacing, (side, side), (left, corners[i][1])))
                marks[number, i, plane] = slices[-1].mark(points[i])
        sheet += painted(cast(MetaTensor, volume.mean(0, keepdim=True)), slices, size)
    figure = Figure(figsize=(12, 12 * size[1] / size[0] + 0.6))
    panel = figure.add_axes((0, 0, 1, 1 - 0.6 / figure.get_figheight()))
    draw_landmarks(panel, sheet[0].numpy(), marks.reshape(-1, 2), low=np.tile(np.repeat(match.low, len(PLANES)), 2))
    panel.images[0].set_clim(0, 1)
    for label, (left, top), low in zip(matcher.labels, corners, match.low, strict=True):
        text = panel.text(left + 2, top + 2, label, color="yellow" if low else "lime", va="top", fontsize=9)
        text.set(parse_math=False, path_effects=[withStroke(linewidth=2, foreground="black")])
    planes = f"Template | match, each {', '.join(PLANES)}; the patient's right, or the front, is on the left."
    figure.suptitle(f"{title}\n{planes}", x=0.01, y=0.99, ha="left", va="top", fontsize=11, parse_math=False)
    return figure


def _in_lpi(image: MetaTensor, world: np.ndarray) -> tuple[MetaTensor, Tensor]:
    """A volume with its axes to the patient's left, back and feet, and points in its voxels."""
    turned = cast(MetaTensor, Orientation("LPI", labels=None)(image.cpu().float()))
    return turned, to_voxels(torch.as_tensor(world)[None].double(), turned)[0]


def _for_display(image: MetaTensor, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Array (C, *S) with axis 0 to the patient's left, axis 1 to the back, and points in its voxels."""
    turned = Orientation("LPS"[: image.ndim - 1], labels=None)(image)
    return turned.cpu().numpy(), to_voxels(torch.as_tensor(world), turned).numpy()
