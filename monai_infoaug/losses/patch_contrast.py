"""Contrast of patches: those whose labels look alike attract each other, whatever image they are of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, one_hot, softplus

from monai_infoaug._grid import at_places, directions, plain
from monai_infoaug._processes import all_gather_cat, distributed_mean, rank
from monai_infoaug._require import is_count, is_number, refusal, require_ignore_index, require_truth
from monai_infoaug._settings import ShowsSettings
from monai_infoaug._versions import is_compiling
from monai_infoaug.losses._comparison import NONE, those

__all__ = ["PatchContrastLoss", "label_pyramids"]

POOL: dict[int, Callable[..., Tensor]] = {2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


def label_pyramids(
    labels: Tensor, num_classes: int, patch_size: int, levels: int = 3, ignore_index: int = -1
) -> Tensor:
    """Spatial pyramids [1] of the classes in each patch: class histograms of its halves, quarters and so on.

    Half the L1 distance of two pyramids is their disparity, from 0 for patches with the same classes at the same places
    to 1: one minus the overlap of the histograms of each level, with weights 1/2, 1/4, ... from the finest level on;
    the two coarsest ones weigh the same.

    Args:
        labels: (B, 1, *S), classes from 0 to ``num_classes`` - 1, or ``ignore_index``, which counts as one more.
        num_classes: number K of classes.
        patch_size: pixels of a patch along each axis; what is left over at the far border has no part.
        levels: number L of levels, of which number l divides each axis by 2^l; 1 is one histogram of the whole patch.
        ignore_index: label of pixels without one.

    Returns:
        Numbers (B, F, *G), not negative, of which the F of a patch sum to 1. The first K + 1 are the histogram of the
        whole patch, times its weight.

    Raises:
        ValueError: for shapes or labels out of range, patches larger than the image, or levels that do not divide them.

    References:
        1. Lazebnik, Schmid and Ponce, "Beyond bags of features: spatial pyramid matching for recognizing natural scene
           categories", CVPR 2006.

    Example:
        >>> labels = torch.tensor([[[[0, 0, 1, 1], [0, 0, 1, 2]]]])
        >>> label_pyramids(labels, num_classes=3, patch_size=2, levels=1)[0, :, 0]
        tensor([[1.0000, 0.0000],
                [0.0000, 0.7500],
                [0.0000, 0.2500],
                [0.0000, 0.0000]])
    """
    shape, size = tuple(labels.shape), labels.shape[2:]
    if len(shape) not in (4, 5) or shape[1] != 1:
        raise refusal("labels", f"shape {shape}", "of shape (B, 1, *S), 2D or 3D")
    _require_pyramids(num_classes, patch_size, levels, ignore_index)
    grid = [length // patch_size for length in size]
    if min(grid) == 0:
        raise refusal("patch_size", patch_size, f"at most the image, {tuple(size)}")
    labels = _whole_patches(labels, patch_size).squeeze(1).long()
    known = labels != ignore_index
    # a compiled graph may depend on no value: what is out of range is found when the loss is called without it
    if not is_compiling() and (known & ((labels < 0) | (labels >= num_classes))).any():
        accepted = f"from 0 to {num_classes - 1}, or {ignore_index}"
        raise refusal("labels", f"from {labels.min()} to {labels.max()}", accepted)
    classes, pyramid = one_hot(torch.where(known, labels, num_classes), num_classes + 1).movedim(-1, 1).float(), []
    for level in range(levels):
        parts = 2**level
        cells = POOL[len(size)](classes, [parts * number for number in grid])
        for axis in range(2, 2 + 2 * len(size), 2):  # (B, K + 1, G * parts, ...) to (B, parts * ... * (K + 1), *G)
            cells = torch.unflatten(cells, axis, (-1, parts)).movedim(axis + 1, 1)
        cells = cells.flatten(1, -1 - len(size))
        pyramid.append(cells * 2.0 ** (max(level, 1) - levels) / parts ** len(size))
    return torch.cat(pyramid, 1)


def _require_pyramids(num_classes: int, patch_size: int, levels: int, ignore_index: int) -> None:
    if not is_count(num_classes, 1):
        raise refusal("num_classes", num_classes, "a whole number of at least 1")
    require_ignore_index(ignore_index)
    if not is_count(levels, 1):
        raise refusal("levels", levels, "a whole number of at least 1")
    parts = 2 ** (levels - 1)
    if not is_count(patch_size, 1) or patch_size % parts:
        raise refusal("patch_size", patch_size, f"a multiple of {parts}, for {levels} levels")


class PatchContrastLoss(ShowsSettings, nn.Module):
    """Contrast of patches by what their labels look like [1], within an image, between images, and between domains.

    Two patches are alike if their :py:func:`label_pyramids` overlap by at least ``positive``, and differ if by at most
    ``negative``; other pairs have no part. With the cosine similarities s of the patches' mean embeddings, divided by
    the temperature, an anchor's loss is the mean over the patches p that are alike of
    -log(exp s_p / (exp s_p + sum exp s_n)), n being those that differ.

    How [1] measures the similarity of labels, and from where on patches are alike, is not published where we could
    read: pyramids and thresholds are ours.

    Args:
        num_classes: number K of classes.
        patch_size: pixels of a patch along each axis, see :py:func:`label_pyramids`.
        levels: number of levels, see there.
        positive: overlap from which on patches are alike, at most 1.
        negative: overlap up to which patches differ, at least 0 and below ``positive``.
        temperature: divisor of the similarities, above 0.
        ignore_index: label of pixels without one.
        known: share of a patch that must have a label, from 0 to 1, else it has no part.
        sampler: which patches have a part, such as :py:class:`monai_infoaug.samplers.DrawnPixels`, which then draws
            patches; its classes are the most frequent ones in the patches, and its tiers the rounded means. None: all.
        over_processes: whether to compare patches with those of the other processes of ``torch.distributed``, too, each
            of which must call the loss with images of the same shape; so that several processes train as one.

    Shape:
        - embeddings: (B, F, *S / stride); the patch must be a multiple of the stride.
        - labels: (B, 1, *S), classes from 0 to K - 1, or ``ignore_index``.
        - tiers: (B, 1, *S) with 0 low, 1 medium, 2 high information, for a sampler that asks for them.
        - output: scalar, mean over the patches that have some that are alike and some that differ; 0 without any. At
          least float32 under every autocast.

    Raises:
        ValueError: for settings or labels out of range, and shapes that do not fit each other.

    References:
        1. Liu et al., "Patch-wise contrastive learning for domain adaptation in semantic segmentation",
           arXiv:2104.11056.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1]).repeat_interleave(4).expand(1, 1, 4, 16)
        >>> loss = PatchContrastLoss(num_classes=2, patch_size=4, temperature=1.0)
        >>> embeddings = torch.stack([labels[:, 0] == 0, labels[:, 0] == 1], 1).float()
        >>> loss(embeddings, labels)  # -log(e / (e + 2))
        tensor(0.5514)
    """

    def __init__(
        self,
        num_classes: int,
        patch_size: int = 16,
        levels: int = 3,
        positive: float = 0.9,
        negative: float = 0.5,
        temperature: float = 0.1,
        ignore_index: int = -1,
        known: float = 0.5,
        sampler: Callable[..., tuple[Tensor, Tensor]] | None = None,
        over_processes: bool = False,
    ) -> None:
        super().__init__()
        require_truth(over_processes=over_processes)
        _require_pyramids(num_classes, patch_size, levels, ignore_index)
        if not is_number(negative, 0) or not is_number(positive, most=1) or negative >= positive:
            raise refusal("negative and positive", (negative, positive), "overlaps in order, from 0 to 1")
        if not is_number(temperature) or temperature <= 0:
            raise refusal("temperature", temperature, "a finite number above 0")
        if not is_number(known, 0, 1):
            raise refusal("known", known, "from 0 to 1")
        self.num_classes, self.patch_size, self.levels = num_classes, patch_size, levels
        self.positive, self.negative, self.temperature = positive, negative, temperature
        self.ignore_index, self.known, self.sampler = ignore_index, known, sampler
        self.over_processes = over_processes

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler the epoch, if it draws by it.

        Args:
            epoch: number of the epoch, from 0 on.
        """
        if self.sampler is not None and hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def forward(self, embeddings: Tensor, labels: Tensor, tiers: Tensor | None = None) -> Tensor:
        """Compare, see Shape.

        Args:
            embeddings: embeddings of the images' pixels.
            labels: classes of the pixels.
            tiers: tiers of the pixels, for a sampler that asks for them.

        Returns:
            The loss, a scalar.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            patches, pyramids, valid, own = self._patches(embeddings, labels, tiers)
            similarity = patches @ patches.mT / self.temperature
            overlap = 1 - torch.cdist(pyramids, pyramids, p=1) / 2
            alike, differ = overlap >= self.positive - 1e-5, overlap <= self.negative + 1e-5
            alike, differ = (
                alike & valid & ~torch.eye(len(valid), dtype=torch.bool, device=valid.device),
                differ & valid,
            )
            used = alike.any(1) & differ.any(1) & own & valid
            anchors = those(used)
            alike, similarity = alike[anchors], similarity[anchors]
            others = similarity.masked_fill(~differ[anchors], NONE).logsumexp(1, keepdim=True)
            losses = softplus(others - similarity).masked_fill(~alike, 0).sum(1) / alike.sum(1).clamp_min(1)
            return distributed_mean(losses.masked_fill(~used[anchors], 0).sum(), used.sum(), self.over_processes)

    def _patches(self, embeddings: Tensor, labels: Tensor, tiers: Tensor | None) -> tuple[Tensor, ...]:
        """Unit embeddings (N, F) and pyramids (N, P) of patches, which have a part, and which are of this process."""
        shape, size, side = tuple(embeddings.shape), labels.shape[2:], self.patch_size
        pyramids = label_pyramids(labels, self.num_classes, side, self.levels, self.ignore_index)
        strides = {whole / cells for whole, cells in zip(size, shape[2:], strict=False)}
        stride = strides.pop() if embeddings.ndim == labels.ndim and len(embeddings) == len(labels) else 0
        if strides or stride < 1 or stride % 1 or side % stride:
            accepted = f"(B, F, *S / stride) for labels {tuple(labels.shape)}, with a stride that divides {side}"
            raise refusal("embeddings", f"shape {shape}", accepted)
        pooled = _means(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), side // int(stride))
        histogram = pyramids[:, : self.num_classes + 1]
        histogram = histogram / histogram.sum(1, keepdim=True)
        valid = histogram[:, -1:] <= 1 - self.known
        found, features = histogram[:, :-1].argmax(1, keepdim=True), torch.cat([pooled, pyramids.to(pooled)], 1)
        if self.sampler is not None:
            tiers = None if tiers is None else _means(tiers.float(), side).round().long()
            places, valid = self.sampler(found, valid, tiers)
            features = at_places(features, places)
        rows, valid = features.flatten(2).movedim(1, -1).flatten(0, 1), valid.flatten()
        own = torch.ones_like(valid)
        if self.over_processes:
            count = len(rows)
            rows, valid = all_gather_cat(rows), all_gather_cat(valid)
            own = torch.arange(len(rows), device=rows.device) // count == rank()
        kept = those(valid)
        rows = rows[kept]
        features = directions(rows[:, : shape[1]], 1, embeddings.dtype == torch.float16)
        return features, rows[:, shape[1] :], valid[kept], own[kept]


def _whole_patches(x: Tensor, side: int) -> Tensor:
    """Without what is left over at the far border."""
    x = plain(x)
    for axis, length in enumerate(x.shape[2:], 2):
        x = x.narrow(axis, 0, length - length % side)
    return x


def _means(x: Tensor, side: int) -> Tensor:
    """Means (B, F, *G) over the whole patches."""
    return POOL[x.ndim - 2](_whole_patches(x, side), [length // side for length in x.shape[2:]])
