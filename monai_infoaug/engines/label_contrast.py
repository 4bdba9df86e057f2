"""Contrastive training by labels: of pixels, of images, or of each image against all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from monai_infoaug._grid import level_shares
from monai_infoaug._processes import rank
from monai_infoaug.engines._batch import entry
from monai_infoaug.engines.contrastive import ContrastiveTrainer, unwrap
from monai_infoaug.losses import ChosenPixels, PixelSupConLoss

__all__ = ["LabelContrast", "LabelContrastiveTrainer"]

T = TypeVar("T", Tensor, Tensor | None)


class PrepareLabelledPairs:
    """``prepare_batch`` of MONAI's engines for two views with what says which pixels or images belong together.

    Args:
        key, label_key, tiers_key: see :py:class:`LabelContrastiveTrainer`.
        strides: voxels a cell of each level.
        choose: what chooses the pixels that the network is to embed, as that of ``PixelSupConLoss``; None: all.
    """

    def __init__(
        self,
        key: str,
        label_key: str | None,
        tiers_key: str | None,
        strides: Sequence[int] = (1,),
        choose: Callable[[Sequence[Tensor], Sequence[Tensor | None]], list[ChosenPixels]] | None = None,
    ) -> None:
        self.key, self.label_key, self.tiers_key = key, label_key, tiers_key
        self.strides, self.choose = strides, choose

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Take the views and their targets from a batch.

        Args:
            batch: values by name.
            device: where the tensors go.
            non_blocking: see ``torch.Tensor.to``.
            kwargs: further arguments of ``torch.Tensor.to``, for the views.

        Returns:
            A list of one pair of views, and the targets of ``LabelContrast``; then the further arguments of the
            inferer where only some pixels are to be embedded.
        """

        def get(name: str) -> Tensor:
            return entry(batch, name, device, non_blocking)

        def pair(key: str) -> tuple[Tensor, Tensor]:
            return get(f"{key}_view1"), get(f"{key}_view2")

        views = tuple(view.to(**kwargs) for view in pair(self.key))
        if self.label_key is None:
            labels = (torch.arange(len(views[0]), device=device) + rank() * len(views[0]),) * 2
        elif self.label_key in batch:
            labels = (get(self.label_key),) * 2
        else:
            labels = pair(self.label_key)
        tiers = (None, None) if self.tiers_key is None else pair(self.tiers_key)
        sizes = [view.shape[2:] for view in views]
        whole = not any(length % stride for size in sizes for length in size for stride in self.strides)
        if self.choose is None or not whole:  # how many cells there are then, the network alone knows
            return [views], {"labels": labels, "tiers": tiers}
        chosen = []
        for stride in self.strides:
            cells = [[length // stride for length in size] for size in sizes]
            chosen.append(self.choose(_both_at_cells(labels, cells, stride), _both_at_cells(tiers, cells, stride)))
        return [views], {"chosen": chosen}, (), {"places": [[view.places for view in pair] for pair in chosen]}


class LabelContrast(nn.Module):
    """Contrast of pixels, or of images, by their labels, averaged over the levels of an embedding network.

    Args:
        strides: voxels a cell of each level.
        loss: contrast of pixels, called as ``loss(level1, labels1, level2, labels2, tiers1, tiers2)``.
        weights: weight of each level, default all equal.
    """

    def __init__(
        self, strides: Sequence[int], loss: Callable[..., Tensor], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.strides, self.loss, self.weights = tuple(strides), loss, level_shares(weights, len(strides))

    def forward(self, levels: Sequence[tuple[Tensor, Tensor]], targets: Mapping[str, Sequence[Any]]) -> Tensor:
        """Mean over the levels; a cell has the label and the tier of the pixel in its middle."""
        total = torch.zeros((), device=levels[0][0].device)
        for i, (stride, weight, pair) in enumerate(zip(self.strides, self.weights, levels, strict=True)):
            if "chosen" in targets:
                labels, tiers = targets["chosen"][i], []
            else:
                cells = [level.shape[2:] for level in pair]
                labels, tiers = (_both_at_cells(targets[name], cells, stride) for name in ("labels", "tiers"))
            total = total + weight * self.loss(pair[0], labels[0], pair[1], labels[1], *tiers)
        return total


def _both_at_cells(maps: Sequence[T], cells: Sequence[Sequence[int]], stride: int) -> list[T]:
    """:py:func:`_at_cells` of both views."""
    return [_at_cells(values, of_view, stride) for values, of_view in zip(maps, cells, strict=True)]


def _at_cells(values: T, cells: Sequence[int], stride: int) -> T:
    """Values (B, 1, *S), or one an image, at the cells of a level: (B, 1, *cells)."""
    if values is not None and values.ndim <= 2:
        return values.reshape(-1, 1, *[1] * len(cells)).expand(-1, -1, *cells)
    if values is None or stride == 1:
        return values
    for axis, count in enumerate(cells, start=2):
        middle = torch.arange(count, device=values.device) * stride + stride // 2
        values = values.index_select(axis, middle.clamp(max=values.shape[axis] - 1))
    return values


class LabelContrastiveTrainer(ContrastiveTrainer):
    """MONAI trainer that pulls together the embeddings of pixels of one class, or of images of one class [1-4].

    Everything of ``SupervisedTrainer`` is there: handlers, metrics, mixed precision, gradient accumulation.

    Three kinds of contrast, by what ``label_key`` names:

    - label images ``<label_key>_view1`` and ``<label_key>_view2``, as ``RandPairedViewsd`` makes them: pixels of one
      class belong together [1, 2];
    - ``<label_key>`` itself, a class number an image: views of images of one class belong together [3];
    - None: the two views of an image belong together, against all other images (SimCLR [4]).

    For the latter two take a network whose levels are an embedding an image, such as ``EmbeddingHeads`` with
    ``pooled=True``, and ``PixelSupConLoss(scope="batch")``.

    Args:
        device: where to train.
        max_epochs: number of epochs.
        train_data_loader: batches with ``<key>_view1`` and ``<key>_view2``, each (B, C, *S).
        network: embedding network with ``strides``; the output is a list of levels (B, F, *cells).
        optimizer: optimizer of the network's parameters.
        loss_function: ``PixelSupConLoss()`` if None, or another one that is called alike. Where it has a sampler, and
            the network takes places, as ``EmbeddingHeads`` does, only the chosen pixels are embedded.
        key: image whose views are embedded.
        label_key: see above.
        tiers_key: tiers ``<tiers_key>_view1`` and ``<tiers_key>_view2`` for a sampler that asks for them.
        level_weights: weight of each level's loss, default all equal.
        kwargs: further arguments of :py:class:`ContrastiveTrainer`, such as ``max_grad_norm`` and ``amp``, and of
            ``SupervisedTrainer``.

    Raises:
        ValueError: for level weights that do not fit the network, or a network without ``strides``.
        KeyError: naming what a batch lacks.

    References:
        1. Zhao et al., "Contrastive learning for label efficient semantic segmentation", ICCV 2021, arXiv:2012.06985.
        2. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.
        3. Lee et al., "Attention-guided supervised contrastive learning for semantic segmentation", arXiv:2106.01596.
        4. Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020,
           arXiv:2002.05709.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[..., Tensor] | None = None,
        key: str = "image",
        label_key: str | None = "label",
        tiers_key: str | None = None,
        level_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        embedding = unwrap(network)
        loss: Any = loss_function or PixelSupConLoss()
        fewer = getattr(loss, "sampler", None) is not None and getattr(embedding, "takes_places", False)
        super().__init__(
            device,
            max_epochs,
            train_data_loader,
            network,
            optimizer,
            LabelContrast(embedding.strides, loss, level_weights),
            PrepareLabelledPairs(key, label_key, tiers_key, embedding.strides, loss.choose if fewer else None),
            **kwargs,
        )
