"""How each patch of an image differs from the patches beside it, which changes little from contrast to contrast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

from monai_infoaug._require import require_counts
from monai_infoaug.networks._precision import at_least_single

__all__ = ["SelfSimilarity"]


class SelfSimilarity(nn.Module):
    """Modality independent neighbourhood descriptor (MIND) [1] of every voxel.

    Two neighbours along each axis: the mean squared differences of the patch around a voxel and those around its
    neighbours, divided by their mean, as ``exp(-difference)``, the most similar neighbour at 1. An inverted or, within
    the patches, linearly changed image has the same descriptors; a curve of grey levels moves them little.

    Args:
        distance: voxels to the neighbours.
        radius: radius of the patches, cubes of ``2 * radius + 1`` voxels.

    Shape:
        (B, C, *S), two or three spatial dimensions D, to (B, 2 * D * C, *S) in (0, 1], each channel's descriptor after
        the other.

    Raises:
        ValueError: for a distance below 1 or a negative radius.

    References:
        1. Heinrich et al., "MIND: modality independent neighbourhood descriptor for multi-modal deformable
           registration", Medical Image Analysis 16(7), 2012.

    Example:
        >>> image = torch.rand(1, 1, 8, 8)
        >>> descriptor = SelfSimilarity()
        >>> descriptor(image).shape, torch.allclose(descriptor(image), descriptor(1 - image), atol=1e-4)
        (torch.Size([1, 4, 8, 8]), True)
    """

    def __init__(self, distance: int = 1, radius: int = 1) -> None:
        super().__init__()
        require_counts(distance=distance)
        require_counts(0, radius=radius)
        self.distance, self.radius = distance, radius

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"distance={self.distance}, radius={self.radius}"

    # written in the part of Python that TorchScript knows
    def forward(self, image: Tensor) -> Tensor:
        """Descriptors of an image, see Shape."""
        x = at_least_single(image)
        dims = x.ndim - 2
        wide = pad(x, [self.distance] * (2 * dims), mode="replicate")
        # the largest tensor: filled and changed in place
        differences = x.unsqueeze(2).repeat([1, 1, 2 * dims] + [1] * dims)
        number = 0
        for axis in range(2, x.ndim):
            for start in (0, 2 * self.distance):
                beside = wide
                for other in range(2, x.ndim):
                    beside = beside.narrow(other, start if other == axis else self.distance, x.shape[other])
                squares = pad((x - beside).square(), [self.radius] * (2 * dims), mode="replicate")
                size = 2 * self.radius + 1
                pooled = avg_pool2d(squares, size, 1) if dims == 2 else avg_pool3d(squares, size, 1)
                differences[:, :, number] = pooled
                number += 1
        mean = differences.mean(2, keepdim=True)
        # bounded, so that flat regions are not all noise
        usual = mean.flatten(1).mean(1).view([-1] + [1] * (dims + 2)).clamp_min(1e-30)
        mean = torch.minimum(torch.maximum(mean, 1e-3 * usual), 1e3 * usual)
        lowest = differences.amin(2, keepdim=True)
        if differences.requires_grad:
            differences = torch.exp((lowest - differences) / mean)
        else:
            differences.sub_(lowest).div_(mean).neg_().exp_()
        return differences.flatten(1, 2).to(image.dtype)
