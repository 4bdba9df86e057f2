"""The place of every voxel as an image, to be taken along by spatial transforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type

from monai_infoaug._require import all_finite, refusal, require_truth
from monai_infoaug.information._arrays import plain_tensor
from monai_infoaug.transforms._coordinates import coordinate_grid
from monai_infoaug.transforms._derived import DerivedMapd
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = ["CoordinateMap", "CoordinateMapD", "CoordinateMapDict", "CoordinateMapd"]


class CoordinateMap(Shown, Transform):
    """Where each voxel of an image lies.

    Give the map to a random spatial transform beside the image, with mode "bilinear" and padding "border": whatever
    the transform is, elastic ones included, each voxel then still says where it came from. (MONAI's
    ``ApplyTransformToPointsd`` moves points by an affine, which knows nothing of an elastic change.)

    Args:
        world: whether places are in millimetres, by the affine of a MetaTensor (others have voxels of 1 mm), or in
            voxels.

    Example:
        >>> image = MetaTensor(torch.zeros(1, 2, 3), affine=torch.diag(torch.tensor([0.5, 2.0, 1.0])))
        >>> CoordinateMap()(image)[1].tolist()
        [[0.0, 2.0, 4.0], [0.0, 2.0, 4.0]]
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, world: bool = True) -> None:
        require_truth(world=world)
        self.world = world

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Say where the voxels of one image lie.

        Args:
            img: (C,H,W) or (C,H,W,D).

        Returns:
            (D,*S) float32 of the kind, device and metadata of ``img``.

        Raises:
            ValueError: for another rank, an empty image, or an affine that sends different voxels to one place, such as
                that of a 2D slice which lies across the first two axes of its space.
            TypeError: for what is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        x = plain_tensor(img, "img")
        if x.ndim not in (3, 4) or x.numel() == 0:
            raise refusal("img", f"shape {tuple(x.shape)}", "channel first, 2D or 3D, not empty")
        grid = coordinate_grid(x.shape[1:], x.device)
        if self.world and isinstance(img, MetaTensor):
            dims, affine = len(grid), img.affine.to(grid)
            if not (all_finite(affine) and bool(torch.linalg.matrix_rank(affine[:dims, :dims].cpu()) == dims)):
                accepted = f"finite, and tell places by the first {dims} of their millimetres"
                raise refusal("affine of `img`", img.affine.tolist(), accepted)
            grid = torch.tensordot(affine[:dims, :dims], grid, 1) + affine[:dims, -1].view(-1, *[1] * dims)
        return convert_to_dst_type(grid, img, dtype=torch.float32)[0]


class CoordinateMapd(DerivedMapd):
    """Adds the coordinate map of each of ``keys``.

    Args:
        keys: keys of the images.
        coords_key: key of the map, one for each of ``keys``, which must not exist yet. A single name and several keys
            make ``image_coords``, ``label_coords``, ...
        world: see :py:class:`CoordinateMap`.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError: as :py:class:`CoordinateMap`, and for output keys that are not as many as ``keys``.
        KeyError: for a missing key, or an output key that exists.

    See Also:
        :py:class:`CoordinateMap`
    """

    backend = CoordinateMap.backend

    def __init__(
        self,
        keys: KeysCollection,
        coords_key: str | Sequence[str] = "coords",
        world: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(CoordinateMap(world), keys, coords_key, None, allow_missing_keys)


CoordinateMapD = CoordinateMapDict = CoordinateMapd
