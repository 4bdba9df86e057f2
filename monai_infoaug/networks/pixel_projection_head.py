"""1x1 convolutions from the features of pixels to their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks import Convolution
from torch import nn

from monai_infoaug._require import are_counts, is_count, refusal, require_counts

__all__ = ["PixelProjectionHead"]


class PixelProjectionHead(nn.Sequential):
    """1x1 convolutions with ReLU between them: contrasted in pre-training, and left out after it [1, 2].

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: channels of the features.
        widths: output channels of each convolution; the default is that of [1], (256, 128) that of [2].

    Shape:
        (B, in_channels, *S) to (B, widths[-1], *S), not of unit norm: the losses see to that.

    Raises:
        ValueError: for settings that are no such numbers, naming them.

    References:
        1. Zhao et al., "Contrastive learning for label efficient semantic segmentation", ICCV 2021, arXiv:2012.06985.
        2. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.

    Example:
        >>> import torch
        >>> PixelProjectionHead(2, 64, (256, 128))(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 128, 8, 8])
    """

    def __init__(self, spatial_dims: int, in_channels: int, widths: Sequence[int] = (256, 256, 256)) -> None:
        if not is_count(spatial_dims, 1) or spatial_dims > 3:
            raise refusal("spatial_dims", spatial_dims, "1, 2 or 3")
        require_counts(in_channels=in_channels)
        if not are_counts(widths, 1):
            raise refusal("widths", widths, "one or more whole numbers of at least 1")
        channels = (in_channels, *widths)
        convolutions = [
            Convolution(spatial_dims, inputs, outputs, kernel_size=1, conv_only=True)
            for inputs, outputs in pairwise(channels)
        ]
        super().__init__(*(layer for conv in convolutions[:-1] for layer in (conv, nn.ReLU())), convolutions[-1])
