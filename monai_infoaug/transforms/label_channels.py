"""Label images to one channel a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.networks import one_hot
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_infoaug._require import refusal
from monai_infoaug.transforms._pending import up_to_date

__all__ = ["LabelChannels", "LabelChannelsD", "LabelChannelsDict", "LabelChannelsd"]


class LabelChannels(Transform):
    """Label image to one channel a class: of class numbers, or of bits where classes overlap.

    Args:
        num_classes: of class numbers 0, 1, ..., the background included.
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
        if not (num_classes is None or num_classes >= 2):
            raise refusal("num_classes", num_classes, "at least 2")
        good = bits is None or (
            lambda: len(set(bits)) == len(bits) > 0 and all(bit > 0 and bit & (bit - 1) == 0 for bit in bits)
        )
        if not good:
            raise refusal("bits", bits, "different powers of two")
        self.num_classes, self.bits = num_classes, bits

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Args:
            img: label image (1, *S).

        Returns:
            (classes, *S) float32, 0 or 1, of the kind and metadata of ``img``.

        Raises:
            ValueError: for another shape, or labels that are no class numbers or have other bits.
        """
        img = up_to_date(img)
        labels = convert_to_tensor(img, track_meta=False)
        if labels.ndim < 2 or len(labels) != 1:
            raise refusal("img", f"shape {tuple(labels.shape)}", "of shape (1, *S)")
        values = set(labels.unique().tolist())
        if self.bits is None:
            accepted = f"class numbers from 0 to {self.num_classes - 1}"
            odd = sorted(values - set(range(self.num_classes)))
        else:
            accepted = f"made of the bits {tuple(self.bits)}"
            odd = sorted(value for value in values if value != int(value) or int(value) & ~sum(self.bits))
        if odd:
            raise refusal("img", f"labels {odd[:5]}", accepted)
        if self.bits is None:
            channels = one_hot(labels, self.num_classes, dim=0)
        else:
            channels = torch.cat([labels.int() & bit != 0 for bit in self.bits])
        return convert_to_dst_type(channels.float(), img, dtype=torch.float32)[0]


class LabelChannelsd(MapTransform):
    """Dictionary version of :py:class:`LabelChannels`.

    Args:
        keys: keys of the label images.
        num_classes, bits: see :py:class:`LabelChannels`.
        allow_missing_keys: skip missing ``keys``.

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

    def __call__(self, data: dict) -> dict:
        """Change the label images of a dictionary; see :py:meth:`LabelChannels.__call__`."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.channels(out[key])
        return out


LabelChannelsD = LabelChannelsDict = LabelChannelsd
