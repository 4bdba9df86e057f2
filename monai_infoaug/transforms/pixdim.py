"""Millimetres for images whose files carry none."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_tensor
from monai.utils.enums import MetaKeys, SpaceKeys

from monai_infoaug._require import is_number, listed, refusal
from monai_infoaug.information._arrays import plain_tensor
from monai_infoaug.transforms._keyed import KeyedTransform
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = ["AssignPixdim", "AssignPixdimD", "AssignPixdimDict", "AssignPixdimd"]


class AssignPixdim(Shown, Transform):
    """Say how large the pixels are: PNG, JPEG, BMP and TIFF do not, and the affine of their images is the identity.

    Afterwards ``Spacing`` and every millimetre work as for a medical format: index ``i`` lies at
    ``origin + pixdim * i`` along each axis.

    ``meta["space"]`` becomes "LPS", the frame in which viewers show such images (x to the right, y down), and
    ``meta["original_affine"]`` the new affine, so that ``SaveImage`` resamples to the pixels of the file. Use it first.

    Args:
        pixdim: millimetres a pixel, one number or one an axis. None: affine and frame stay as the file says.
        origin: millimetres of the centre of the first pixel, one number or one an axis; 0 without a ``pixdim``.

    Raises:
        ValueError: for a pixdim that is not positive and finite, another number of values than the image has axes, or
            an origin without a pixdim.

    Example:
        >>> AssignPixdim(pixdim=0.5)(torch.zeros(1, 4, 4)).pixdim
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, pixdim: float | Sequence[float] | None, origin: float | Sequence[float] = 0.0) -> None:
        if pixdim is not None and not all(is_number(side) and side > 0 for side in _listed(pixdim)):
            raise refusal("pixdim", pixdim, "positive and finite, or None")
        if not all(is_number(place) for place in _listed(origin)):
            raise refusal("origin", origin, "finite")
        if pixdim is None and any(_listed(origin)):
            raise refusal("origin", origin, "0 without a `pixdim`")
        self.pixdim = None if pixdim is None else np.asarray(pixdim, np.float64)
        self.origin = np.asarray(origin, np.float64)

    def __call__(self, img: NdarrayOrTensor) -> MetaTensor:
        """Give one image its millimetres.

        Args:
            img: (C, *S).

        Returns:
            The image as a MetaTensor with the new affine and frame; its other metadata stay. A plain tensor where MONAI
            does not track metadata.

        Raises:
            ValueError: for another number of ``pixdim`` or ``origin`` than the image has axes, or an empty image.
            TypeError: for what is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        out: Any = MetaTensor(plain_tensor(img, "img"))
        if out.ndim < 2 or out.numel() == 0:
            raise refusal("img", f"shape {tuple(out.shape)}", "of shape (C, *S), not empty")
        if isinstance(img, MetaTensor):
            out.copy_meta_from(img)
        if self.pixdim is None:
            return convert_to_tensor(out, track_meta=get_track_meta())
        dims = out.ndim - 1
        for name, values in (("pixdim", self.pixdim), ("origin", self.origin)):
            if values.size not in (1, dims):
                raise refusal(name, values.tolist(), f"one number or {dims}, one an axis of the image")
        affine = torch.eye(4, dtype=torch.float64)  # MONAI's own readers give four rows in 2D too
        affine.diagonal()[:dims] = torch.as_tensor(self.pixdim)
        affine[:dims, -1] = torch.as_tensor(self.origin)
        out = convert_to_tensor(out, track_meta=get_track_meta()).clone()
        if not get_track_meta():
            return out
        out.affine = affine
        out.meta |= {MetaKeys.SPACE: SpaceKeys.LPS, MetaKeys.ORIGINAL_AFFINE: affine.clone()}  # as if the file said so
        return out


def _listed(values: Any) -> list[Any]:
    return listed(values) or [values.item() if getattr(values, "ndim", 1) == 0 else values]


class AssignPixdimd(Shown, KeyedTransform):
    """Dictionary version of :py:class:`AssignPixdim`.

    Args:
        keys: keys of the images.
        pixdim: millimetres a pixel. None: as the file says.
        origin: millimetres of the centre of the first pixel.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError: as :py:class:`AssignPixdim`.
        KeyError: for a missing key.

    See Also:
        :py:class:`AssignPixdim`
    """

    backend = AssignPixdim.backend

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: float | Sequence[float] | None,
        origin: float | Sequence[float] = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.assign = AssignPixdim(pixdim, origin)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the images of a dictionary; see :py:meth:`AssignPixdim.__call__`."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.assign(out[key])
        return out


AssignPixdimD = AssignPixdimDict = AssignPixdimd
