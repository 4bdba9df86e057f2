"""Which landmarks an image does not show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_infoaug._require import are_counts, listed, refusal
from monai_infoaug.inferers.landmark_layout import LayoutPlaces

__all__ = ["absent_landmarks", "share_inside"]

SURE = 0.001  # least probability of either that a layout can give
SLOPE, EVEN = 5.0, 0.9  # log-odds that a unit of fit is worth, and the fit that says nothing
FLEXIBLE = 2.0  # standard deviations of a layout in one of its own: images to come bend more than those learnt from


def share_inside(places: LayoutPlaces, size: Sequence[int], affine: Tensor) -> Tensor:
    """Probability that an image contains the places where its landmarks have to lie.

    Args:
        places: of images of one size, see :py:meth:`monai_infoaug.inferers.LandmarkLayout.predict`.
        size: voxels along each axis.
        affine: (D + 1, D + 1) from voxels to millimetres.

    Returns:
        Shape (B, L), float64. The product of the probabilities along the voxel axes, as if these were independent.

    Raises:
        ValueError: for a size or affine of other dimensions.
    """
    dims, matrix = places.points.shape[-1], torch.as_tensor(affine).double().cpu()
    if len(listed(size)) != dims or not are_counts(size, 1):
        raise refusal("size", size, f"{dims} numbers of voxels")
    if matrix.shape != (dims + 1, dims + 1):
        raise refusal("affine", f"shape {tuple(matrix.shape)}", f"({dims + 1}, {dims + 1})")
    inverse = torch.linalg.inv(matrix[:-1, :-1])
    voxels = (places.points - matrix[:-1, -1]) @ inverse.T
    spread = (inverse @ places.covariances @ inverse.T).diagonal(dim1=-2, dim2=-1).sqrt() * FLEXIBLE
    upper, lower = (torch.as_tensor(listed(size)) - 0.5 - voxels) / spread, (-0.5 - voxels) / spread
    shares: Tensor = (torch.special.ndtr(upper) - torch.special.ndtr(lower)).prod(-1)
    return shares


def absent_landmarks(places: LayoutPlaces, fits: Tensor, size: Sequence[int], affine: Tensor) -> Tensor:
    """Which landmarks an image does not show: the other landmarks say that they lie outside, and nothing fits inside.

    The odds that a landmark is absent are those by the layout that its place is outside of the image, times those by
    how well what was found fits. How much the fit counts was chosen with crops of training images of the ISBI 2015
    cephalometric challenge, matched from one template.

    Args:
        places: of images of one size, see :py:meth:`monai_infoaug.inferers.LandmarkLayout.predict`.
        fits: (B, L) scores of what was found, 1 for what is usual for that landmark; NaN where nothing was found.
        size: voxels along each axis.
        affine: (D + 1, D + 1) from voxels to millimetres.

    Returns:
        (B, L) bool.

    Raises:
        ValueError: for fits of another shape, or a size or affine of other dimensions.
    """
    fits = torch.as_tensor(fits).double().cpu()
    if fits.shape != places.points.shape[:-1]:
        raise refusal("fits", f"shape {tuple(fits.shape)}", f"{tuple(places.points.shape[:-1])}")
    inside = share_inside(places, size, affine).clamp(SURE, 1 - SURE)
    return SLOPE * (EVEN - fits.nan_to_num(0.0)) > inside.logit()
