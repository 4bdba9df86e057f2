"""Grey levels in [0, 1] and the foreground, by the rules of each imaging modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import ScaleIntensityRange, ScaleIntensityRangePercentiles, Transform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_infoaug._require import all_finite, is_one_of, refusal
from monai_infoaug.information._arrays import are_numbers, is_ordered_pair, plain_tensor
from monai_infoaug.transforms._derived import DerivedMapd
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown
from monai_infoaug.transforms.foreground import BodyMask

__all__ = ["ModalityPreset", "ModalityPresetD", "ModalityPresetDict", "ModalityPresetd", "guess_modality"]

MODALITIES = ("ct", "mr", "xray", "rgb")
AIR_TO_BODY = -500.0  # HU, half way between air and water
FAT_TO_BONE = (-200.0, 1000.0)  # HU
OVERSHOOT = 0.1  # share of the range that interpolation may have added on either side


def guess_modality(img: NdarrayOrTensor) -> str:
    """The likely modality of an image, for :py:class:`ModalityPreset`.

    Args:
        img: (C,H,W) or (C,H,W,D), as the file has it.

    Returns:
        ``"rgb"`` for three channels, else ``"xray"`` in 2D, ``"ct"`` in 3D if a value is -500 or less, and ``"mr"``
        otherwise.

    Raises:
        ValueError: for a wrong rank or an empty image.

    Example:
        >>> guess_modality(torch.rand(1, 8, 8)), guess_modality(torch.rand(1, 8, 8, 8) - 1000)
        ('xray', 'ct')
    """
    x = plain_tensor(img, "img")
    _require_image(x)
    if len(x) == 3:
        return "rgb"
    if x.ndim == 3:
        return "xray"
    return "ct" if x.min() <= AIR_TO_BODY else "mr"  # only volumes of CT go so low


def _require_image(img: Tensor) -> None:
    if img.ndim not in (3, 4) or img.numel() == 0:
        raise refusal("img", tuple(img.shape), "channel first, 2D or 3D, not empty")


class ModalityPreset(Shown, Transform):
    """Scale an image to [0, 1] and find its foreground, as its modality wants it.

    - ``"ct"``: Hounsfield units, cut to ``window``; the foreground is the body at -500 HU.
    - ``"mr"``: grey levels have no unit: percentiles of each channel inside the foreground, which is the body at Otsu's
      threshold.
    - ``"xray"``: percentiles of the whole image, just as MONAI's ``ScaleIntensityRangePercentiles``; all is foreground.
    - ``"rgb"``: three channels, also where ``SimpleITKReader`` has left one of three equal ones. Values in [0, 1] stay
      and those in [0, 255] are divided by 255, both clipped if they overshoot by up to a tenth; others (16 bits,
      standardised) are scaled by percentiles of all channels together, which keeps the colours. All is foreground.

    Deterministic, so MONAI's caching data sets keep the result. Pending lazy operations are applied first.

    Args:
        modality: ``"ct"``, ``"mr"``, ``"xray"`` or ``"rgb"``.
        window: Hounsfield units that become 0 and 1, for CT only. None: (-200, 1000), from fat to dense bone, so that
            landmarks on bones and on soft tissue both show; lungs are then black.
        lower, upper: percentiles that become 0 and 1, where percentiles are used.

    Raises:
        ValueError: for an unknown modality, a window that is out of order or not for CT, or percentiles out of order.

    See Also:
        :py:class:`BodyMask`

    Example:
        >>> slice_of_water = torch.full((1, 4, 4), 0.0)
        >>> slice_of_water[:, 0] = -1000  # air
        >>> scaled, foreground = ModalityPreset("ct", window=(-100, 100))(slice_of_water)
        >>> scaled[0, :, 0], foreground[0, :, 0]
        (tensor([0.0000, 0.5000, 0.5000, 0.5000]), tensor([0, 1, 1, 1], dtype=torch.uint8))
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self, modality: str, window: Sequence[float] | None = None, lower: float = 0.5, upper: float = 99.5
    ) -> None:
        if not is_one_of(modality, MODALITIES):
            raise refusal("modality", repr(modality), f"one of {MODALITIES}")
        if window is not None and modality != "ct":
            raise refusal("window", window, f"None for modality '{modality}'")
        self.window = FAT_TO_BONE if window is None else window
        if not is_ordered_pair(self.window) or self.window[0] == self.window[1]:
            raise refusal("window", window, "two Hounsfield units (low, high), low < high")
        if not are_numbers((lower, upper), 2, 0, 100) or lower >= upper:
            raise refusal("lower and upper", (lower, upper), "percentiles in order")
        self.modality, self.lower, self.upper = modality, lower, upper
        self.body = BodyMask(AIR_TO_BODY if modality == "ct" else "otsu") if modality in ("ct", "mr") else None

    def __call__(self, img: NdarrayOrTensor) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Scale one image.

        Args:
            img: (C,H,W) or (C,H,W,D), finite.

        Returns:
            The image, (C,*S) float32 in [0, 1], and its foreground, (1,*S) uint8, 1 inside, both of the kind, device
            and metadata of ``img``.

        Raises:
            ValueError: for a wrong rank, an empty image, NaN or infinity, or values that cannot be of the modality.
            TypeError: for what is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        x = plain_tensor(img, "img").float().contiguous()
        _require_image(x)
        if self.modality == "rgb" and len(x) == 1 and getattr(img, "meta", {}).get("equal_channels") == "3":
            x = x.expand(3, *x.shape[1:])  # a grey photograph among others
        if not all_finite(x):
            raise refusal("img", "NaN or infinity", "finite")
        inside = torch.ones_like(x[:1], dtype=torch.uint8) if self.body is None else convert_to_tensor(self.body(x))
        scaled = convert_to_tensor(self._scaled(x, inside)).clamp(0, 1)  # MONAI leaves alone what is (nearly) constant
        image, foreground = (convert_to_dst_type(out, img, dtype=out.dtype)[0] for out in (scaled, inside))
        return image, foreground

    def _scaled(self, x: Tensor, foreground: Tensor) -> NdarrayOrTensor:
        if self.modality == "ct":
            return self._ct(x)
        if self.modality == "mr":
            return self._mr(x, foreground)
        return self._rgb(x) if self.modality == "rgb" else self._by_percentiles(x)

    def _ct(self, x: Tensor) -> NdarrayOrTensor:
        least, most = float(x.min()), float(x.max())
        if least >= 0:
            accepted = "in Hounsfield units for modality 'ct' (air -1000, fat -100, water 0)"
            raise refusal("img", f"values from {least:g} to {most:g}", accepted)
        low, high = self.window
        return ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(x)

    def _mr(self, x: Tensor, foreground: Tensor) -> Tensor:
        scaled = []
        for channel in x:
            levels: list[Any] = [percentile(channel[foreground[0] > 0], q) for q in (self.lower, self.upper)]
            low, high = levels
            scaled.append(convert_to_tensor(ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(channel)))
        return torch.stack(scaled)

    def _by_percentiles(self, x: Tensor) -> NdarrayOrTensor:
        return ScaleIntensityRangePercentiles(self.lower, self.upper, 0.0, 1.0, clip=True)(x)

    def _rgb(self, x: Tensor) -> NdarrayOrTensor:
        if len(x) != 3:
            raise refusal("img", f"{len(x)} channels", "of 3 channels for modality 'rgb'")
        low, high = float(x.min()), float(x.max())
        top = 255 if high > 2 else 1
        usual = -OVERSHOOT * top <= low and high <= (1 + OVERSHOOT) * top
        return x / top if usual else self._by_percentiles(x)


class ModalityPresetd(DerivedMapd):
    """Scales each of ``keys`` to [0, 1] and adds its foreground.

    Args:
        keys: keys of the images.
        modality: ``"ct"``, ``"mr"``, ``"xray"`` or ``"rgb"``.
        foreground_key: key of the foreground, one for each of ``keys``, which must not exist yet. A single name and
            several keys make ``image_foreground``, ``label_foreground``, ...
        window, lower, upper: see :class:`ModalityPreset`.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError: as :class:`ModalityPreset`, and for foreground keys that are not as many as ``keys``.
        KeyError: for a missing key, or a foreground key that exists.

    See Also:
        :py:class:`ModalityPreset`

    Example:
        >>> data = ModalityPresetd("image", modality="xray")({"image": torch.rand(1, 16, 16)})
        >>> int(data["foreground"].min())
        1
    """

    backend = ModalityPreset.backend

    def __init__(
        self,
        keys: KeysCollection,
        modality: str,
        foreground_key: str | Sequence[str] = "foreground",
        window: Sequence[float] | None = None,
        lower: float = 0.5,
        upper: float = 99.5,
        allow_missing_keys: bool = False,
    ) -> None:
        transform = ModalityPreset(modality, window, lower, upper)
        super().__init__(transform, keys, foreground_key, None, allow_missing_keys)

    def derive(self, img: NdarrayOrTensor, *masks: NdarrayOrTensor) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """The scaled image and its foreground."""
        return self.transform(img, *masks)


ModalityPresetD = ModalityPresetDict = ModalityPresetd
