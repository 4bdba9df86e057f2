"""Cross-entropy between heat maps of landmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_infoaug._processes import distributed_mean
from monai_infoaug._require import refusal, require_truth
from monai_infoaug._settings import ShowsSettings

__all__ = ["HeatmapCrossEntropyLoss"]


class HeatmapCrossEntropyLoss(ShowsSettings, nn.Module):
    """Cross-entropy of the softmax over all cells of a landmark's logits, against a target distribution [1].

    Unlike a squared error it does not depend on the size of the map: the cells compete for the landmark. Its minimum
    over the logits is the target's own entropy, not 0.

    Args:
        over_processes: whether the mean is that over the landmarks of all processes, each of which must call the loss;
            so that several processes train as one. As it is returned, ``DistributedDataParallel`` has to average it.

    Shape:
        - logits: (B, L, *cells).
        - target: (B, L, *cells), non-negative, such as the maps of ``LandmarkHeatmapd``. A landmark's map is divided
          by its mass, which is the landmark's weight unless ``weights`` say otherwise.
        - weights: (B, L), non-negative.
        - output: scalar, weighted mean over the landmarks of all images, at least float32 under every autocast. A
          landmark of weight 0 or NaN, or whose target is 0 everywhere or holds a NaN, contributes nothing, whatever its
          logits are. Without any other landmark the loss is 0, and ``backward`` still works.

    Raises:
        ValueError: for shapes that do not fit each other, or a negative target or weight.

    References:
        1. Sun et al., "Integral human pose regression", ECCV 2018, arXiv:1711.08229: heat maps as distributions.

    Example:
        >>> target = torch.zeros(1, 1, 4, 4)
        >>> target[..., 1, 2] = 1
        >>> bool(HeatmapCrossEntropyLoss()(20 * target, target) < 0.001)
        True
    """

    def __init__(self, over_processes: bool = False) -> None:
        super().__init__()
        require_truth(over_processes=over_processes)
        self.over_processes = over_processes

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compare, see Shape.

        Args:
            logits: logits of each landmark's cells.
            target: distribution of each landmark over the cells.
            weights: weight of each landmark, the mass of its target if None.

        Returns:
            The loss, a scalar.
        """
        shape = tuple(logits.shape)
        if len(shape) < 3:
            raise refusal("logits", f"shape {shape}", "of shape (B, L, *cells)")
        if target.shape != shape:
            raise refusal("target", f"shape {tuple(target.shape)}", f"of shape {shape}, as the logits")
        if (target < 0).any():
            raise refusal("target", f"a minimum of {float(target.min())}", "non-negative")
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            logits, target = logits.flatten(2).to(dtype), target.flatten(2).to(dtype)
            mass = target.sum(2)
            weights = mass if weights is None else weights.to(mass)
            if weights.shape != shape[:2]:
                raise refusal("weights", f"shape {tuple(weights.shape)}", f"of shape {shape[:2]}")
            if weights is not mass and (weights < 0).any():
                raise refusal("weights", f"a minimum of {float(weights.min())}", "non-negative")
            used = ((mass > 0) & (weights > 0)).nonzero(as_tuple=True)
            nothing = logits.nan_to_num(0, 0, 0).sum() * 0
            logits, target, weights = logits[used], target[used] / mass[used][:, None], weights[used]
            total = -(target * logits.log_softmax(1)).sum(1) @ weights if len(weights) else nothing
            return distributed_mean(total, weights.sum(), self.over_processes)
