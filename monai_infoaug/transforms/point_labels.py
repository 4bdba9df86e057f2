"""Label images of a few points."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_infoaug._require import is_number, refusal
from monai_infoaug.transforms._derived import PointsMapd
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown
from monai_infoaug.transforms.coordinate_map import CoordinateMap

__all__ = ["PointLabels", "PointLabelsD", "PointLabelsDict", "PointLabelsd"]


class PointLabels(Shown, Transform):
    """The classes of points of an image, such as a user's clicks, as a label image that is unknown elsewhere.

    Args:
        radius: millimetres around a point that are of its class, too; where points are close, the nearest one counts.
            The voxel next to a point inside of the image is always of its class.

    Raises:
        ValueError: for a radius that is negative or not finite.

    Example:
        >>> PointLabels()([[0.0, 1.0], [1.0, 3.0]], [2, 0], torch.zeros(1, 2, 5))
        tensor([[[0, 3, 0, 0, 0],
                 [0, 0, 0, 1, 0]]])
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, radius: float = 0.0) -> None:
        if not is_number(radius, 0):
            raise refusal("radius", radius, "a finite number of at least 0")
        self.radius = radius

    def __call__(  # type: ignore[override] # MONAI says one argument, its own transforms take several
        self, points: NdarrayOrTensor, classes: NdarrayOrTensor, img: NdarrayOrTensor
    ) -> NdarrayOrTensor:
        """Label the voxels of one image.

        Args:
            points: (N,D) in millimetres by the affine of a MetaTensor (others have voxels of 1 mm). A point with a NaN
                coordinate is missing: it labels nothing.
            classes: (N,) whole numbers from 0 on.
            img: (C,*S).

        Returns:
            (1,*S) int64 of the kind, device and metadata of ``img``: 0 unknown, else the class plus 1, so that what a
            spatial transform pads with zeros is unknown.

        Raises:
            ValueError: for points of another dimension or infinite ones, or classes that are not as many, or no whole
                numbers from 0 on.
        """
        img = up_to_date(img)
        coords = convert_to_tensor(CoordinateMap()(img), dtype=torch.float32, track_meta=False)
        dims, device = len(coords), coords.device
        places, kinds = _numbers(points, "points", device).to(torch.float32), _numbers(classes, "classes", device)
        places = places.reshape(-1, dims) if places.numel() == 0 else places
        if places.ndim != 2 or places.shape[1] != dims:
            raise refusal("points", f"shape {tuple(places.shape)}", f"(N,{dims})")
        if places.isinf().any():
            raise refusal("points", places.tolist(), "finite, or NaN for a missing one")
        whole = kinds.to(torch.int64)
        if kinds.shape != (len(places),) or not bool(((whole == kinds) & (whole >= 0)).all()):
            raise refusal("classes", kinds.tolist(), f"{len(places)} whole numbers from 0 on")
        there = ~places.isnan().any(1)
        places, kinds = places[there], whole[there]
        labels, own = torch.zeros(1, *coords.shape[1:], dtype=torch.int64, device=device), []
        nearest = torch.full_like(labels, self.radius**2, dtype=torch.float32)
        for point, kind in zip(places, kinds + 1, strict=True):  # point by point, for volumes of any size
            squares = (coords - point.view(-1, *[1] * dims)).square().sum(0, keepdim=True)
            labels[squares <= nearest] = kind
            nearest = torch.minimum(nearest, squares)
            if squares.min() <= _half_diagonal(coords) ** 2:
                own.append((squares.argmin(), kind))
        for voxel, kind in own:
            labels.view(-1)[voxel] = kind
        return convert_to_dst_type(labels, img, dtype=torch.int64)[0]


def _numbers(values: NdarrayOrTensor, name: str, device: torch.device) -> torch.Tensor:
    try:
        return torch.as_tensor(values, device=device).as_subclass(torch.Tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal(name, values, "an array of numbers") from error


def _half_diagonal(coords: torch.Tensor) -> torch.Tensor:
    """Half the diagonal of a voxel, in the unit of the coordinates (D,*S)."""
    steps = [coords.diff(dim=axis).flatten(1)[:, :1].norm() for axis in range(1, coords.ndim) if coords.shape[axis] > 1]
    return sum((step**2 for step in steps), coords.new_zeros(())).sqrt() / 2 * 1.001


class PointLabelsd(PointsMapd):
    """Dictionary version of :py:class:`PointLabels`: adds the label image of points.

    Args:
        keys: keys of the points.
        classes_key: key of their classes.
        image_key: key of the image that they are points of.
        radius: see :py:class:`PointLabels`.
        output_key: key of the label image, one for each of ``keys``, which must not exist yet. A single name and
            several keys make ``points_known``, ...
        allow_missing_keys: pass over ``keys`` that the data lacks; classes and image may never miss.

    Raises:
        ValueError: as :py:class:`PointLabels`, and for output keys that are not as many as ``keys``.
        KeyError: for a missing key, or an output key that exists.

    See Also:
        :py:class:`PointLabels`
    """

    backend = PointLabels.backend

    def __init__(
        self,
        keys: KeysCollection = "points",
        classes_key: Hashable = "point_classes",
        image_key: Hashable = "image",
        radius: float = 0.0,
        output_key: str | Sequence[str] = "known",
        allow_missing_keys: bool = False,
    ) -> None:
        guides = {"classes_key": classes_key, "image_key": image_key}
        super().__init__(PointLabels(radius), keys, guides, output_key, allow_missing_keys)


PointLabelsD = PointLabelsDict = PointLabelsd
