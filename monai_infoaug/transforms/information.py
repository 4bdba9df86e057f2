"""Information maps and tiers as transforms: deterministic, so that MONAI's caching data sets keep their results."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import Transform
from monai.utils import TransformBackends, ensure_tuple

from monai_infoaug._require import is_number, refusal
from monai_infoaug.information._windows import Window, each_window
from monai_infoaug.information.entropy import check_settings, local_entropy
from monai_infoaug.information.tiers import (
    assign_tiers,
    check_quantiles,
    check_thresholds,
    load_thresholds,
    tier_thresholds,
)
from monai_infoaug.transforms._calibration import read_settings
from monai_infoaug.transforms._derived import DerivedMapd
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = [
    "InformationMap",
    "InformationMapD",
    "InformationMapDict",
    "InformationMapd",
    "InformationTiers",
    "InformationTiersD",
    "InformationTiersDict",
    "InformationTiersd",
]


class InformationMap(Shown, Transform):
    """How much each pixel of an image tells: the entropy of the grey levels in the window around it, in bits [1].

    Pending lazy operations are applied first.

    Args:
        window: odd side of the window in voxels, one for all axes or one an axis. Several windows are a sequence of
            sequences, such as ``((5,), (9,), (17,))``. None: 9, unless ``window_mm`` or ``file`` says it.
        window_mm: side in millimetres, one for all axes or one an axis, instead of ``window``; becomes the nearest odd
            number of voxels, at least 3. Several as there.
        num_bins: number of grey-level bins, at least 2. None: 32, unless ``file`` says it.
        value_range: grey levels (low, high) that the bins cover; values outside count in the end bins. None: the 0.5
            and 99.5 percentile inside the mask, for each channel.
        pixdim: spacing in millimetres for ``window_mm``, one for all axes or one an axis. None: from the affine of the
            MetaTensor. PNG and JPEG files carry no spacing, MONAI then says 1 mm: give it here.
        file: JSON file of ``monai-infoaug calibrate``, read at once. It says all settings but ``pixdim``, so none of
            them may be given beside it.
        reduction: ``"mean"`` or ``"max"`` of the maps of several windows. None: the mean, unless ``file`` says it.
        noise_factor: bins are no finer than this many standard deviations of the image's noise, as far as two bins
            allow. Noise alone then has 2.1 bits at 1, 1.3 at 2 and 0.7 at 4. None: the noise does not count, unless
            ``file`` says it.

    Raises:
        ValueError: for a setting that suits no image, one that ``file`` says too, both a ``window`` and a
            ``window_mm``, or a faulty ``file``.
        OSError: if ``file`` cannot be read.

    References:
        [1] Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
        medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.

    See Also:
        :func:`monai_infoaug.information.local_entropy`, :func:`monai_infoaug.information.noise_sd`

    Example:
        >>> import torch
        >>> image = torch.rand(3, 32, 32)
        >>> InformationMap(window=5)(image).shape
        torch.Size([1, 32, 32])
        >>> InformationMap(window_mm=2.1, pixdim=0.3)(image).shape  # a window of 7 x 7 pixels
        torch.Size([1, 32, 32])
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self,
        window: Window | None = None,
        window_mm: float | Sequence[float] | Sequence[Sequence[float]] | None = None,
        num_bins: int | None = None,
        value_range: tuple[float, float] | None = None,
        pixdim: float | Sequence[float] | None = None,
        file: str | os.PathLike | None = None,
        reduction: str | None = None,
        noise_factor: float | None = None,
    ) -> None:
        if window is not None and window_mm is not None:
            raise refusal("window", window, "None beside `window_mm`")
        if file is not None:
            given = {"window": window, "window_mm": window_mm, "num_bins": num_bins, "value_range": value_range}
            window, window_mm, num_bins, value_range, reduction, noise_factor = read_settings(
                file, "information", **given, reduction=reduction, noise_factor=noise_factor
            )
        self.window = 9 if window is None else window  # of a file that says both, `window_mm` counts
        self.window_mm = window_mm
        self.num_bins = 32 if num_bins is None else num_bins
        self.value_range = value_range
        self.pixdim = pixdim
        self.reduction = "mean" if reduction is None else reduction
        self.noise_factor = noise_factor
        check_settings(self.window, self.num_bins, value_range, self.reduction, noise_factor)
        for name, sizes in (*(("window_mm", each) for each in each_window(window_mm)), ("pixdim", pixdim)):
            values = () if sizes is None else ensure_tuple(sizes)
            if sizes is not None and not (values and all(is_number(size) and size > 0 for size in values)):
                raise refusal(name, sizes, "None or positive, in mm, one number or one an axis")

    def __call__(self, img: NdarrayOrTensor, mask: NdarrayOrTensor | None = None) -> NdarrayOrTensor:
        """Measure one image.

        Args:
            img: (C,H,W) or (C,H,W,D), finite real numbers.
            mask: (1,*S) or (C,*S), not zero inside; outside pixels count in no histogram and get 0.

        Returns:
            (1,*S) float32, in bits, the mean of the channels' maps, of the kind and with the metadata of ``img``.

        Raises:
            ValueError: for an image or a mask that :func:`monai_infoaug.information.local_entropy` refuses, a window
                that is larger than the image, or one in millimetres where they are not known.
            TypeError: if ``img`` or ``mask`` is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        window = self.window
        if self.window_mm is not None:
            window = [self._in_voxels(each, img) for each in each_window(self.window_mm)]
        settings = self.num_bins, self.value_range, up_to_date(mask), self.reduction, self.noise_factor
        maps: Any = local_entropy(img, window, *settings)
        return maps.mean(0, keepdims=True)

    def _in_voxels(self, window_mm: float | Sequence[float], img: NdarrayOrTensor) -> tuple[int, ...]:
        axes, spacing = np.ndim(img) - 1, self.pixdim
        if spacing is None:
            if not isinstance(img, MetaTensor):
                raise refusal("pixdim", None, "given with `window_mm` for an image without an affine")
            spacing = affine_to_spacing(img.affine, axes).tolist()
        pairs = zip(_per_axis("window_mm", window_mm, axes), _per_axis("pixdim", spacing, axes), strict=True)
        return tuple(max(3, int(side / size) // 2 * 2 + 1) for side, size in pairs)


class InformationTiers(Shown, Transform):
    """The tier of each pixel by its information: 0 low (< t1), 1 medium, 2 high (>= t2).

    The thresholds come from one of three places; what tells nothing is low under all of them. Pending lazy operations
    are applied first.

    Args:
        thresholds: (t1, t2), in bits, t1 <= t2.
        quantiles: two shares in order; the thresholds are these quantiles of what each map tells inside the mask, see
            :func:`monai_infoaug.information.tier_thresholds`. ``(1/3, 2/3)`` if nothing else is given.
        file: JSON file with the thresholds, such as that of ``monai-infoaug calibrate``, read at once.

    Raises:
        ValueError: for more than one of the three, or bad ones.
        OSError: if ``file`` cannot be read.

    See Also:
        :func:`monai_infoaug.information.assign_tiers`, :func:`monai_infoaug.information.load_thresholds`

    Example:
        >>> import torch
        >>> InformationTiers(thresholds=(2.0, 4.0))(torch.tensor([[[0.5, 2.0, 3.0, 4.5]]]))
        tensor([[[0, 1, 1, 2]]], dtype=torch.uint8)
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self,
        thresholds: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        file: str | os.PathLike | None = None,
    ) -> None:
        given = {"thresholds": thresholds, "quantiles": quantiles, "file": file}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise refusal("thresholds", given, "the only one given of `thresholds`, `quantiles` and `file`")
        if thresholds is not None:
            check_thresholds(thresholds)
        self.thresholds = thresholds if file is None else load_thresholds(file)
        self.quantiles = (1 / 3, 2 / 3) if quantiles is None else quantiles
        check_quantiles(self.quantiles)

    def __call__(self, information: NdarrayOrTensor, mask: NdarrayOrTensor | None = None) -> NdarrayOrTensor:
        """Split one information map.

        Args:
            information: (1,*S), in bits.
            mask: (1,*S), not zero inside; outside the tier is 0.

        Returns:
            (1,*S) uint8, of the kind and with the metadata of ``information``.

        Raises:
            ValueError: for a map or a mask that :func:`monai_infoaug.information.assign_tiers` refuses.
            TypeError: if one of them is no array or tensor of real numbers.
        """
        information, mask = up_to_date(information), up_to_date(mask)
        thresholds = self.thresholds
        if thresholds is None:
            thresholds = tier_thresholds(information, self.quantiles, mask)
        return assign_tiers(information, thresholds, mask)


class InformationMapd(DerivedMapd):
    """Adds the information map of each of ``keys``.

    Args:
        keys: keys of the images.
        information_key: key of the map, one for each of ``keys``, which must not exist yet. A single name and several
            keys make ``image_information``, ``label_information``, ...
        window, window_mm, num_bins, value_range, pixdim, file: see :class:`InformationMap`.
        mask_key: key of a mask that goes with all ``keys``. None: no mask.
        allow_missing_keys: pass over keys that the data lacks.
        reduction, noise_factor: see :class:`InformationMap`.

    Raises:
        ValueError, OSError: as :class:`InformationMap`, and for output keys that are not as many as ``keys``.
        KeyError: for a missing key, or an output key that exists.

    See Also:
        :class:`InformationMap`

    Example:
        >>> import torch
        >>> data = InformationMapd(keys="image", window=5)({"image": torch.rand(1, 16, 16)})
        >>> data["information"].shape
        torch.Size([1, 16, 16])
    """

    backend = InformationMap.backend

    def __init__(
        self,
        keys: KeysCollection,
        information_key: str | Sequence[str] = "information",
        window: Window | None = None,
        window_mm: float | Sequence[float] | Sequence[Sequence[float]] | None = None,
        num_bins: int | None = None,
        value_range: tuple[float, float] | None = None,
        pixdim: float | Sequence[float] | None = None,
        file: str | os.PathLike | None = None,
        mask_key: Hashable | None = None,
        allow_missing_keys: bool = False,
        reduction: str | None = None,
        noise_factor: float | None = None,
    ) -> None:
        transform = InformationMap(window, window_mm, num_bins, value_range, pixdim, file, reduction, noise_factor)
        super().__init__(transform, keys, information_key, mask_key, allow_missing_keys)


class InformationTiersd(DerivedMapd):
    """Adds the tiers of each information map under ``keys``.

    Args:
        keys: keys of the information maps.
        tiers_key: key of the tiers, one for each of ``keys``, which must not exist yet. A single name and several keys
            make ``image_information_tiers``, ...
        thresholds, quantiles, file: see :class:`InformationTiers`.
        mask_key: key of a mask that goes with all ``keys``. None: no mask.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError, OSError: as :class:`InformationTiers`, and for output keys that are not as many as ``keys``.
        KeyError: for a missing key, or an output key that exists.

    See Also:
        :class:`InformationTiers`

    Example:
        >>> import torch
        >>> data = InformationTiersd(thresholds=(2.0, 4.0))({"information": torch.tensor([[[1.0, 3.0, 5.0]]])})
        >>> data["tiers"]
        tensor([[[0, 1, 2]]], dtype=torch.uint8)
    """

    backend = InformationTiers.backend

    def __init__(
        self,
        keys: KeysCollection = "information",
        tiers_key: str | Sequence[str] = "tiers",
        thresholds: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        file: str | os.PathLike | None = None,
        mask_key: Hashable | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        transform = InformationTiers(thresholds, quantiles, file)
        super().__init__(transform, keys, tiers_key, mask_key, allow_missing_keys)


def _per_axis(name: str, value: float | Sequence[float], axes: int) -> tuple[float, ...]:
    values = ensure_tuple(value)
    if len(values) not in (1, axes):
        raise refusal(name, value, f"one number or one for each of {axes} axes")
    return values * axes if len(values) == 1 else values


InformationMapD = InformationMapDict = InformationMapd
InformationTiersD = InformationTiersDict = InformationTiersd
