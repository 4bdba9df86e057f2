"""Patches whose labels look alike: pyramids and the loss against loops, what is left out, gradients, bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from monai_infoaug.losses import PatchContrastLoss, label_pyramids
from monai_infoaug.samplers import DrawnPixels


def patches(labels, side):
    """Slices of the whole patches of an image."""
    numbers = [range(length // side) for length in labels.shape]
    return [tuple(slice(i * side, (i + 1) * side) for i in place) for place in itertools.product(*numbers)]


def overlap(first, second, levels):
    """Of two patches of labels, by counting in every cell of every level."""
    total, side = 0.0, first.shape[0]
    for level in range(levels):
        weight = 0.5 ** (levels - max(level, 1))
        cells = patches(first, side // 2**level)
        for cell in cells:
            for k in set(first[cell].flat) | set(second[cell].flat):
                shares = [(patch[cell] == k).mean() for patch in (first, second)]
                total += weight * min(shares) / len(cells)
    return total


def labelled(shape, seed=0, low=-1):
    """Labels -1 to 2 in blocks, so that some patches are alike."""
    coarse = np.random.default_rng(seed).integers(low, 3, [-(-length // 2) for length in shape])
    for axis in range(1, len(shape)):
        coarse = coarse.repeat(2, axis)
    return coarse.repeat(2, 0)[tuple(map(slice, shape))]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 14), (8, 5, 10)])
def test_overlap_of_pyramids_is_that_of_counted_histograms(shape, levels):
    labels = labelled(shape)
    pyramids = label_pyramids(torch.tensor(labels)[None, None], 3, 4, levels)
    assert pyramids.shape[2:] == tuple(length // 4 for length in shape)
    rows = pyramids[0].flatten(1).T
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
    cut = [labels[place] for place in patches(labels, 4)]
    for i, j in itertools.product(range(len(cut)), repeat=2):
        half = float((rows[i] - rows[j]).abs().sum() / 2)
        assert 1 - half == pytest.approx(overlap(cut[i], cut[j], levels), abs=1e-5)


def by_loops(embeddings, labels, levels, temperature, known):
    """The definition, in loops; embeddings at half the resolution of the labels."""
    vectors, cut = [], []
    for image, label in zip(embeddings, labels[:, 0].numpy(), strict=True):
        for place in patches(label, 4):
            if (label[place] >= 0).mean() >= known:
                cells = (slice(None), *(slice(part.start // 2, part.stop // 2) for part in place))
                vectors.append(image[cells].flatten(1).mean(1))
                cut.append(label[place])
    losses = []
    for i in range(len(cut)):
        overlaps = [overlap(cut[i], other, levels) for other in cut]
        alike = [j for j, o in enumerate(overlaps) if o > 0.7 - 1e-6 and j != i]
        differ = [j for j, o in enumerate(overlaps) if o < 0.4 + 1e-6]
        if alike and differ:
            s = [math.exp(cosine_similarity(vectors[i], vector, dim=0) / temperature) for vector in vectors]
            losses.append(np.mean([-math.log(s[p] / (s[p] + sum(s[n] for n in differ))) for p in alike]))
    return np.mean(losses), len(losses)


@pytest.mark.parametrize("shape", [(16, 20), (12, 12, 8)])
def test_equals_loops(shape):
    labels = torch.tensor(np.stack([labelled(shape, seed) for seed in range(3)]))[:, None]
    embeddings = torch.randn(3, 5, *(length // 2 for length in shape), generator=torch.Generator().manual_seed(0))
    loss = PatchContrastLoss(3, patch_size=4, levels=2, positive=0.7, negative=0.4, temperature=0.5, known=0.6)
    expected, anchors = by_loops(embeddings, labels, 2, 0.5, 0.6)
    assert anchors > 5
    assert float(loss(embeddings, labels)) == pytest.approx(expected, abs=1e-5)
    assert float(loss(1000 * embeddings, labels)) == pytest.approx(expected, abs=1e-5)  # directions alone count


def test_patches_of_one_image_meet_those_of_another():
    """Each image alone has nothing that is alike."""
    labels = torch.tensor([[0, 1], [1, 0]])[:, None, None].repeat_interleave(4, 3).expand(-1, -1, 4, -1)
    embeddings = torch.nn.functional.one_hot(labels[:, 0], 2).movedim(-1, 1).float()
    loss = PatchContrastLoss(2, patch_size=4, temperature=1.0)
    assert loss(embeddings[:1], labels[:1]) == loss(embeddings[1:], labels[1:]) == 0
    assert float(loss(embeddings, labels)) == pytest.approx(-math.log(math.e / (math.e + 2)))


def test_learning_makes_like_patches_alike():
    labels = torch.tensor(labelled((16, 16), low=0))[None, None]
    embeddings = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss, optimizer = (
        PatchContrastLoss(3, 4, levels=1, positive=0.99, negative=0.6),
        torch.optim.Adam([embeddings], 0.1),
    )
    first = loss(embeddings, labels).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss(embeddings, labels).backward()
        optimizer.step()
    assert loss(embeddings, labels).item() < 0.1 * first


def test_gradient():
    labels = torch.tensor(np.stack([labelled((8, 8), seed) for seed in range(2)]))[:, None]
    embeddings = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = PatchContrastLoss(3, 4, levels=1, positive=0.6, negative=0.5, known=0)
    assert loss(embeddings, labels) > 0
    assert loss(embeddings, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), embeddings.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_at_a_low_temperature(dtype):
    labels = torch.tensor(labelled((16, 16)))[None, None]
    embeddings = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    loss = PatchContrastLoss(3, 4, levels=1, positive=0.6, temperature=0.01)(embeddings, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss > 0
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("fill", [-1, 1])
def test_nothing_to_compare_costs_nothing(fill):
    """No label at all, or all patches alike."""
    embeddings = torch.randn(1, 4, 8, 8).requires_grad_()
    loss = PatchContrastLoss(2, 4)(embeddings, torch.full((1, 1, 8, 8), fill))
    loss.backward()
    assert loss == 0
    assert not embeddings.grad.any()


def test_patches_are_drawn_by_the_tier_that_they_have_on_average():
    """All of the high tier: as if the rest were not there."""
    labels = torch.tensor(labelled((16, 16), low=0))[None, None]
    tiers = torch.zeros(1, 1, 16, 16)
    tiers[..., :8] = 2
    tiers[..., 0, :4] = 0  # 1.5 on average in this patch, which is rounded to 2
    tiers[..., 0, 8:12] = 2  # 0.5 in that one, which is rounded to 0
    embeddings = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {"num_classes": 3, "patch_size": 4, "levels": 1, "positive": 0.7}
    drawn = PatchContrastLoss(**settings, sampler=DrawnPixels(16, shares=[0, 0, 1]))(embeddings, labels, tiers)
    left = PatchContrastLoss(**settings)(embeddings[..., :8], labels[..., :8])
    assert left > 0
    assert float(drawn) == pytest.approx(float(left), abs=1e-6)
    with pytest.raises(ValueError, match="`tiers` must be given where there are `shares`"):
        PatchContrastLoss(**settings, sampler=DrawnPixels(16, shares=[0, 0, 1]))(embeddings, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive": 0.5, "negative": 0.5}, "`negative and positive` must be overlaps in order, from 0 to 1"),
        ({"temperature": 0}, "`temperature` must be a finite number above 0, got 0"),
        ({"known": 2}, "`known` must be from 0 to 1, got 2"),
        ({"temperature": "0.1"}, "`temperature` must be a finite number above 0, got 0.1"),
        ({"positive": "0.9"}, "`negative and positive` must be overlaps in order, from 0 to 1"),
        ({"levels": 0}, "`levels` must be a whole number of at least 1, got 0"),
        ({"levels": 1.5}, "`levels` must be a whole number of at least 1, got 1.5"),
        ({"patch_size": "8"}, "`patch_size` must be a multiple of 4, for 3 levels, got 8"),
        ({"patch_size": 6}, "`patch_size` must be a multiple of 4, for 3 levels, got 6"),
        ({"patch_size": 16}, r"`patch_size` must be at most the image, \(8, 8\), got 16"),
        ({"num_classes": 1}, "`labels` must be from 0 to 0, or -1, got from 1 to 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PatchContrastLoss(**{"num_classes": 2, "patch_size": 8} | settings)(
            torch.rand(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
        )


@pytest.mark.parametrize("shape", [(1, 2, 8), (2, 2, 8, 8), (1, 2, 4, 8), (1, 2, 3, 3), (1, 2, 16, 16), (1, 2, 1, 1)])
def test_bad_embeddings(shape):
    with pytest.raises(ValueError, match=r"`embeddings` must be \(B, F, \*S / stride\) for labels \(1, 1, 8, 8\)"):
        PatchContrastLoss(2, 4)(torch.rand(shape), torch.ones(1, 1, 8, 8))


def test_a_stride_that_is_no_whole_number_is_named():
    with pytest.raises(ValueError, match="with a stride that divides 6, got"):
        PatchContrastLoss(2, 6, 2)(torch.rand(1, 2, 8, 8), torch.ones(1, 1, 12, 12))
