"""Heat maps of landmarks on a pre-trained embedding network."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn.functional import interpolate

from monai_infoaug._require import refusal, require_counts
from monai_infoaug.networks._precision import at_least_single
from monai_infoaug.networks.pixel_embedding import GlobalLocalEmbeddingNet, PixelEmbeddingNet, without_padding

__all__ = ["LandmarkHeatmapNet"]


class LandmarkHeatmapNet(nn.Module):
    """Heat-map logits of landmarks, on the features that an embedding network has learnt without labels.

    A 1x1 convolution turns the features of each level into logits, as its embedding head turns them into an embedding.
    The logits of all levels, interpolated to the cells of the finest, are summed, as matching sums similarities: the
    coarse levels say whereabouts a landmark lies, the fine ones where. The softmax over the cells is the probability
    of each cell to hold the landmark.

    ``load_weights(net.trunk, checkpoint)`` warm-starts the trunk from a pre-training. Its own embedding heads are kept
    and not used; ``DistributedDataParallel`` needs ``find_unused_parameters=True``.

    Args:
        trunk: network whose features are used, a ``PixelEmbeddingNet``, or a ``GlobalLocalEmbeddingNet`` of such.
        num_landmarks: number L of landmarks.

    Attributes:
        stride: voxels of the image a cell, the finest of the trunk's strides. Cell ``j`` is centred on voxel
            ``stride * j + (stride - 1) / 2``.

    Shape:
        (B, C, *S) to (B, L, *ceil(S / stride)), at least float32.

    Raises:
        ValueError: for another trunk, or less than one landmark.

    Example:
        >>> net = LandmarkHeatmapNet(PixelEmbeddingNet(), num_landmarks=19)
        >>> net(torch.rand(1, 1, 96, 64)).shape
        torch.Size([1, 19, 48, 32])
    """

    def __init__(self, trunk: PixelEmbeddingNet | GlobalLocalEmbeddingNet, num_landmarks: int) -> None:
        super().__init__()
        parts = trunk.networks if isinstance(trunk, GlobalLocalEmbeddingNet) else [trunk]
        nets = [net for net in parts if isinstance(net, PixelEmbeddingNet)]
        if len(nets) < len(parts):
            strange = [type(net).__name__ for net in parts if not isinstance(net, PixelEmbeddingNet)]
            raise refusal("trunk", strange, "a PixelEmbeddingNet, or a GlobalLocalEmbeddingNet of such")
        require_counts(num_landmarks=num_landmarks)
        self.trunk, self.level_strides, self.stride = trunk, trunk.strides, min(trunk.strides)
        self.heads = nn.ModuleList(
            Convolution(net.spatial_dims, net.width, num_landmarks, kernel_size=1, conv_only=True)
            for net in nets
            for _ in net.strides
        )

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"stride={self.stride}"

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, see Shape."""
        maps = self.trunk.feature_maps(image)
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        logits = torch.zeros(1, device=image.device)
        for i, (head, stride) in enumerate(zip(self.heads, self.level_strides, strict=True)):
            level = at_least_single(head(maps[i]))  # half precision would round a sum of logits
            if stride > self.stride:
                level = interpolate(level, scale_factor=stride / self.stride, mode=mode, align_corners=False)
                level = without_padding(level, image, self.stride)
            logits = logits + level
        return logits
