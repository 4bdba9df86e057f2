"""The picture of an annotated image: a whole image, or slices of a volume through each landmark and each label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._grid import plain, sample_at
from monai_infoaug.commands._slices import PLANES, Slice, painted
from monai_infoaug.handlers import draw_landmarks
from monai_infoaug.handlers.landmark_pictures import part_names
from monai_infoaug.inferers import to_voxels, to_world

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PIXELS = 300_000  # of a picture
MAX_SIDE, MAGNIFIED = 300, 4  # of a slice, and pixels a voxel at most
CROP_MM = 80  # side of a slice through a landmark
GAP = 2  # pixels between slices
ZOOM = 0.4  # share of a picture that shows a landmark
UNSURE = 0.5  # confidence below which a label is hatched
COLOURS = ("ff595e", "1fb6ff", "8ac926", "ffca3a", "c77dff", "ff924c", "2ec4b6", "f15bb5", "e9d8a6", "7f9cff")


@dataclass(frozen=True, eq=False)
class Reviewed:
    """An annotated image, for somebody to look at.

    Args:
        name: what its files are called, without suffix.
        file: where it was read.
        image: (C, *S), 2D or 3D: of three channels RGB, else the first channel is shown. None: it could not be read.
        points: (L, D) landmarks in its voxels, NaN where absent.
        errors: (L,) millimetres that the error of 90 % such landmarks is expected to be within; NaN where not known.
        absent: (L,) whether the image does not show it.
        sure: whether a person has annotated it.
        labels: (1, *T) label map on any grid, or (K, *T) masks, one a class; None without.
        confidence: (1, *T) or (K, *T) in [0, 1], on the same grid; None where not known.
        note: what else there is to say, such as why it could not be read.
    """

    name: str
    file: str
    image: MetaTensor | None = None
    points: np.ndarray | None = None
    errors: np.ndarray | None = None
    absent: np.ndarray | None = None
    sure: bool = False
    labels: MetaTensor | None = None
    confidence: Tensor | None = None
    note: str = ""


Box = tuple[float, float, float, float]  # left, top, width and height in pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """What is drawn of an annotated image. Pixel (0, 0) is the first one's centre.

    Args:
        pixels: (1 or 3, X, Y) in [0, 1].
        overlay: (4, X, Y) uint8, colours of the classes: outlined, and hatched where they are not sure; None without.
        marks: for each landmark its place (x, y), or places; none where absent.
        scale: for each landmark, millimetres a pixel there.
        views: for each landmark, and then for each class, the part that shows it; None where absent.
        confidence: for each class its mean in the image, None where not known.
    """

    pixels: Tensor
    overlay: Tensor | None
    marks: list[list[tuple[float, float]]]
    scale: list[float]
    views: list[Box | None]
    confidence: list[float | None]


def picture_of(reviewed: Reviewed, classes: Mapping[int, str]) -> Picture:
    """The picture of an image that could be read.

    An image is shown whole. Of a volume there are three slices through each landmark, with the landmark in their
    middle, and three through each class where it is largest; the patient's left, back and feet are to the right and
    down.

    Args:
        reviewed: the image.
        classes: values of the label map and their names; of masks, names in their order.
    """
    assert reviewed.image is not None
    given = reviewed.image.cpu().float()
    dims = given.ndim - 1
    image = cast(MetaTensor, Orientation("LPI"[:dims], labels=None)(given))
    points = torch.empty(0, dims) if reviewed.points is None else torch.as_tensor(reviewed.points)
    points = to_voxels(to_world(points[None].double(), given), image)[0]
    draw = _draw_whole if dims == 2 else _draw_slices
    return draw(image, points, _Labels(reviewed, classes))


class _Labels:
    """The label map of an image, a class at a time.

    Args:
        reviewed, classes: see :func:`picture_of`.

    Attributes:
        confidence: of each class, None where not known.
        boxes: of each class the millimetres (3, D) of its middle, of where it is largest along each axis, and its
            extents; None where it is not there.
    """

    def __init__(self, reviewed: Reviewed, classes: Mapping[int, str]) -> None:
        self.labels = cast(MetaTensor, reviewed.labels.cpu()) if reviewed.labels is not None and classes else None
        self.sure = None if reviewed.confidence is None else plain(reviewed.confidence).cpu().float()
        self.values = list(classes)
        self.confidence: list[float | None] = [None] * len(classes)
        self.boxes: list[Tensor | None] = [None] * len(classes)
        if self.labels is None:
            return
        spacing = self.labels.pixdim[: self.labels.ndim - 1]
        for i in range(len(classes)):
            mask = self.mask(self.labels.as_tensor(), i)
            if mask.any():
                *places, extent = _box_of(mask)
                self.boxes[i] = torch.cat([to_world(torch.stack(places)[None], self.labels)[0], extent[None] * spacing])
                if self.sure is not None:
                    self.confidence[i] = float(_of_class(self.sure, i)[mask].mean())

    def mask(self, values: Tensor, i: int) -> Tensor:
        """Whether places belong to a class, by what the label map (1 or K, ...) has there."""
        return values[0] == self.values[i] if len(values) == 1 else values[i] != 0

    def overlay(self, image: MetaTensor, part: Slice) -> Tensor:
        """Colours (4, width, height) of the classes in a slice of an image."""
        colours = torch.zeros(4, *part.size, dtype=torch.uint8)
        if self.labels is None:
            return colours
        places = to_voxels(to_world(part.places().flatten(1).T[None], image), self.labels)[0].T

        def read(values: Tensor) -> Tensor:
            return sample_at(values[None].float(), places[None].float(), "nearest").reshape(-1, *part.size)

        values = read(self.labels.as_tensor())
        sure = torch.ones(1, *part.size) if self.sure is None else read(self.sure)
        x, y = torch.meshgrid(*map(torch.arange, part.size), indexing="ij")
        hatch = (x + y) % 6 < 2
        for i in range(len(self.values)):
            mask = self.mask(values, i)
            colour = torch.tensor([*bytes.fromhex(COLOURS[i % len(COLOURS)])], dtype=torch.uint8)
            unsure = mask & hatch & (_of_class(sure, i) < UNSURE)
            for pixels, opacity in ((mask, 30), (unsure, 170), (_outline(mask), 255)):
                colours[:3, pixels] = colour[:, None]
                colours[3, pixels] = opacity
        return colours


def _of_class(values: Tensor, i: int) -> Tensor:
    """Values (1 or K, ...) for a class: its own, or those of all."""
    return values[i if len(values) > 1 else 0]


def _box_of(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The middle (D,) of a mask (*S), where it is largest along each axis, and its extents."""
    middle, largest, extent = [], [], []
    for axis in range(mask.ndim):
        counts = mask.sum([other for other in range(mask.ndim) if other != axis])
        most, there = (counts == counts.max()).nonzero()[:, 0], counts.nonzero()[:, 0]
        middle.append(float(there[0] + there[-1]) / 2)
        largest.append(float(most[len(most) // 2]))  # the middle one of several
        extent.append(float(there[-1] - there[0] + 1))
    return torch.tensor(middle).double(), torch.tensor(largest).double(), torch.tensor(extent).double()


def _outline(mask: Tensor) -> Tensor:
    """Pixels of a mask (X, Y) beside one that is not in it; what lies outside of the picture continues it."""
    padded = pad(mask[None].float(), (1, 1, 1, 1), mode="replicate")[0] > 0
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _draw_whole(image: MetaTensor, points: Tensor, shown: _Labels) -> Picture:
    """An image with all that is in it."""
    pixdim, size = image.pixdim[:2].double(), torch.tensor(image.shape[1:])
    extent = pixdim * size
    step = max(math.sqrt(float(extent.prod()) / MAX_PIXELS), float(pixdim.min()))
    width, height = (max(1, round(float(length) / step)) for length in extent)
    whole = Slice((size - 1).double() / 2, (0, 1), step / pixdim, (width, height))
    marks = [[whole.mark(point)] if bool(point.isfinite().all()) else [] for point in points]
    views = [_view(mark[0], ZOOM, whole.size) if mark else None for mark in marks]
    for box in shown.boxes:
        if box is None:
            views.append(None)
        else:
            share = 1.5 * float((box[2] / step / torch.tensor(whole.size)).max())
            views.append(_view(whole.mark(to_voxels(box[None, :1], image)[0, 0]), share, whole.size))
    pixels, overlay = _painted(image, [whole], whole.size, shown)
    return Picture(pixels, overlay, marks, [step] * len(points), views, shown.confidence)


def _view(middle: tuple[float, float], share: float, size: tuple[int, int]) -> Box:
    """A share of a picture around a place, as far as the picture goes."""
    share = min(1.0, max(share, 0.2))
    left, top = (min(max(x + 0.5 - share * n / 2, 0), (1 - share) * n) for x, n in zip(middle, size, strict=True))
    return left, top, share * size[0], share * size[1]


def _draw_slices(image: MetaTensor, points: Tensor, shown: _Labels) -> Picture:
    """A volume in rows of three slices, one for each landmark and class that is there."""
    pixdim, size = image.pixdim[:3].double(), torch.tensor(image.shape[1:])
    largest = float((pixdim * size).max())
    crop = min(CROP_MM, largest)
    wanted = [([point] * 3, crop) if bool(point.isfinite().all()) else None for point in points]
    for box in shown.boxes:
        if box is None:
            wanted.append(None)
        else:
            middle, through = to_voxels(box[None, :2], image)[0]
            cuts = torch.eye(3).flip(0) > 0  # axial, coronal, sagittal
            side_mm = min(1.5 * float(box[2].max()), largest)
            wanted.append(([torch.where(cut, through, middle) for cut in cuts], side_mm))
    there = [row for row in wanted if row] or [([(size - 1).double() / 2] * 3, largest)]
    sharp = MAGNIFIED * max(millimetres for _, millimetres in there) / float(pixdim.min())
    side = max(8, int(min(MAX_SIDE, math.sqrt(MAX_PIXELS / 3 / len(there)), sharp))) // 2 * 2 + 1  # a middle pixel
    columns = max(1, round(math.sqrt(len(there) / 3)))
    width, height = 3 * (side + GAP) - GAP, side  # of a row
    rows = []
    for number, (centres, millimetres) in enumerate(there):
        left, top = number % columns * (width + 3 * GAP), number // columns * (height + 3 * GAP)
        corners = [(left + n * (side + GAP), top) for n in range(3)]
        steps, planes = millimetres / side / pixdim, zip(centres, PLANES.values(), corners, strict=True)
        rows.append([Slice(centre, axes, steps, (side, side), corner) for centre, axes, corner in planes])
    last = rows[-1][-1], rows[min(columns, len(rows)) - 1][-1]  # lowest, and farthest to the right
    whole = (last[1].corner[0] + side, last[0].corner[1] + side)
    remaining = iter(rows)
    found = [next(remaining) if row else [] for row in wanted]
    marks = [[each.mark(point) for each in row] for point, row in zip(points, found, strict=False)]
    views: list[Box | None] = [(*row[0].corner, width, height) if row else None for row in found]
    pixels, overlay = _painted(image, [each for row in rows for each in row], whole, shown)
    return Picture(pixels, overlay, marks, [crop / side] * len(points), views, shown.confidence)


def _painted(
    image: MetaTensor, slices: Sequence[Slice], size: tuple[int, int], shown: _Labels
) -> tuple[Tensor, Tensor | None]:
    """Slices of an image as one picture, and the colours of its labels over them."""
    if shown.labels is None:
        return painted(image, slices, size), None
    overlay = torch.zeros(4, *size, dtype=torch.uint8)
    for each in slices:
        overlay[(slice(None), *each.within)] = shown.overlay(image, each)
    return painted(image, slices, size), overlay


def draw_reviewed(reviewed: Reviewed, labels: Sequence[str], classes: Mapping[int, str], limit: float = 4.0) -> Figure:
    """Picture of an annotated image: landmarks with their expected errors, yellow above ``limit`` mm, and label maps.

    Args:
        reviewed: an image that could be read.
        labels: names of its L landmarks.
        classes: see :func:`picture_of`.
        limit: millimetres above which somebody should look at a landmark.
    """
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    picture = picture_of(reviewed, classes)
    errors = np.full(len(labels), np.nan) if reviewed.errors is None else reviewed.errors
    low = errors > limit
    texts = [name + ("" if np.isnan(error) else f": {error:.1f}") for name, error in zip(labels, errors, strict=True)]
    for name, confidence in zip(classes.values(), picture.confidence, strict=True):
        texts.append(name + ("" if confidence is None else f" {confidence:.2f}"))
    each = [i for i, marks in enumerate(picture.marks) for _ in marks]
    marks = np.array([mark for its in picture.marks for mark in its]).reshape(-1, 2)
    width, height = picture.pixels.shape[1:]
    is_whole = reviewed.image is not None and reviewed.image.ndim == 3
    inches = 8 if is_whole else 12
    figure = Figure(figsize=(inches, inches * height / width + 0.4))
    axes = figure.add_axes((0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    beside = [texts[i] for i in each] if is_whole else None
    draw_landmarks(axes, picture.pixels[0].numpy(), marks, labels=beside, low=low[each])
    part_names(axes)
    axes.images[0].set(data=picture.pixels.numpy().T.squeeze(), clim=(0, 1))
    if picture.overlay is not None:
        axes.imshow(picture.overlay.numpy().T)
    shades = ["yellow" if is_low else "lime" for is_low in low]
    shades += ["#" + COLOURS[i % len(COLOURS)] for i in range(len(classes))]
    line = 0.2 / inches * width  # of text
    for i, (text, shade, view) in enumerate(zip(texts, shades, picture.views, strict=True)):
        if view is not None and not (is_whole and i < len(labels)):
            x, y = (0.0, line * (i - len(labels))) if is_whole else view[:2]
            shown = axes.text(x + 3, y + 3, text, color=shade, va="top", fontsize=9, parse_math=False)
            shown.set_path_effects([withStroke(linewidth=2, foreground="black")])
    facts = [reviewed.name, "annotated by hand"] if reviewed.sure else [reviewed.name]
    if not is_whole:
        facts.append("axial, coronal, sagittal, the patient's right or the front on the left")
    if np.isfinite(errors).any():
        facts.append("expected errors in mm" + f", yellow above {limit:g}" * bool(low.any()))
    missing = [] if reviewed.absent is None else [n for n, a in zip(labels, reviewed.absent, strict=True) if a]
    facts += [f"absent: {', '.join(missing)}"] if missing else []
    figure.suptitle("; ".join(facts), x=0.01, y=0.99, horizontalalignment="left", fontsize=11, parse_math=False)
    return figure
