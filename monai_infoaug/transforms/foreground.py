"""The body or head of a scan, apart from the air around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type

from monai_infoaug._require import is_number, refusal
from monai_infoaug.information._arrays import plain_tensor
from monai_infoaug.transforms._derived import DerivedMapd
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = ["BodyMask", "BodyMaskD", "BodyMaskDict", "BodyMaskd"]

AIR = 0.25  # largest ratio of air to body in MR: about 0.1 is usual, 0.2 very noisy, and 0.4 dark tissue


class BodyMask(Shown, Transform):
    """The body in a scan: the largest connected part above a threshold, with its holes filled.

    Holes are filled slice by slice, along each axis of a volume, so that lungs, airways and sinuses count as body
    although they open to the outside elsewhere. What touches the body, such as a table, counts too. Pending lazy
    operations are applied first.

    Args:
        threshold: grey level between air and body (CT: -500 HU), or ``"otsu"`` for grey levels without a unit (MR).
            Otsu's threshold then tells dark from bright. Where the dark is air (its median is at most a quarter of the
            bright one's), the cut lies half way between the square roots of both medians: low enough for a bias field.
            Where it is not, as in a crop that shows tissue alone, all is body.

    Raises:
        ValueError: for another threshold.

    Example:
        >>> ring = np.zeros((1, 5, 6))
        >>> ring[:, 1:4, 1:4] = 9
        >>> ring[:, 2, 2] = 0
        >>> BodyMask(threshold=5)(ring)[0]
        array([[0, 0, 0, 0, 0, 0],
               [0, 1, 1, 1, 0, 0],
               [0, 1, 1, 1, 0, 0],
               [0, 1, 1, 1, 0, 0],
               [0, 0, 0, 0, 0, 0]], dtype=uint8)
    """

    backend = [TransformBackends.NUMPY]

    def __init__(self, threshold: float | str = "otsu") -> None:
        if not is_number(threshold) and not (isinstance(threshold, str) and threshold == "otsu"):
            raise refusal("threshold", repr(threshold), "a grey level or 'otsu'")
        self.threshold = threshold

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Find the body in one image.

        Args:
            img: (C,H,W) or (C,H,W,D), finite; of several channels the mean counts.

        Returns:
            (1,*S) uint8, 1 in the body, of the kind, device and metadata of ``img``. All is 1 where nothing exceeds the
            threshold.

        Raises:
            ValueError: for a wrong rank, an empty image, NaN or infinity.
            TypeError: for what is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        x = plain_tensor(img, "img")
        array = (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()  # NumPy does not know that type
        if array.ndim not in (3, 4) or array.size == 0:
            raise refusal("img", f"shape {array.shape}", "channel first, 2D or 3D")
        grey = array.mean(0, dtype=np.float32)
        if not np.isfinite(grey).all():
            raise refusal("img", "NaN or infinity", "finite")
        body = self._above(grey)
        body = _filled(_largest(body)) if body.any() else np.ones_like(body)
        return convert_to_dst_type(body[None], img, dtype=np.uint8)[0]

    def _above(self, grey: np.ndarray) -> np.ndarray:
        if self.threshold != "otsu":
            return grey > self.threshold
        level = np.minimum(grey, np.percentile(grey, 99)) - grey.min()
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(sitk.GetImageFromArray(level))
        is_bright = level > otsu.GetThreshold()
        if is_bright.any():
            dark, bright = (float(np.median(level[part])) for part in (~is_bright, is_bright))
            if dark <= AIR * bright:
                return level > ((math.sqrt(dark) + math.sqrt(bright)) / 2) ** 2
        return np.ones_like(is_bright)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask that is connected by faces."""
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8))))
    return sitk.GetArrayFromImage(parts) == 1


def _filled(mask: np.ndarray) -> np.ndarray:
    """A mask with the holes of its 2D slices along every axis."""
    if mask.ndim == 2:
        return sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(mask.astype(np.uint8)))) > 0
    along = (np.stack([_filled(part) for part in np.moveaxis(mask, axis, 0)]) for axis in range(mask.ndim))
    return np.logical_or.reduce([np.moveaxis(filled, 0, axis) for axis, filled in enumerate(along)])


class BodyMaskd(DerivedMapd):
    """Adds the body mask of each of ``keys``.

    Args:
        keys: keys of the images.
        foreground_key: key of the mask, one for each of ``keys``, which must not exist yet. A single name and several
            keys make ``image_foreground``, ``label_foreground``, ...
        threshold: see :class:`BodyMask`.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError: as :py:class:`BodyMask`, and for output keys that are not as many as ``keys``.
        KeyError: for a missing key, or an output key that exists.

    See Also:
        :py:class:`BodyMask`
    """

    backend = BodyMask.backend

    def __init__(
        self,
        keys: KeysCollection,
        foreground_key: str | Sequence[str] = "foreground",
        threshold: float | str = "otsu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(BodyMask(threshold), keys, foreground_key, None, allow_missing_keys)


BodyMaskD = BodyMaskDict = BodyMaskd
