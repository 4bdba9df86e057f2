"""Contrast of pixels by their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize, softplus

from monai_infoaug._grid import at_places
from monai_infoaug._processes import all_gather_cat, distributed_mean, rank
from monai_infoaug._require import refusal

__all__ = ["ChosenPixels", "PixelSupConLoss"]

SCOPES = ("image", "cross", "batch")
DENOMINATORS = ("all", "negatives", "ratio")
VIEWS = ("pooled", "each", "across")
ENTRIES = 2**21  # of the similarity matrix that exist at once
NONE = -1e30  # in place of the similarity of what does not count; finite, so that no gradient is NaN


class ChosenPixels(NamedTuple):
    """Pixels of a view that :py:class:`PixelSupConLoss` compares, within sets of N, chosen before they are embedded.

    Each is (B, sets, N): places, their numbers in the flattened image; labels, their classes; and valid, bool, whether
    they have a part.

    Example:
        >>> from monai_infoaug.samplers import StridePixels
        >>> loss, labels = PixelSupConLoss(sampler=StridePixels(2)), torch.arange(16).view(1, 1, 4, 4) % 4
        >>> [chosen] = loss.choose([labels], [None])
        >>> chosen.places, chosen.labels
        (tensor([[[ 0,  2,  8, 10]]]), tensor([[[0, 2, 0, 2]]]))
        >>> features = torch.eye(2)[None, :, [0, 1, 0, 1]][:, :, None]  # of these four alone
        >>> bool(loss(features, chosen) < 1e-5)
        True
    """

    places: Tensor
    labels: Tensor
    valid: Tensor


class PixelSupConLoss(nn.Module):
    """Supervised contrast of pixels: those of one class attract each other, those of different classes repel [1-3].

    For an anchor pixel p with the positives P (pixels of its class) and the negatives N (pixels of other classes) among
    the pixels that it is compared with, and s the cosine similarity divided by the temperature, its loss is

    - ``denominator="all"``: the mean over q in P of ``-s_pq + log sum exp s_pk`` over k in P and N, as in SupCon [1]
      and in the formulas of [2];
    - ``"negatives"``: the same, over k in N and q itself, as in the code published with [2];
    - ``"ratio"``: ``-1/|P| log(sum_P exp s / sum_N exp s)``, as printed in [3].

    Image-level contrast is that of images of one pixel: with features (B, F, 1) and ``scope="batch"`` the loss is
    SupCon [1], and with the number of the image as the label and two views it is SimCLR's.

    The loss is exact, and its memory grows with the number of pixels N and not with N^2, backward included: the
    similarities are made in pieces, and made again for the gradient.

    Args:
        temperature: divisor of the similarities, above 0.
        scope: what a pixel is compared with: ``"image"``, its own image; ``"cross"``, its own image and the positives,
            not the negatives, of the next image of the batch [2]; ``"batch"``, all images, those of the other processes
            of ``torch.distributed`` too. All processes then need features of the same shape, and each gets its part of
            the loss, so that the mean over the processes, which ``DistributedDataParallel`` takes of the gradients, is
            that of one process with all images.
        denominator: ``"all"``, ``"negatives"`` or ``"ratio"``.
        views: how two views of the images meet: ``"pooled"``, as one set [3]; ``"each"``, every view for itself;
            ``"across"``, anchors in view 1 against view 2 [2].
        include_background: whether pixels of class 0 are anchors, too. They are compared with in any case.
        ignore_index: label of pixels that have no part.
        self_pairs: whether a pixel is a positive of itself, as in the code published with [2].
        normalize: divide the features by their norms; pixels whose features are all zero then have no part.
        sampler: which pixels have a part, such as :py:class:`DrawnPixels`; None: all.
        over_processes: the mean is that over the anchors of all processes, each of which must call the loss; so that
            several processes train as one. With ``scope="batch"`` it is so anyway.

    Shape:
        - features1, features2: (B, F, *S), any number of spatial dimensions, of the two views or of one.
        - labels1, labels2: (B, 1, *S) class numbers of any type.
        - tiers1, tiers2: (B, 1, *S) with 0 low, 1 medium, 2 high information, for a sampler that asks for them.
        - output: scalar, mean over the anchors that have a positive (for ``"ratio"`` also a negative), at least float32
          under every autocast. Without such an anchor it is 0, and ``backward`` still works.

    Raises:
        ValueError: for an unknown option, a temperature out of range, shapes that do not fit, one view where the
            ``views`` are ``"across"``, or one image where the ``scope`` is ``"cross"``.

    References:
        1. Khosla et al., "Supervised contrastive learning", NeurIPS 2020, arXiv:2004.11362.
        2. Zhao et al., "Contrastive learning for label efficient semantic segmentation", ICCV 2021, arXiv:2012.06985.
        3. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.

    Example:
        >>> labels = torch.tensor([[[[0, 0, 1, 1]]]])
        >>> loss = PixelSupConLoss(temperature=0.1)
        >>> bool(loss(torch.cat([labels == 0, labels == 1], 1).float(), labels) < loss(torch.ones(1, 2, 1, 4), labels))
        True
    """

    def __init__(
        self,
        temperature: float = 0.07,
        scope: str = "image",
        denominator: str = "all",
        views: str = "pooled",
        include_background: bool = True,
        ignore_index: int | None = None,
        self_pairs: bool = False,
        normalize: bool = True,
        sampler: Callable[..., tuple[Tensor, Tensor]] | None = None,
        over_processes: bool = False,
    ) -> None:
        super().__init__()
        if not (0 < temperature < float("inf")):
            raise refusal("temperature", temperature, "a finite number above 0")
        if scope not in SCOPES:
            raise refusal("scope", repr(scope), f"one of {SCOPES}")
        if denominator not in DENOMINATORS:
            raise refusal("denominator", repr(denominator), f"one of {DENOMINATORS}")
        if views not in VIEWS:
            raise refusal("views", repr(views), f"one of {VIEWS}")
        self.temperature, self.scope, self.denominator, self.views = temperature, scope, denominator, views
        self.include_background, self.ignore_index = include_background, ignore_index
        self.self_pairs, self.normalize, self.sampler = self_pairs, normalize, sampler
        self.over_processes = over_processes or scope == "batch"

    def forward(
        self,
        features1: Tensor,
        labels1: Tensor | ChosenPixels,
        features2: Tensor | None = None,
        labels2: Tensor | ChosenPixels | None = None,
        tiers1: Tensor | None = None,
        tiers2: Tensor | None = None,
    ) -> Tensor:
        """Args:
            features1, labels1, tiers1: of the first view, or of the only one.
            features2, labels2, tiers2: of the second view.

        In place of the labels, what :py:meth:`choose` has made of them says that features are (B, F, sets, N), those of
        the chosen pixels alone.
        """
        given = (features2 is None) == (labels2 is None)
        if not given:
            raise refusal("labels2", "one of `features2` and `labels2` alone", "given with `features2`, or neither")
        if features2 is None and self.views == "across":
            raise refusal("features2", None, "given where views are 'across'")
        views = [(features1, labels1, tiers1), (features2, labels2, tiers2)][: 1 + (features2 is not None)]
        shapes = [tuple(view[0].shape[:2]) for view in views]
        if shapes[-1] != shapes[0]:
            raise refusal("features2", f"of shape {shapes[-1]}", f"of shape {(*shapes[0], '*S')}")
        with torch.autocast(features1.device.type, enabled=False):
            x, y, valid = zip(*(self._pixels(*view, f"{i}") for i, view in enumerate(views, 1)), strict=True)
            if self.views == "across":
                sets = [(x[0], y[0], valid[0], x[1], y[1], valid[1])]
            elif self.views == "pooled":
                sets = [tuple(torch.cat(both, 1) for both in (x, y, valid)) * 2]
            else:
                sets = [view * 2 for view in zip(x, y, valid, strict=True)]
            total, count = map(sum, zip(*(self._between(len(features1), *each) for each in sets), strict=True))
            return distributed_mean(total, count, self.over_processes)

    def choose(self, labels: Sequence[Tensor], tiers: Sequence[Tensor | None]) -> list[ChosenPixels]:
        """Which pixels of the views have a part: labels and tiers decide, so that a network need embed no others.

        Args:
            labels, tiers: (B, 1, *S) of each view.
        """
        chosen = [self._chosen(*view) for view in zip(labels, tiers, strict=True)]
        alike = len({view.places.shape for view in chosen}) == 1
        if self.include_background or self.scope != "image" or not alike:
            return chosen
        anchors = torch.stack([(view.valid & (view.labels != 0)).any(2) for view in chosen]).any(0)
        index = _these_first(anchors)[..., None].expand(-1, -1, chosen[0].places.shape[2])
        return [ChosenPixels(*(x.gather(1, index) for x in view)) for view in chosen]

    def _chosen(self, labels: Tensor, tiers: Tensor | None) -> ChosenPixels:
        labels = labels.as_subclass(Tensor)
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore_index is None else labels != self.ignore_index
        if self.sampler is None:
            every = torch.arange(labels[0].numel(), device=labels.device).expand(len(labels), 1, -1)
            return ChosenPixels(every, labels.flatten(2), valid.flatten(2))
        places, valid = self.sampler(labels, valid, tiers)
        return ChosenPixels(places, at_places(labels, places)[:, 0], valid)

    def _pixels(
        self, features: Tensor, labels: Tensor | ChosenPixels, tiers: Tensor | None, view: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, N, F), labels (B, N) and valid (B, N) of a view."""
        good = features.ndim >= 3 and features.is_floating_point()
        if not good:
            raise refusal(f"features{view}", f"{features.dtype} of shape {tuple(features.shape)}", "floats (B, F, *S)")
        enough = len(features) > 1 or self.scope != "cross"
        if not enough:
            raise refusal(f"features{view}", "one image", "of several images where the scope is 'cross'")
        features = features.as_subclass(Tensor)
        if isinstance(labels, ChosenPixels):
            chosen, got = labels, tuple(features.shape)
            wanted = (len(chosen.places), got[1], *chosen.places.shape[1:])
            if got != wanted:
                raise refusal(f"features{view}", f"shape {got}", f"of shape {wanted}")
        else:
            wanted = (len(features), 1, *features.shape[2:])
            if labels.shape != wanted:
                raise refusal(f"labels{view}", f"shape {tuple(labels.shape)}", f"of shape {wanted}")
            chosen = self._chosen(labels.to(features.device), tiers)
            features = features.flatten(2)[:, :, None] if self.sampler is None else at_places(features, chosen.places)
        features = features.movedim(1, -1).flatten(0, 1).to(torch.promote_types(features.dtype, torch.float32))
        labels, valid = chosen.labels.flatten(0, 1), chosen.valid.flatten(0, 1)
        if self.normalize:
            valid = valid & features.any(-1)  # nothing has no direction
            features = normalize(features, dim=-1)
        return features, labels, valid

    def _between(
        self,
        images: int,
        rows: Tensor,
        classes: Tensor,
        anchors: Tensor,
        columns: Tensor,
        others: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the anchors among rows (B, N, F) compared with columns (B, M, F), and their number.

        Args:
            images: whose sets of pixels the B are, each image's one after the other.
            rows, classes, anchors: pixels, their labels (B, N), and whether they may be anchors (B, N).
            columns, others, valid: pixels, labels and validity (B, M) of what they are compared with; the rows unless
                views meet across.
        """
        first = 0  # column of the first row
        if not self.include_background:
            anchors = anchors & (classes != 0)
        if self.scope == "batch":
            rows, columns = (x.flatten(0, 1)[None] for x in (rows, columns))
            classes, anchors, others, valid = (x.flatten()[None] for x in (classes, anchors, others, valid))
            first = rank() * rows.shape[1]
            columns, others, valid = (all_gather_cat(x, 1) for x in (columns, others, valid))
        negatives = columns.shape[1]  # the columns from here on are positives alone
        if self.scope == "cross":
            sets = len(columns) // images
            columns, others, valid = (torch.cat([x, x.roll(-sets, 0)], 1) for x in (columns, others, valid))
        nothing = (rows.sum() + columns.sum()) * 0
        with_anchors = anchors.any(1)
        if not with_anchors.all():  # many blocks show background alone
            rows, classes, anchors, columns, others, valid = (
                x[with_anchors] for x in (rows, classes, anchors, columns, others, valid)
            )
            if len(rows) == 0:
                return nothing, nothing.detach()
        # nothing but anchors is a row from here on, but for a set that has fewer of them than another one
        order = _these_first(anchors)
        rows = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2])) / self.temperature
        classes, anchors = classes.gather(1, order), anchors.gather(1, order)
        itself = None if self.self_pairs or self.views == "across" else first + order
        number, total = _positives(rows, classes, columns, others, valid, itself)
        fill = partial(_fill, classes, others, None if valid.all() else valid, itself, negatives)
        used = anchors & (number > 0)
        if self.denominator == "all":
            losses = _LogSumExp.apply(rows, columns, partial(fill, "all", NONE)) * number - total
        else:
            against = _LogSumExp.apply(rows, columns, partial(fill, "negative", NONE))
            if self.denominator == "ratio":
                used = used & (against > NONE / 2)
                losses = against - _LogSumExp.apply(rows, columns, partial(fill, "positive", NONE))
            else:
                losses = _AgainstNegatives.apply(rows, columns, against, partial(fill, "positive", -NONE))
        return nothing + (losses / number.clamp_min(1)).masked_fill(~used, 0).sum(), used.sum()


def _these_first(wanted: Tensor) -> Tensor:
    """Indices of what is wanted (B, N), then of others: as many as the set has that has most, at least one."""
    return wanted.byte().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(wanted.sum(1).max()))]


def _positives(
    rows: Tensor, classes: Tensor, columns: Tensor, others: Tensor, valid: Tensor, itself: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Number of positives of each row, and the sum of their similarities: its product with the sum of its class."""
    known, index = torch.cat([classes, others], 1).unique(return_inverse=True)
    size, sets = len(known), torch.arange(len(rows), device=rows.device)[:, None]
    mine, theirs = (index + size * sets).split([classes.shape[1], others.shape[1]], 1)
    kept = columns * valid[..., None]
    sums = columns.new_zeros(len(rows) * size, columns.shape[2]).index_add(0, theirs.flatten(), kept.flatten(0, 1))
    number = theirs[valid].bincount(minlength=len(sums))[mine]
    total = (rows * sums[mine]).sum(-1)
    if itself is not None:
        number = number - 1
        total = total - (rows * columns.gather(1, itself[..., None].expand_as(rows))).sum(-1)
    return number, total


def _pieces(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice]]:
    """Sets and rows, a limited number of similarities at once."""
    width = max(1, ENTRIES // columns.shape[1])
    sets = max(1, width // rows.shape[1])
    for at in range(0, len(rows), sets):
        for start in range(0, rows.shape[1], width):
            yield slice(at, at + sets), slice(start, start + width)


def _fill(
    classes: Tensor,
    others: Tensor,
    valid: Tensor | None,
    itself: Tensor | None,
    negatives: int,
    kept: str,
    value: float,
    similarity: Tensor,
    at: slice,
    part: slice,
) -> Tensor:
    """Put a value in place of the similarities of a piece that are not kept: all, or the positive or negative ones."""
    if valid is not None:
        similarity.masked_fill_(~valid[at, None], value)
    if kept != "negative" and itself is not None:
        similarity.scatter_(2, itself[at, part, None], value)
    begin = negatives if kept == "all" else 0
    if begin < similarity.shape[2]:
        same = classes[at, part, None] == others[at, None, begin:]
        similarity[..., begin:].masked_fill_(same if kept == "negative" else ~same, value)
    if kept == "negative":
        similarity[..., negatives:] = value
    return similarity


class _LogSumExp(torch.autograd.Function):
    """(B, N) log of the sum of exp of the similarities of rows (B, N, F) with columns (B, M, F) that are kept."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, fill: Callable[..., Tensor]) -> Tensor:
        result = rows.new_empty(rows.shape[:2])
        for at, part in _pieces(rows, columns):
            result[at, part] = fill(rows[at, part] @ columns[at].mT, at, part).logsumexp(-1)
        ctx.save_for_backward(rows, columns, result)
        ctx.fill = fill
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, columns, result = ctx.saved_tensors
        to_rows, to_columns = torch.empty_like(rows), torch.zeros_like(columns)
        for at, part in _pieces(rows, columns):
            weight = ctx.fill(rows[at, part] @ columns[at].mT, at, part)
            weight.sub_(result[at, part, None]).exp_().mul_(gradient[at, part, None])
            to_rows[at, part] = weight @ columns[at]
            to_columns[at] += weight.mT @ rows[at, part]
        return to_rows, to_columns, None


class _AgainstNegatives(torch.autograd.Function):
    """(B, N) sum over the kept columns of ``log(1 + exp(against - s))``, with ``against`` (B, N)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, against: Tensor, fill: Callable[..., Tensor]) -> Tensor:
        result = torch.empty_like(against)
        for at, part in _pieces(rows, columns):
            similarity = fill(rows[at, part] @ columns[at].mT, at, part)
            result[at, part] = softplus(against[at, part, None] - similarity).sum(-1)
        ctx.save_for_backward(rows, columns, against)
        ctx.fill = fill
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, columns, against = ctx.saved_tensors
        to_rows, to_columns, to_against = torch.empty_like(rows), torch.zeros_like(columns), torch.empty_like(against)
        for at, part in _pieces(rows, columns):
            weight = ctx.fill(rows[at, part] @ columns[at].mT, at, part)
            weight.sub_(against[at, part, None]).neg_().sigmoid_().mul_(gradient[at, part, None])
            to_against[at, part] = weight.sum(-1)
            to_rows[at, part] = -weight @ columns[at]
            to_columns[at] -= weight.mT @ rows[at, part]
        return to_rows, to_columns, to_against, None
