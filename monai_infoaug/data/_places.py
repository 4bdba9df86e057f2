"""Where landmarks in millimetres lie in an image."""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys


def outside(points: np.ndarray, image: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """Points (L, D) in millimetres as voxels (L, D) of an image (C, *S), and which (L,) lie outside of it."""
    affine, dims = image.affine.double().numpy(), image.ndim - 1
    voxels = np.linalg.solve(affine[:dims, :dims], (points - affine[:dims, -1]).T).T
    return voxels, np.any((voxels < -0.5) | (voxels > np.array(image.shape[1:]) - 0.5), axis=1)


def if_turned(points: np.ndarray, image: MetaTensor) -> str:
    """What to add about points (L, D), some of which lie outside, if all lie inside once x and y run the other way."""
    if outside(points * [-1, -1, 1][: points.shape[1]], image)[1].any():
        return ""
    other = "RAS" if image.meta.get(MetaKeys.SPACE) == "LPS" else "LPS"
    return f"; all are inside as {other}, which a CSV file says in a column `space`"
