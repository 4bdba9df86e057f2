"""Contrast of corresponding pixels of two views."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_infoaug._grid import directions
from monai_infoaug._require import refusal
from monai_infoaug.losses._contrast import PointContrast

__all__ = ["PixelInfoNCELoss"]


class PixelInfoNCELoss(PointContrast):
    """InfoNCE [2] between the embeddings of corresponding points of two views.

    The negatives of a point are the other points of the *same image*: another image of the same anatomy shows the
    same point, which is no negative [1]. Other points nearer than ``radius`` look almost the same and are left out.

    Args:
        temperature: divisor of the cosine similarities, above 0.
        radius: two different points (strictly) nearer than this are neither positive nor negative. Euclidean
            distance in the unit of ``points``; 0 keeps every other point as a negative.
        symmetric: whether to take the mean of both directions (anchors in view 1 and anchors in view 2) instead of the
            first alone.
        over_processes: whether the mean is that over the points of all processes, each of which must call the loss; so
            that several processes train as one. As it is returned, ``DistributedDataParallel`` has to average it.

    Shape:
        - features1, features2: (B, N, F), not necessarily of unit norm. Row ``n`` of both shows the same point.
        - points: (B, N, D), positions of the points in view 1.
        - valid: (B, N) bool, the points to use. Points with NaN or infinite coordinates are never used. Whatever an
          unused point's features are, NaN included, it reaches neither the loss nor a gradient.
        - output: scalar, mean over the used points of all images, in float32 (float64 for float64 features) under
          every autocast. Without a used point it is 0, and ``backward`` still works.

    Raises:
        ValueError: for a temperature or radius out of range, or shapes that do not fit.

    References:
        1. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
           medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
        2. van den Oord et al., "Representation learning with contrastive predictive coding", arXiv:1807.03748.

    Example:
        >>> features, points = torch.eye(4)[None], torch.tensor([[[0.0, 0], [0, 9], [9, 0], [9, 9]]])
        >>> bool(PixelInfoNCELoss(temperature=0.1)(features, features, points) < 0.001)
        True
    """

    def forward(
        self,
        features1: Tensor,
        features2: Tensor,
        points: Tensor,
        valid: Tensor | None = None,
        radius: float | None = None,
    ) -> Tensor:
        """Mean over the used points; the arguments are those of :py:meth:`of_points`.

        Returns:
            The loss, a scalar.
        """
        return self._mean(*self.of_points(features1, features2, points, valid, radius))

    def of_points(
        self,
        features1: Tensor,
        features2: Tensor,
        points: Tensor,
        valid: Tensor | None = None,
        radius: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of each point by itself.

        Args:
            features1: embeddings of the points in view 1.
            features2: embeddings of the same points in view 2.
            points: positions in view 1.
            valid: points to use, all with finite coordinates if None.
            radius: replaces the ``radius`` of the constructor, for instance for a coarser level.

        Returns:
            (B, N) losses, and (B, N) bool, the points that are used; the losses of the others mean nothing.
        """
        radius = self._radius(radius)
        shape = tuple(features1.shape)
        if len(shape) != 3:
            raise refusal("features1", f"shape {shape}", "of shape (B, N, F)")
        if features2.shape != shape:
            raise refusal("features2", f"shape {tuple(features2.shape)}", f"of shape {shape}")
        if points.ndim != 3 or points.shape[:2] != shape[:2]:
            raise refusal("points", f"shape {tuple(points.shape)}", f"of shape {(*shape[:2], 'D')}")
        used = self._used(valid, points)
        dtype = torch.promote_types(features1.dtype, torch.float32)
        other = ~torch.eye(shape[1], dtype=torch.bool, device=used.device)
        ignored = ~(used[:, :, None] & used[:, None])
        if radius > 0:
            places = points.to(dtype).masked_fill(~used[..., None], 0)
            # the faster distance by matrix product loses whole voxels far from the origin
            ignored = ignored | (torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist") < radius)
        with torch.autocast(features1.device.type, enabled=False):
            # NaN would survive a product with zero, hence is replaced before it meets any arithmetic
            embeddings = [
                directions(f.to(dtype).masked_fill(~used[..., None], 0), half=f.dtype == torch.float16)
                for f in (features1, features2)
            ]
            logits = embeddings[0] @ embeddings[1].mT / self.temperature
            positive = logits.diagonal(dim1=1, dim2=2)
            logits = logits.masked_fill(ignored & other, -torch.inf)
            loss = logits.logsumexp(2) - positive
            if self.symmetric:
                loss = (loss + logits.logsumexp(1) - positive) / 2
            return loss, used
