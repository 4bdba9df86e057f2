"""Pixel-contrastive training on MONAI's engines, and its validation without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.utils import ensure_tuple, ensure_tuple_rep
from torch import Tensor, nn

from monai_infoaug._grid import level_features, level_shares
from monai_infoaug._require import refusal
from monai_infoaug._versions import with_length
from monai_infoaug.engines._batch import entry
from monai_infoaug.engines.contrastive import ContrastiveTrainer, unwrap
from monai_infoaug.inferers import match_points
from monai_infoaug.losses import PixelInfoNCELoss

__all__ = ["LevelContrast", "PairMatcher", "PixelContrastiveTrainer", "PixelMatchingEvaluator"]


class PreparePairs:
    """``prepare_batch`` of MONAI's engines for the output of ``RandPairedViewsd``.

    Args:
        key: image whose views are embedded, or one for each of ``prefixes``.
        prefixes: ``prefix`` of each pair of the dictionary, in the order of the network's inputs.
    """

    def __init__(self, key: str | Sequence[str] = "image", prefixes: Sequence[str] = ("",)) -> None:
        keys = ensure_tuple(key)
        if len(keys) not in (1, len(prefixes)):
            raise refusal("key", key, f"one name, or one for each of the prefixes {prefixes}")
        self.keys, self.prefixes = ensure_tuple_rep(key, len(prefixes)), tuple(prefixes)

    def __call__(
        self, batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[list[tuple[Tensor, Tensor]], list[dict[str, Tensor]]]:
        """Take the pairs from a batch.

        Args:
            batch: values by name.
            device: where the tensors go.
            non_blocking: see ``torch.Tensor.to``.
            kwargs: further arguments of ``torch.Tensor.to``.

        Returns:
            For each prefix a pair of views, and ``points_view1``, ``points_view2`` and ``points_valid`` in this order.
        """

        def get(name: str) -> Tensor:
            return entry(batch, name, device, non_blocking, ", a result of RandPairedViewsd", **kwargs)

        images = [p + key for p, key in zip(self.prefixes, self.keys, strict=True)]
        views = [(get(f"{image}_view1"), get(f"{image}_view2")) for image in images]
        names = ("points_view1", "points_view2", "points_valid")
        return views, [{name: get(p + name) for name in names} for p in self.prefixes]


class LevelContrast(nn.Module):
    """Contrast of corresponding points, averaged over the levels of an embedding network.

    Args:
        view_levels: (input, stride) of each level: number of the pair of views that it sees, and voxels a cell.
        loss: contrast of point features, called as ``loss(features1, features2, points, valid, radius=...)``. One with
            ``takes_levels = True`` (such as ``DenseInfoNCELoss``) is called with whole levels instead:
            ``loss(level1, level2, points1, points2, valid, stride=..., radius=...)``.
        radius: cells of a level within which other points are neither positive nor negative.
        weights: weight of each level, default all equal.
    """

    def __init__(
        self,
        view_levels: Sequence[tuple[int, int]],
        loss: Callable[..., Tensor],
        radius: float = 2.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.view_levels, self.loss, self.radius = tuple(view_levels), loss, radius
        self.weights = level_shares(weights, len(self.view_levels))

    def forward(self, levels: Sequence[tuple[Tensor, Tensor]], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Mean over the levels.

        Args:
            levels: embeddings (B, F, *cells) of both views, a pair a level.
            targets: points and their validity for each pair of views, as ``PreparePairs`` gives them.

        Returns:
            The loss, a scalar.
        """
        total = torch.zeros((), device=levels[0][0].device)
        for (source, stride), weight, (level1, level2) in zip(self.view_levels, self.weights, levels, strict=True):
            points1, points2, valid = targets[source].values()
            radius = self.radius * stride
            if getattr(self.loss, "takes_levels", False):
                contrast = self.loss(level1, level2, points1, points2, valid, stride=stride, radius=radius)
            else:
                features = level_features(level1, points1, stride), level_features(level2, points2, stride)
                contrast = self.loss(*features, points1, valid, radius=radius)
            total = total + weight * contrast
        return total


class PixelContrastiveTrainer(ContrastiveTrainer):
    """MONAI trainer that pulls the embeddings of corresponding pixels together [1].

    Everything of ``SupervisedTrainer`` is there: handlers, metrics, mixed precision, gradient accumulation.

    Args:
        device: where to train.
        max_epochs: number of epochs.
        train_data_loader: batches from ``RandPairedViewsd``.
        network: embedding network with ``strides`` (and ``view_levels`` where it takes several inputs); the output is
            a list of levels.
        optimizer: optimizer of the network's parameters.
        loss_function: ``PixelInfoNCELoss()`` if None, or another contrast of points, see :py:class:`LevelContrast`.
        key: image whose views are embedded, or one for each of ``prefixes``.
        prefixes: ``prefix`` of each pair in the batch, in the order of the network's inputs.
        radius: cells of a level within which other points are neither positive nor negative.
        level_weights: weight of each level's loss, default all equal.
        kwargs: further arguments of :py:class:`ContrastiveTrainer`, such as ``max_grad_norm`` and ``amp``, and of
            ``SupervisedTrainer``.

    Raises:
        ValueError: for level weights that do not fit the network, or a network that needs another number of prefixes.
        KeyError: naming what a batch lacks.

    References:
        1. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
           medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[..., Tensor] | None = None,
        key: str | Sequence[str] = "image",
        prefixes: Sequence[str] = ("",),
        radius: float = 2.0,
        level_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        embedding = unwrap(network)
        view_levels = getattr(embedding, "view_levels", [(0, stride) for stride in embedding.strides])
        inputs = len({source for source, _ in view_levels})
        if len(prefixes) != inputs:
            raise refusal("prefixes", tuple(prefixes), f"{inputs} names, one an input of the network")
        super().__init__(
            device,
            max_epochs,
            train_data_loader,
            network,
            optimizer,
            LevelContrast(view_levels, loss_function or PixelInfoNCELoss(), radius, level_weights),
            PreparePairs(key, prefixes),
            **kwargs,
        )


class PairMatcher(Inferer):
    """Finds the points of view 1 in view 2, each pair by itself.

    Args:
        level_weights: weight of each level's similarity, default all equal.
        chunk, patch_radius: see :py:func:`monai_infoaug.inferers.match_points`.
    """

    def __init__(
        self,
        level_weights: Sequence[float] | None = None,
        chunk: int | None = None,
        patch_radius: float | None = None,
    ) -> None:
        self.level_weights, self.chunk, self.patch_radius = level_weights, chunk, patch_radius

    def __call__(  # type: ignore[override] # MONAI's engines hand on what `prepare_batch` gives
        self, inputs: tuple[Tensor, Tensor, Tensor], network: nn.Module
    ) -> dict[str, Tensor]:
        """Match.

        Args:
            inputs: views 1 and 2 (B, C, *S) and the points (B, N, D) in voxels of view 1.
            network: embedding network.

        Returns:
            ``landmarks`` (B, N, D) in voxels of view 2, ``scores`` (B, N), and ``embeddings`` (B, N, all levels'
            channels) of the points in view 1.
        """
        view1, view2, points = inputs
        strides = unwrap(network).strides
        template, query = network(view1), network(view2)
        found = [
            match_points(
                [level[b : b + 1] for level in template],
                points[b : b + 1],
                [level[b : b + 1] for level in query],
                strides,
                view2.shape[2:],
                self.level_weights,
                self.chunk,
                self.patch_radius,
            )
            for b in range(len(view1))
        ]
        landmarks, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        embeddings = [level_features(level, points, stride) for level, stride in zip(template, strides, strict=True)]
        return {"landmarks": landmarks, "scores": scores, "embeddings": torch.cat(embeddings, dim=-1)}


class PixelMatchingEvaluator(SupervisedEvaluator):
    """Validation without labels: matching under synthetic changes of known truth.

    The points of view 1 are searched in view 2. In ``engine.state.output``, ``pred`` has the result of ``PairMatcher``
    and ``label`` the true points (B, N, D), NaN where there is none, for ``MeanRadialError`` and
    ``PixelEmbeddingCollapseMetric``.

    Args:
        device: where to match.
        val_data_loader: batches from ``RandPairedViewsd``, best of whole images.
        network: embedding network that embeds one image.
        key: image whose views are matched.
        prefix: ``prefix`` of the pair in the batch.
        inferer: how to match, default ``PairMatcher()``.
        kwargs: further arguments of ``SupervisedEvaluator``.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Any,
        network: nn.Module,
        key: str = "image",
        prefix: str = "",
        inferer: Inferer | None = None,
        **kwargs: Any,
    ) -> None:
        prepare = PreparePairs(key, (prefix,))

        def prepare_batch(*args: Any, **kwargs: Any) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
            (views,), (targets,) = prepare(*args, **kwargs)
            points1, points2, valid = targets.values()
            return (*views, points1), points2.masked_fill(~valid[..., None], torch.nan)

        super().__init__(
            torch.device(device),
            val_data_loader,
            network,
            prepare_batch=prepare_batch,
            inferer=inferer or PairMatcher(),
            decollate=False,
            **with_length(kwargs, val_data_loader),
        )
