"""Label images to one channel a class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.networks import one_hot
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type
from torch import Tensor

from monai_infoaug._require import is_count, refusal
from monai_infoaug.information._arrays import plain_tensor
from monai_infoaug.transforms._keyed import KeyedTransform
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = ["LabelChannels", "LabelChannelsD", "LabelChannelsDict", "LabelChannelsd"]


class LabelChannels(Shown, Transform):
    """Label image to one channel a class: of class numbers, or of bits where classes overlap.

    Args:
        num_classes: number of classes 0, 1, ..., the background included.
        bits: value of each class's bit, such as (1, 2, 4), in labels whose pixels may be of several classes. Exactly
            one of ``num_classes`` and ``bits``.

    Raises:
        ValueError: for both or neither, fewer than two classes, or bits that are no different powers of two.

    Example:
        >>> LabelChannels(3)(torch.tensor([[[0, 2]]])).tolist()
        [[[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 1.0]]]
        >>> LabelChannels(bits=(1, 4))(torch.tensor([[[4, 5]]])).tolist()
        [[[0.0, 1.0]], [[1.0, 1.0]]]
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, num_classes: int | None = None, bits: Sequence[int] | None = None) -> None:
        if (num_classes is None) == (bits is None):
            raise refusal("num_classes", num_classes, "given, or `bits`, and not both")
        if num_classes is not None and not is_count(num_classes, 2):
            raise refusal("num_classes", num_classes, "a whole number of at least 2")
        if bits is not None and not _are_bits(bits):
            raise refusal("bits", bits, "different powers of two")
        self.num_classes, self.bits = num_classes, None if bits is None else tuple(map(int, bits))

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Split one label image.

        Args:
            img: label image (1, *S).

        Returns:
            (classes, *S) float32, 0 or 1, of the kind and metadata of ``img``.

        Raises:
            ValueError: for another shape, or labels that are no class numbers or have other bits.
            TypeError: for what is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        labels = plain_tensor(img, "img")
        if labels.ndim < 2 or len(labels) != 1 or labels.numel() == 0:
            raise refusal("img", f"shape {tuple(labels.shape)}", "of shape (1, *S), not empty")
        file = getattr(img, "meta", {}).get("filename_or_obj")
        where = f" in '{file}'" if file else ""
        if self.num_classes is not None:
            channels = _classes(labels, self.num_classes, where)
        else:
            channels = _parts(labels, self.bits or (), where)
        return convert_to_dst_type(channels.float(), img, dtype=torch.float32)[0]


def _are_bits(bits: object) -> bool:
    """Whether these are different powers of two."""
    if not isinstance(bits, Sequence | np.ndarray) or not all(is_count(bit, 1) and not bit & (bit - 1) for bit in bits):
        return False
    return len(set(bits)) == len(bits) > 0


def _classes(labels: Tensor, num_classes: int, where: str) -> Tensor:
    odd = sorted(set(labels.unique().tolist()) - set(range(num_classes)))
    if odd:
        raise refusal("img", f"labels {odd[:5]}{where}", f"class numbers from 0 to {num_classes - 1}")
    return one_hot(labels, num_classes, dim=0)


def _parts(labels: Tensor, bits: Sequence[int], where: str) -> Tensor:
    levels = labels.unique().tolist()
    odd = [level for level in levels if not float(level).is_integer() or int(level) & ~sum(bits)]
    if odd:
        raise refusal("img", f"labels {odd[:5]}{where}", f"made of the bits {tuple(bits)}")
    return torch.cat([labels.long() & bit != 0 for bit in bits])


class LabelChannelsd(Shown, KeyedTransform):
    """Dictionary version of :py:class:`LabelChannels`.

    Args:
        keys: keys of the label images.
        num_classes, bits: see :py:class:`LabelChannels`.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError: as :py:class:`LabelChannels`.
        KeyError: for a missing key.

    See Also:
        :py:class:`LabelChannels`

    Example:
        >>> LabelChannelsd("label", num_classes=2)({"label": torch.zeros(1, 4, 4)})["label"].shape
        torch.Size([2, 4, 4])
    """

    backend = LabelChannels.backend

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int | None = None,
        bits: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = LabelChannels(num_classes, bits)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the label images of a dictionary; see :py:meth:`LabelChannels.__call__`."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.channels(out[key])
        return out


LabelChannelsD = LabelChannelsDict = LabelChannelsd
