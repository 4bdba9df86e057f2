"""Mixing of negatives and of images, the peers of information-guided augmentation, for a pixel-contrastive training.

References:
    1. Kalantidis et al., "Hard negative mixing for contrastive learning", NeurIPS 2020, arXiv:2010.01028.
    2. Shen et al., "Un-Mix: rethinking image mixtures for unsupervised visual representation learning", AAAI 2022,
       arXiv:2003.05438.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data.utils import list_data_collate
from torch import Tensor, nn
from torch.nn.functional import normalize

from monai_infoaug.engines import PairInferer
from monai_infoaug.losses import PixelInfoNCELoss


class HardNegativeMixingLoss(PixelInfoNCELoss):
    """InfoNCE with synthetic negatives [1]: mixtures of the hardest ones, of two of them or of one and the anchor.

    Args:
        hardest: the negatives of largest similarity, of which mixtures are made.
        of_two: mixtures ``a n + (1 - a) m`` of two negatives for each anchor, a in (0, 1).
        with_anchor: mixtures ``b q + (1 - b) n`` of the anchor and a negative, b in (0, 0.5).
        kwargs: arguments of :py:class:`PixelInfoNCELoss`.
    """

    def __init__(self, hardest: int = 64, of_two: int = 32, with_anchor: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs, symmetric=False)
        self.hardest, self.of_two, self.with_anchor = hardest, of_two, with_anchor

    def of_points(
        self,
        features1: Tensor,
        features2: Tensor,
        points: Tensor,
        valid: Tensor | None = None,
        radius: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        loss, used = super().of_points(features1, features2, points, valid, radius)
        with torch.autocast(points.device.type, enabled=False):
            anchors, others = (normalize(features.float().nan_to_num(), dim=-1) for features in (features1, features2))
            cosines = anchors @ others.mT
            points = points.nan_to_num()
            near = torch.cdist(points, points) < max(self._radius(radius), 1e-6)
            hard = cosines.masked_fill(near | ~used[:, None], -2).topk(min(self.hardest, cosines.shape[-1])).indices
            mixed = torch.cat([self._of_two(others, hard), self._with_anchor(anchors, others, hard)], dim=2).detach()
            positive = (anchors * others).sum(-1) / self.temperature
            extra = torch.einsum("bnf,bnkf->bnk", anchors, normalize(mixed, dim=-1)) / self.temperature
            # the loss is the logarithm of the denominator less the positive
            return torch.logaddexp(loss + positive, extra.logsumexp(-1)) - positive, used

    def _drawn(self, others: Tensor, hard: Tensor, count: int) -> Tensor:
        """(B, N, count, F): negatives drawn for each anchor among its hardest."""
        chosen = torch.randint(hard.shape[-1], (*hard.shape[:2], count), device=hard.device)
        images = torch.arange(len(others), device=hard.device)[:, None, None]
        return others[images, hard.gather(-1, chosen)]

    def _of_two(self, others: Tensor, hard: Tensor) -> Tensor:
        first, second = (self._drawn(others, hard, self.of_two) for _ in range(2))
        return torch.lerp(second, first, torch.rand_like(first[..., :1]))

    def _with_anchor(self, anchors: Tensor, others: Tensor, hard: Tensor) -> Tensor:
        drawn = self._drawn(others, hard, self.with_anchor)
        return torch.lerp(drawn, anchors[:, :, None], 0.5 * torch.rand_like(drawn[..., :1]))


class MixedCollate:
    """Collates pairs and lays over the first view of each item that of another one, in shares l and 1 - l [2].

    The batch's points become two lists: those of the item itself and those of the other, of which each item keeps
    shares l and 1 - l. :py:class:`MixedInferer` doubles the embeddings to match.

    Args:
        prefixes: prefixes of the pairs in an item.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = prefixes

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        batch = list_data_collate(items)
        for prefix in self.prefixes:
            image = batch[f"{prefix}image_view1"]
            share = torch.rand(())
            batch[f"{prefix}image_view1"] = share * image + (1 - share) * image.flip(0)
            for name in ("points_view1", "points_view2", "points_valid"):
                points = batch[prefix + name]
                batch[prefix + name] = torch.cat([points, points.flip(0)])
            valid = batch[f"{prefix}points_valid"]
            own = torch.rand(valid.shape[1:]) < share
            batch[f"{prefix}points_valid"] = valid & torch.stack([own, ~own]).repeat_interleave(len(image), 0)
        return batch


class MixedInferer(PairInferer):
    """Pairs each mixed view with the second view of both of its items."""

    def __call__(self, inputs: Any, network: nn.Module, *args: Any, **kwargs: Any) -> list[tuple[Tensor, Tensor]]:
        pairs = super().__call__(inputs, network, *args, **kwargs)
        return [(torch.cat([mixed, mixed]), torch.cat([second, second.flip(0)])) for mixed, second in pairs]
