"""Pictures of a match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_infoaug.commands.template_matcher import Match, TemplateMatcher
from monai_infoaug.handlers import draw_landmarks
from monai_infoaug.inferers import to_voxels, to_world

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROP_MM = 80  # side of a landmark's crop from a volume


def draw_match(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """Picture of a match: an image with its landmarks, or each landmark of a volume beside that of the template."""
    title += f": mean score {match.scores.mean():.2f}, low (yellow): {match.low.sum()} of {len(match.low)}"
    draw = _draw_overlay if image.ndim == 3 else _draw_crops
    return draw(image, match, matcher, title)


def _draw_overlay(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """An image with its landmarks."""
    from matplotlib.figure import Figure

    array, points = _for_display(image, match.world)
    height = 8 * array.shape[2] / array.shape[1]
    figure = Figure(figsize=(8, height + 0.4))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.4)))
    draw_landmarks(axes, array[0], points, labels=matcher.labels, low=match.low)
    if len(array) == 3:
        axes.images[0].set_data(array.T)
    figure.suptitle(
        title, x=0.01, y=0.99, horizontalalignment="left", verticalalignment="top", fontsize=11, parse_math=False
    )
    return figure


def _draw_crops(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """For each landmark, axial crops of the template and of the volume, side by side, in radiological view."""
    from matplotlib.figure import Figure

    first = matcher.templates[0]
    template = _for_display(first.image, to_world(first.points, first.image)[0].cpu().numpy())
    found, gap, columns = _for_display(image, match.world), 4, min(4, len(matcher.labels))
    half = round(CROP_MM / 2 / float(image.pixdim[0]))
    side = 2 * half + 1
    cell = np.array([2 * (side + gap), side + gap])
    corners = [cell * (i % columns, i // columns) for i in range(len(matcher.labels))]
    width, height = (cell * (columns, -(-len(corners) // columns))).tolist()
    sheet, marks = np.ones((width, height)), []
    for (volume, points), shift in ((template, 0), (found, side + 1)):
        padded = np.pad(volume.mean(0), [(half, half), (half, half), (0, 0)])
        shown = np.isfinite(points).all(1)  # another template may show what the first one does not
        centres = np.clip(np.rint(np.nan_to_num(points)).astype(int), 0, np.array(volume.shape[1:]) - 1)
        for (left, top), (x, y, z), point, is_shown in zip(corners, centres, points, shown, strict=True):
            start = left + shift
            if not is_shown:
                marks.append((np.nan, np.nan))
                continue
            sheet[start : start + side, top : top + side] = padded[x : x + side, y : y + side, z]
            marks.append((start + half + point[0] - x, top + half + point[1] - y))
    figure = Figure(figsize=(12, 12 * height / width + 0.4))
    axes = figure.add_axes((0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    draw_landmarks(axes, sheet, np.array(marks), low=np.tile(match.low, 2))
    for label, (left, top), low in zip(matcher.labels, corners, match.low, strict=True):
        colour = "yellow" if low else "lime"
        axes.text(
            left + 1, top + 1, label, color=colour, va="top", fontsize=9, backgroundcolor="black", parse_math=False
        )
    shown = f"{title}. Axial: template | match"
    figure.suptitle(shown, x=0.01, y=0.99, horizontalalignment="left", fontsize=11, parse_math=False)
    return figure


def _for_display(image: MetaTensor, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Array (C, *S) with axis 0 to the patient's left, axis 1 to the back, and points in its voxels."""
    turned = Orientation("LPS"[: image.ndim - 1], labels=None)(image)
    return turned.cpu().numpy(), to_voxels(torch.as_tensor(world), turned).numpy()
