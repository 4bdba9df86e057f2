"""Target heat maps of landmarks, wherever a spatial transform has moved them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.transforms.utils import scale_affine
from monai.utils import TransformBackends, convert_to_dst_type
from torch.nn.functional import avg_pool2d, avg_pool3d

from monai_infoaug._require import all_finite, is_count, is_number, refusal
from monai_infoaug.information._arrays import numbers, plain_tensor
from monai_infoaug.transforms._derived import PointsMapd
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = ["LandmarkHeatmap", "LandmarkHeatmapD", "LandmarkHeatmapDict", "LandmarkHeatmapd"]

LEAST = 1e-6  # sigma whose square float32 divides by


class LandmarkHeatmap(Shown, Transform):
    """A Gaussian around each landmark, in the coordinates that an image has kept.

    The map of landmark p is ``exp(-|c - p|^2 / 2 sigma^2)`` at the cells, c being their coordinates from
    :py:class:`CoordinateMap`, scaled to a mass of 1 or of the landmark's weight. Coordinates that went with the image
    through random spatial transforms put it on the landmark exactly, whatever the transforms are. (MONAI's
    ``GenerateHeatmap`` wants points in the voxels of the changed image, which no affine gives after an elastic change.)

    Args:
        sigma: standard deviation, in the unit of the coordinates, from 1e-6 to 1e6.
        stride: voxels a cell along each axis, a whole number of at least 1. Cell ``j`` is centred on voxel
            ``stride * j + (stride - 1) / 2``, as those of the networks.

    Raises:
        ValueError: for a sigma out of range or a stride below 1.

    Example:
        >>> from monai_infoaug.transforms import CoordinateMap
        >>> coords = CoordinateMap()(torch.zeros(1, 6, 8))
        >>> maps = LandmarkHeatmap(sigma=1.0, stride=2)([[2.5, 4.5], [float("nan")] * 2], coords)
        >>> maps.shape, maps[0].argmax().item() == 1 * 4 + 2, maps.sum((1, 2)).round()
        (torch.Size([2, 3, 4]), True, tensor([1., 0.]))
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, sigma: float, stride: int = 1) -> None:
        if not is_number(sigma, LEAST, 1 / LEAST):
            raise refusal("sigma", sigma, f"a number from {LEAST:g} to {1 / LEAST:g}")
        if not is_count(stride, 1):
            raise refusal("stride", stride, "a whole number of at least 1")
        self.sigma, self.stride = sigma, int(stride)

    def __call__(  # type: ignore[override] # MONAI says one argument, its own transforms take several
        self, landmarks: NdarrayOrTensor, coords: NdarrayOrTensor, weights: NdarrayOrTensor | None = None
    ) -> NdarrayOrTensor:
        """Draw the maps of one image.

        Args:
            landmarks: (L,D) in the unit of the coordinates, NaN where one is missing.
            coords: (D,*S), finite.
            weights: (L,), non-negative, 1 each if None.

        Returns:
            (L,*ceil(S / stride)) float32 of the kind, device and metadata of ``coords``; a map is 0 where the landmark
            is missing, or further from every cell than a cell is wide: the image does not show it.

        Raises:
            ValueError: for shapes that do not fit each other, coordinates that are not finite, or weights that are
                negative or not finite.
            TypeError: for what holds no real numbers.
        """
        coords = up_to_date(coords)
        x = plain_tensor(coords, "coords").float()
        if x.ndim not in (3, 4) or len(x) != x.ndim - 1 or x.numel() == 0:
            raise refusal("coords", f"shape {tuple(x.shape)}", "(D,*S), D 2 or 3, not empty")
        if not all_finite(x):
            raise refusal("coords", "NaN or infinity", "finite")
        dims, points = len(x), numbers(landmarks, "landmarks").to(x)
        if points.ndim != 2 or points.shape[1] != dims or len(points) == 0:
            raise refusal("landmarks", f"shape {tuple(points.shape)}", f"(L,{dims}), L at least 1")

        kernel = [min(self.stride, n) for n in x.shape[1:]]  # in 3D a larger one is an error of PyTorch's
        cells = (avg_pool2d if dims == 2 else avg_pool3d)(x[None], kernel, self.stride, ceil_mode=True)[0]
        squares = sum((c[None] - p.view(-1, *[1] * dims)) ** 2 for c, p in zip(cells, points.T, strict=True))
        near = squares.flatten(1).amin(1) <= _width(cells, x, self.stride) ** 2  # False for NaN
        maps = (squares / (-2 * self.sigma**2)).flatten(1).softmax(1).view_as(squares)
        if weights is not None:
            mass = numbers(weights, "weights").to(x)
            if mass.shape != (len(points),) or not bool((mass >= 0).all()) or not all_finite(mass):
                raise refusal("weights", mass.tolist(), f"{len(points)} numbers of at least 0")
            maps = maps * mass.view(-1, *[1] * dims)
        out = convert_to_dst_type(
            maps.where(near.view(-1, *[1] * dims), torch.zeros_like(maps)), coords, dtype=torch.float32
        )[0]
        if isinstance(out, MetaTensor):
            padded = len(out.affine) - 1
            scaling = scale_affine([self.stride] * dims + [1] * (padded - dims), [1] * padded)
            out.affine = out.affine @ torch.as_tensor(scaling).to(out.affine)
        return out


def _width(cells: torch.Tensor, coords: torch.Tensor, stride: int) -> torch.Tensor:
    """The usual distance of neighbours among cells (D,*cells), along the axis where it is largest."""
    width = _usual_step(cells)
    return width if width > 0 else stride * _usual_step(coords)  # a single cell, say, of several voxels


def _usual_step(coords: torch.Tensor) -> torch.Tensor:
    usual = coords.new_zeros(())
    for axis in range(1, coords.ndim):
        steps = coords.diff(dim=axis).norm(dim=0)
        if steps.numel():
            median = steps.median()
            # most may repeat the border
            usual = usual.maximum(median if median > 0 or not steps.any() else steps[steps > 0].median())
    return usual


class LandmarkHeatmapd(PointsMapd):
    """Dictionary version of :py:class:`LandmarkHeatmap`: adds the heat maps of landmarks.

    Args:
        keys: keys of the landmarks.
        sigma: standard deviation, in the unit of the coordinates.
        stride: voxels a cell along each axis.
        coords_key: key of the coordinates.
        weights_key: key of the weights. None: 1 each.
        output_key: key of the maps, one for each of ``keys``, which must not exist yet. A single name and several keys
            make ``landmarks_heatmaps``, ...
        allow_missing_keys: pass over ``keys`` that the data lacks; coordinates and weights may never miss.

    Raises:
        ValueError: as :py:class:`LandmarkHeatmap`, and for output keys that are not as many as ``keys``.
        KeyError: for a missing key, or an output key that exists.

    See Also:
        :py:class:`LandmarkHeatmap`
    """

    backend = LandmarkHeatmap.backend

    def __init__(
        self,
        keys: KeysCollection,
        sigma: float,
        stride: int = 1,
        coords_key: Hashable = "coords",
        weights_key: Hashable | None = None,
        output_key: str | Sequence[str] = "heatmaps",
        allow_missing_keys: bool = False,
    ) -> None:
        guides = {"coords_key": coords_key} | ({} if weights_key is None else {"weights_key": weights_key})
        super().__init__(LandmarkHeatmap(sigma, stride), keys, guides, output_key, allow_missing_keys)


LandmarkHeatmapD = LandmarkHeatmapDict = LandmarkHeatmapd
