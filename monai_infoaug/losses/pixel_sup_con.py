"""Contrast of pixels by their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_infoaug._grid import at_places, directions, plain
from monai_infoaug._processes import all_gather_cat, distributed_mean, rank
from monai_infoaug._require import is_number, is_one_of, refusal, require_ignore_index, require_truth
from monai_infoaug._settings import ShowsSettings
from monai_infoaug._versions import is_compiling
from monai_infoaug.losses._comparison import NONE, Comparison, those

__all__ = ["ChosenPixels", "PixelSupConLoss"]

SCOPES = ("image", "cross", "batch")
DENOMINATORS = ("all", "negatives", "ratio")
VIEWS = ("pooled", "each", "across")


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


class _Pixels(NamedTuple):
    """What is compared: features (B, N, F) of pixels, their labels (B, N), and whether they have a part (B, N)."""

    features: Tensor
    labels: Tensor
    valid: Tensor


class PixelSupConLoss(ShowsSettings, nn.Module):
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
        ignore_index: label of pixels that have no part; None: there are none.
        self_pairs: whether a pixel is a positive of itself, as in the code published with [2].
        normalize: whether to divide the features by their norms; pixels whose features are all zero then have no part.
        sampler: which pixels have a part, such as :py:class:`monai_infoaug.samplers.DrawnPixels`; None: all.
        over_processes: whether the mean is that over the anchors of all processes, each of which must call the loss; so
            that several processes train as one. With ``scope="batch"`` it is so anyway.

    Shape:
        - features1, features2: (B, F, *S), any number of spatial dimensions, of the two views or of one.
        - labels1, labels2: (B, 1, *S) class numbers of any type.
        - tiers1, tiers2: (B, 1, *S) with 0 low, 1 medium, 2 high information, for a sampler that asks for them.
        - output: scalar, mean over the anchors that have a positive (for ``"ratio"`` also a negative), at least float32
          under every autocast. Without such an anchor it is 0, and ``backward`` still works.

    Raises:
        ValueError: for an unknown option, a setting out of range, shapes that do not fit, one view where the
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
        require_truth(
            include_background=include_background,
            self_pairs=self_pairs,
            normalize=normalize,
            over_processes=over_processes,
        )
        if not is_number(temperature) or temperature <= 0:
            raise refusal("temperature", temperature, "a finite number above 0")
        if not is_one_of(scope, SCOPES):
            raise refusal("scope", repr(scope), f"one of {SCOPES}")
        if not is_one_of(denominator, DENOMINATORS):
            raise refusal("denominator", repr(denominator), f"one of {DENOMINATORS}")
        if not is_one_of(views, VIEWS):
            raise refusal("views", repr(views), f"one of {VIEWS}")
        if ignore_index is not None:
            require_ignore_index(ignore_index)
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
        """Contrast, see Shape.

        In place of the labels, what :py:meth:`choose` has made of them says that features are (B, F, sets, N), those of
        the chosen pixels alone.

        Args:
            features1: embeddings of the first view, or of the only one.
            labels1: its labels.
            features2: embeddings of the second view.
            labels2: its labels.
            tiers1: tiers of the first view, for a sampler that asks for them.
            tiers2: tiers of the second view.

        Returns:
            The loss, a scalar.
        """
        if (features2 is None) != (labels2 is None):
            raise refusal("labels2", "one of `features2` and `labels2` alone", "given with `features2`, or neither")
        if features2 is None and self.views == "across":
            raise refusal("features2", None, "given where views are 'across'")
        if features2 is not None and features2.shape[:2] != features1.shape[:2]:
            accepted = f"of shape {(*features1.shape[:2], '*S')}"
            raise refusal("features2", f"of shape {tuple(features2.shape[:2])}", accepted)
        with torch.autocast(features1.device.type, enabled=False):
            views = [self._pixels(features1, labels1, tiers1, "1")]
            if features2 is not None and labels2 is not None:
                views.append(self._pixels(features2, labels2, tiers2, "2"))
            if self.views == "across":
                pairs = [(views[0], views[1])]
            elif self.views == "pooled":
                pooled = _Pixels(*(torch.cat(both, 1) for both in zip(*views, strict=True)))
                pairs = [(pooled, pooled)]
            else:
                pairs = [(view, view) for view in views]
            totals, counts = zip(*(self._between(len(features1), *pair) for pair in pairs), strict=True)
            return distributed_mean(torch.stack(totals).sum(), torch.stack(counts).sum(), self.over_processes)

    def choose(self, labels: Sequence[Tensor], tiers: Sequence[Tensor | None]) -> list[ChosenPixels]:
        """Which pixels of the views have a part: labels and tiers decide, so that a network need embed no others.

        Args:
            labels: (B, 1, *S) of each view.
            tiers: (B, 1, *S) of each view, or None for a sampler that does not ask for them.

        Returns:
            The pixels of each view, to be given to the loss in place of the labels.
        """
        chosen = [self._chosen(*view) for view in zip(labels, tiers, strict=True)]
        alike = len({view.places.shape for view in chosen}) == 1
        if self.include_background or self.scope != "image" or not alike:
            return chosen
        anchors = torch.stack([(view.valid & (view.labels != 0)).any(2) for view in chosen]).any(0)
        index = _these_first(anchors)[..., None].expand(-1, -1, chosen[0].places.shape[2])
        return [ChosenPixels(*(x.gather(1, index) for x in view)) for view in chosen]

    def _chosen(self, labels: Tensor, tiers: Tensor | None) -> ChosenPixels:
        labels = plain(labels)
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore_index is None else labels != self.ignore_index
        if self.sampler is None:
            every = torch.arange(labels[0].numel(), device=labels.device).expand(len(labels), 1, -1)
            return ChosenPixels(every, labels.flatten(2), valid.flatten(2))
        places, valid = self.sampler(labels, valid, tiers)
        return ChosenPixels(places, at_places(labels, places)[:, 0], valid)

    def _pixels(self, features: Tensor, labels: Tensor | ChosenPixels, tiers: Tensor | None, view: str) -> _Pixels:
        """The pixels of a view."""
        if features.ndim < 3 or not features.is_floating_point():
            raise refusal(f"features{view}", f"{features.dtype} of shape {tuple(features.shape)}", "floats (B, F, *S)")
        if self.scope == "cross" and len(features) < 2:
            raise refusal(f"features{view}", "one image", "of several images where the scope is 'cross'")
        features = plain(features)
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
        dtype = features.dtype
        features = features.movedim(1, -1).flatten(0, 1).to(torch.promote_types(dtype, torch.float32))
        labels, valid = chosen.labels.flatten(0, 1), chosen.valid.flatten(0, 1)
        if self.normalize:
            valid = valid & features.any(-1)  # nothing has no direction
            features = directions(features, half=dtype == torch.float16)
        return _Pixels(features, labels, valid)

    def _between(self, images: int, pixels: _Pixels, compared: _Pixels) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the anchors among pixels, and their number.

        Args:
            images: number of images whose sets of pixels the B are, each image's one after the other.
            pixels: those that may be anchors.
            compared: what they are compared with; the same unless views meet across.
        """
        (rows, classes, anchors), (columns, others, valid) = pixels, compared
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
        kept = those(anchors.any(1))  # many blocks show background alone
        if len(kept) == 0:
            return nothing, anchors.sum()
        if len(kept) < len(rows):
            rows, classes, anchors, columns, others, valid = (
                x[kept] for x in (rows, classes, anchors, columns, others, valid)
            )
        # nothing but anchors is a row from here on, but for a set that has fewer of them than another one
        order = _these_first(anchors)
        rows = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2])) / self.temperature
        classes, anchors = classes.gather(1, order), anchors.gather(1, order)
        itself = None if self.self_pairs or self.views == "across" else first + order
        comparison = Comparison(classes, others, valid, itself, negatives)
        number, total = comparison.positives(rows, columns)
        used = anchors & (number > 0)
        if self.denominator == "all":
            losses = comparison.log_sum_exp(rows, columns, "all") * number - total
        else:
            against = comparison.log_sum_exp(rows, columns, "other")
            if self.denominator == "ratio":
                used = used & (against > NONE / 2)
                losses = against - comparison.log_sum_exp(rows, columns, "same")
            else:
                losses = comparison.sum_softplus(rows, columns, against)
        return nothing + (losses / number.clamp_min(1)).masked_fill(~used, 0).sum(), used.sum()


def _these_first(wanted: Tensor) -> Tensor:
    """Indices of what is wanted (B, N), then of others: as many as the set has that has most, at least one.

    In a compiled graph, whose shapes may depend on no value, of all.
    """
    most = wanted.shape[1] if is_compiling() else max(1, int(wanted.sum(1).max()))
    return wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
