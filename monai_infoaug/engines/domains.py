"""Learning from two domains at once: images with labels of one, images without of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor

from monai_infoaug._require import require_truth
from monai_infoaug.engines._batch import entry

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["SourceAndTarget"]


class SourceAndTarget:
    r"""Labelled images before those of each batch: ``prepare_batch`` of MONAI's ``SupervisedTrainer``, and a handler.

    Give it as ``prepare_batch`` and among ``train_handlers``, after the one that tells ``loader`` the epoch, so that
    both domains are seen in the same order by a training that ran through and one that was stopped.

    Args:
        loader: batches with labels, as many an epoch as the trainer's, which are those of the other domain.
        prepare: ``prepare_batch`` for the trainer's batches, such as :py:class:`SelfTrainingLabels`, with a mapping as
            target.
        key: image (B, C, \*S) in ``loader``.
        label_key: its label (B, 1, \*S).
        tiers_key: tiers (B, 1, \*S) in both; None: there are none.
        match_levels: whether each image with labels takes over the mean and the standard deviation that a channel of an
            image of the other domain has in this batch, as in the transfer of colours by [1]. Pixels of zeros, such as
            the padding of a turned crop, do not count and stay.

    A batch becomes the images of both domains, those with labels first, and the targets of ``prepare`` with ``label``
    for the first ones and, if asked for, ``tiers`` for all.

    Raises:
        KeyError: naming what a batch lacks.
        RuntimeError: if ``loader`` has fewer batches an epoch than the trainer's.

    References:
        1. Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, Any]],
        prepare: Callable[..., tuple[Tensor, Mapping[str, Tensor]]],
        key: str = "image",
        label_key: str = "label",
        tiers_key: str | None = None,
        match_levels: bool = False,
    ) -> None:
        require_truth(match_levels=match_levels)
        self.loader, self.prepare, self.match_levels = loader, prepare, match_levels
        self.key, self.label_key, self.tiers_key = key, label_key, tiers_key
        self.batches: Iterator[Mapping[str, Any]] = iter(())

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)

    def begin(self, engine: Any = None) -> None:  # noqa: ARG002
        """Begin an epoch of the labelled images."""
        self.batches = iter(self.loader)

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Put the labelled images before those of the batch.

        Args:
            batch: values by name of the trainer's loader.
            device: where the tensors go.
            non_blocking: see ``torch.Tensor.to``.
            kwargs: further arguments of ``torch.Tensor.to``, for the images.

        Returns:
            Images and targets.
        """
        images, targets = self.prepare(batch, device, non_blocking, **kwargs)
        labelled = next(self.batches, None)
        if labelled is None:
            raise RuntimeError("`loader` must have as many batches an epoch as that of the trainer, got fewer.")
        targets = dict(targets) | {"label": entry(labelled, self.label_key, device, non_blocking)}
        if self.tiers_key is not None:
            tiers = [entry(each, self.tiers_key, device, non_blocking) for each in (labelled, batch)]
            targets["tiers"] = torch.cat(tiers)
        source = entry(labelled, self.key, device, non_blocking, **kwargs)
        if self.match_levels:
            others = images[torch.arange(len(source), device=images.device) % len(images)]
            source = _matched(source, others)
        return torch.cat([source, images]), targets


def _matched(images: Tensor, others: Tensor) -> Tensor:
    """Images (B, C, *S) with the means and standard deviations of the others, clipped to [0, 1]."""
    mask = images.ne(0).any(1, keepdim=True)
    mean, deviation = _levels(images, mask)
    wanted_mean, wanted_deviation = _levels(others, others.ne(0).any(1, keepdim=True))
    return torch.where(mask, ((images - mean) / deviation * wanted_deviation + wanted_mean).clamp(0, 1), images)


def _levels(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel inside of the mask."""
    axes = tuple(range(2, images.ndim))
    count = mask.sum(axes, keepdim=True).clamp_min(1)
    mean = (images * mask).sum(axes, keepdim=True) / count
    variance = ((images - mean).square() * mask).sum(axes, keepdim=True) / count
    return mean, variance.sqrt().clamp_min(1e-6)
