"""Contrast of the points of one view with every cell of the other."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from monai_infoaug._grid import directions, level_features
from monai_infoaug._require import is_number, refusal
from monai_infoaug.losses._contrast import PointContrast

__all__ = ["DenseInfoNCELoss"]


class DenseInfoNCELoss(PointContrast):
    """InfoNCE [2] of each point of one view against all cells of the other view: what matching will ask.

    The positive is the embedding at the point's partner, read between the cells. The negatives are the cells of the
    *same image's* other view [1], padding and air included, for a match must not fall there either; cells nearer to
    the partner than ``radius`` look almost the same and are left out. Beside :py:class:`PixelInfoNCELoss`, whose
    negatives are the other points, the negatives lie close to each other however few points are drawn, which tells in
    3D: 500 points in a head are more than a centimetre apart.

    Args:
        temperature: divisor of the cosine similarities, above 0.
        radius: distance from the partner, in voxels, within which cells are neither positive nor negative, at least 0.
        symmetric: whether to take the mean of both directions (anchors in view 1 and anchors in view 2) instead of the
            first alone.
        over_processes: whether the mean is that over the points of all processes, each of which must call the loss; so
            that several processes train as one. As it is returned, ``DistributedDataParallel`` has to average it.

    Shape:
        - level1, level2: (B, F, *cells), embeddings of the two views, not necessarily of unit norm.
        - points1, points2: (B, N, D), corresponding points in voxels of each view.
        - valid: (B, N) bool, the points to use; points with NaN or infinite coordinates are never used.
        - output: scalar, mean over the used points of all images, float32 under every autocast. Without a used point
          it is 0, and ``backward`` still works. Memory: (B, N, cells) similarities, twice.

    Raises:
        ValueError: for a temperature, radius or stride out of range, and shapes that do not fit.

    References:
        1. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
           medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
        2. van den Oord et al., "Representation learning with contrastive predictive coding", arXiv:1807.03748.

    Example:
        >>> level = torch.eye(16).view(1, 16, 4, 4)
        >>> points = torch.tensor([[[0.5, 0.5], [4.5, 2.5]]])  # centres of cells of 2 voxels
        >>> bool(DenseInfoNCELoss(temperature=0.05, radius=1)(level, level, points, points, stride=2) < 0.001)
        True
    """

    takes_levels = True  # asks for the levels of both views, not for the embeddings of the points

    def forward(
        self,
        level1: Tensor,
        level2: Tensor,
        points1: Tensor,
        points2: Tensor,
        valid: Tensor | None = None,
        stride: float = 1,
        radius: float | None = None,
    ) -> Tensor:
        """Contrast, see Shape.

        Args:
            level1: embeddings of view 1.
            level2: embeddings of view 2.
            points1: points in view 1.
            points2: the same points in view 2.
            valid: points to use, all with finite coordinates if None.
            stride: voxels a cell.
            radius: replaces the ``radius`` of the constructor, for instance for a coarser level.

        Returns:
            The loss, a scalar.
        """
        radius = self._radius(radius)
        if not is_number(stride) or stride <= 0:
            raise refusal("stride", stride, "a finite number above 0")
        if level2.shape[:2] != level1.shape[:2] or level2.ndim != level1.ndim:
            accepted = f"of shape {(*level1.shape[:2], '*cells')}"
            raise refusal("level2", f"shape {tuple(level2.shape)}", accepted)
        for name, points in (("points1", points1), ("points2", points2)):
            if points.shape != points1.shape or points.shape[::2] != (len(level1), level1.ndim - 2):
                accepted = f"of shape ({len(level1)}, N, {level1.ndim - 2})"
                raise refusal(name, f"shape {tuple(points.shape)}", accepted)
        used = self._used(valid, points1, points2)
        with torch.autocast(level1.device.type, enabled=False):
            levels = [level.to(torch.promote_types(level.dtype, torch.float32)) for level in (level1, level2)]
            places = [points.to(levels[0]).masked_fill(~used[..., None], 0) for points in (points1, points2)]
            unit = partial(directions, half=level1.dtype == torch.float16)
            features = [unit(level_features(*pair, stride)) for pair in zip(levels, places, strict=True)]
            positive = (features[0] * features[1]).sum(-1) / self.temperature
            losses = self._direction(features[0], unit(levels[1], 1), places[1], positive, stride, radius)
            if self.symmetric:
                back = self._direction(features[1], unit(levels[0], 1), places[0], positive, stride, radius)
                losses = (losses + back) / 2
            return self._mean(losses, used)

    def _direction(
        self, anchors: Tensor, cells: Tensor, partners: Tensor, positive: Tensor, stride: float, radius: float
    ) -> Tensor:
        """(B, N) losses of the anchors (B, N, F) against the cells (B, F, *cells) of the other view."""
        logits = anchors @ cells.flatten(2) / self.temperature
        if radius > 0:
            squares = partners.new_zeros(*partners.shape[:2], 1)  # of the distances to the cells, summed axis by axis
            for axis, count in enumerate(cells.shape[2:]):
                numbers = torch.arange(count, dtype=partners.dtype, device=partners.device)
                offsets = stride * numbers + (stride - 1) / 2 - partners[..., axis, None]
                squares = (squares[..., None] + offsets.square()[:, :, None]).flatten(2)
            logits = logits.masked_fill(squares < radius**2, -torch.inf)
        return torch.logaddexp(logits.logsumexp(2), positive) - positive
