"""Which pixels are compared: nothing twice, nothing left out that should not be, and the shares that were asked for."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from monai_infoaug._grid import at_places
from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.samplers import BlockPixels, DrawnPixels, StridePixels


def numbered(batch=2, size=(5, 7), classes=3):
    """Features that tell image and place of a pixel, random labels, and some pixels that are not valid."""
    generator = torch.Generator().manual_seed(0)
    places = torch.stack(torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij"))
    images = torch.arange(float(batch)).view(batch, 1, *[1] * len(size)).expand(batch, 1, *size)
    features = torch.cat([images, places.expand(batch, *places.shape)], 1)
    labels = torch.randint(0, classes, (batch, 1, *size), generator=generator)
    return features, labels, torch.rand(labels.shape, generator=generator) < 0.8


def chosen(sampler, features, labels, *maps):
    """Features (B, 1 + D, sets, N), labels and validity (B, 1, sets, N) of the chosen pixels."""
    places, valid = sampler(labels, *maps)
    return at_places(features, places), at_places(labels, places), valid[:, None]


def where(features):
    """(image, place) of pixels (B, 1 + D, *S)."""
    return [tuple(pixel) for pixel in features.flatten(2).mT.flatten(0, 1).int().tolist()]


@pytest.mark.parametrize(("size", "stride"), [((5, 7), 2), ((5, 7), (1, 3)), ((4, 5, 3), 2), ((9,), 4)])
def test_stride_takes_every_so_many(size, stride):
    features, labels, valid = numbered(size=size)
    drawn, y, used = chosen(StridePixels(stride), features, labels, valid)
    steps = [stride] * len(size) if isinstance(stride, int) else stride
    axes = [range(0, length, step) for length, step in zip(size, steps, strict=True)]
    assert where(drawn) == list(itertools.product(range(2), *axes))
    for x, original in ((y, labels), (used, valid)):
        assert x.flatten().tolist() == [int(original[b, 0][tuple(at)]) for b, *at in where(drawn)]


@pytest.mark.parametrize(("size", "block"), [((5, 7), 3), ((6, 4), (2, 4)), ((4, 5, 3), 2), ((5, 7), 10)])
def test_blocks_hold_every_pixel_once_with_its_neighbours(size, block):
    features, labels, valid = numbered(size=size)
    drawn, y, used = chosen(BlockPixels(block), features, labels, valid)
    steps = [block] * len(size) if isinstance(block, int) else list(block)
    blocks = math.prod(-(-length // step) for length, step in zip(size, steps, strict=True))
    assert drawn.shape[2:] == y.shape[2:] == used.shape[2:] == (blocks, math.prod(steps))
    seen = []
    for pixels, classes, valids in zip(*(x.movedim(2, 1).flatten(0, 1) for x in (drawn, y, used)), strict=True):
        found = [at for at, there in zip(where(pixels[None]), valids.flatten(), strict=True) if there]
        seen += found
        assert len({(b, *(i // step for i, step in zip(at, steps, strict=True))) for b, *at in found}) <= 1
        assert classes.flatten()[valids.flatten()].tolist() == [int(labels[b, 0][tuple(at)]) for b, *at in found]
    every = where(features)
    assert sorted(seen) == sorted(at for at, there in zip(every, valid.flatten(), strict=True) if there)


def test_blocks_are_compared_within_themselves():
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    y = [torch.randint(0, 3, (2, 1, 5, 6), generator=generator) for _ in range(2)]
    options = {"denominator": "negatives", "include_background": False, "ignore_index": 2}
    total = count = 0
    for b, i, j in itertools.product(range(2), (0, 3), (0, 3)):
        part = slice(b, b + 1), slice(None), slice(i, i + 3), slice(j, j + 3)
        pooled = [torch.cat([each[part].flatten(2) for each in both], 2) for both in (x, y)]
        for n in range(pooled[1].shape[2]):  # each pixel as the only anchor
            label = int(pooled[1][0, 0, n])
            number = int((pooled[1] == label).sum()) - 1
            if label not in (0, 2) and number:
                rest = [m for m in range(pooled[1].shape[2]) if m != n]
                pair = [each[..., [n]] for each in pooled], [each[..., rest] for each in pooled]
                loss = PixelSupConLoss(views="across", **options)
                total, count = total + float(loss(*pair[0], *pair[1])), count + 1
    blocks = PixelSupConLoss(sampler=BlockPixels(3), **options)
    assert float(blocks(x[0], y[0], x[1], y[1])) == pytest.approx(total / count)


def test_blocks_of_background_alone_are_not_chosen():
    x, y = ([torch.zeros(2, n, 9, 9).to(kind) for _ in range(2)] for n, kind in ((4, torch.float64), (1, torch.uint8)))
    for features in x:
        features.copy_(torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    y[0][0, 0, 0, :2], y[1][0, 0, 8, 8], y[0][1, 0, 4, 4:7], y[1][1, 0, 0, 5] = 1, 1, 2, 2
    loss = PixelSupConLoss(include_background=False, sampler=BlockPixels(3))
    chosen = loss.choose(y, [None, None])
    shown = [{int(place) // 27 * 3 + int(place) % 9 // 3 for place in chosen[0].places[b, :, 0]} for b in range(2)]
    assert {0, 8} < shown[0]
    assert shown[1] == {1, 4, 5}
    assert len(shown[0]) == 3
    few = [at_places(features, view.places) for features, view in zip(x, chosen, strict=True)]
    torch.testing.assert_close(loss(few[0], chosen[0], few[1], chosen[1]), loss(x[0], y[0], x[1], y[1]))
    assert loss(x[0], y[0], x[1], y[1]) > 0
    assert len(loss.choose([0 * y[0]], [None])[0].places[0]) == 1
    for every in (PixelSupConLoss(sampler=BlockPixels(3)), PixelSupConLoss(scope="batch", sampler=BlockPixels(3))):
        assert len(every.choose(y, [None, None])[0].places[0]) == 9


def test_another_image_gives_the_same_block():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(36).view(1, 1, 6, 6).expand(3, -1, -1, -1) % 2  # so that every pixel has a positive
    loss, whole = PixelSupConLoss(scope="cross"), PixelSupConLoss(scope="cross", sampler=BlockPixels(3))
    parts = [(..., slice(i, i + 3), slice(j, j + 3)) for i in (0, 3) for j in (0, 3)]
    assert float(whole(x, y)) == pytest.approx(sum(float(loss(x[part], y[part])) for part in parts) / 4)


def drawn_places(sampler, *maps, times=300):
    for _ in range(times):
        features, labels, valid = (x.squeeze(2) for x in chosen(sampler, *maps))
        assert features.shape[2:] == labels.shape[2:] == valid.shape[2:] == (sampler.pixels_per_image,)
        yield [where(pixels[None, :, there[0]]) for pixels, there in zip(features, valid, strict=True)], labels, valid


@pytest.mark.parametrize("number", [1, 10, 35, 50])
def test_draws_are_valid_and_without_replacement(number):
    features, labels, valid = numbered()
    allowed = {at for at, there in zip(where(features), valid.flatten(), strict=True) if there}
    counts = dict.fromkeys(allowed, 0)
    for images, drawn, there in drawn_places(DrawnPixels(number), features, labels, valid):
        for b, places in enumerate(images):
            assert len(places) == len(set(places)) == min(number, int(valid[b].sum()))
            assert drawn[b][there[b]].tolist() == [int(labels[b, 0][i, j]) for _, i, j in places]
            for at in places:
                counts[at] += 1
    for b in range(2):  # all alike
        wanted = 300 * min(1, number / int(valid[b].sum()))
        assert all(abs(count - wanted) < 5 * wanted**0.5 + 1e-9 for at, count in counts.items() if at[0] == b)


def test_classes_get_equal_shares():
    labels = torch.zeros(1, 1, 40, 50)
    labels[..., :5, :10], labels[..., 20:, :] = 1, 2
    features = numbered(1, (40, 50))[0]
    drawn = torch.cat([y[0, 0] for _, y, _ in drawn_places(DrawnPixels(9, balanced=True), features, labels)])
    for label in range(3):
        assert float((drawn == label).float().mean()) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("balanced", [False, True])
def test_tiers_get_their_shares(balanced):
    features, labels, _ = numbered(1, (40, 50), classes=1)
    tiers = torch.zeros_like(labels)
    tiers[..., 10:], tiers[..., 45:] = 1, 2
    labels[..., :3, :] = 1
    if balanced:
        tiers[..., :3, :] = tiers[..., :3, :].clamp_max(1)  # no high tier in the rare class
    sampler, seen = DrawnPixels(12, balanced, (0.2, 0.3, 0.5)), {}
    for images, _, _ in drawn_places(sampler, features, labels, None, tiers):
        for _, i, j in images[0]:
            key = int(labels[0, 0, i, j]), int(tiers[0, 0, i, j])
            seen[key] = seen.get(key, 0) + 1 / 3600
    wanted = {(0, 0): 0.1, (0, 1): 0.15, (0, 2): 0.25, (1, 0): 0.2, (1, 1): 0.3}
    if not balanced:
        wanted = {
            (label, tier): p * (3, 37)[1 - label] / 40 for label in (0, 1) for tier, p in enumerate((0.2, 0.3, 0.5))
        }
    assert seen.keys() == wanted.keys()
    for key, share in wanted.items():
        assert seen[key] == pytest.approx(share, abs=0.03)


def test_a_tier_without_share_is_never_drawn():
    features, labels, _ = numbered(1)
    tiers = labels.clone()
    for images, _, valid in drawn_places(DrawnPixels(35, shares=(0, 0.5, 0.5)), features, labels, None, tiers, times=5):
        assert {int(tiers[0, 0, i, j]) for _, i, j in images[0]} == {1, 2}
        assert int(valid.sum()) == int((tiers > 0).sum())


def test_the_loss_takes_the_draw():
    features, labels, _ = numbered()
    features, tiers = features.double(), labels.clone()
    sampler = DrawnPixels(8, shares=(0.2, 0.4, 0.4))
    x, y, valid = chosen(sampler, features, labels, labels != 2, tiers)
    sampler.set_epoch(0)
    got = PixelSupConLoss(sampler=sampler, ignore_index=2)(features, labels, tiers1=tiers)
    assert float(got) == pytest.approx(float(PixelSupConLoss(ignore_index=2)(x, y.where(valid, 2))))


def test_an_epoch_is_drawn_alike_by_all_that_have_the_seed():
    def epochs(seed, first):
        sampler = copy.deepcopy(DrawnPixels(8, seed=seed))
        for epoch in range(first, 3):
            sampler.set_epoch(epoch)
            yield [sampler(*numbered()[1:])[0] for _ in range(2)]

    whole, resumed, other = (list(epochs(*which)) for which in ((5, 0), (5, 1), (6, 0)))
    torch.testing.assert_close(whole[1:], resumed)
    draws = [draw for epoch in (*whole, *other) for draw in epoch]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StridePixels(0), "`stride` must be a whole number of at least 1"),
        (lambda: StridePixels(1.5), "`stride` must be a whole number of at least 1, or one for each axis, got 1.5"),
        (lambda: StridePixels("4"), "`stride` must be a whole number of at least 1"),
        (lambda: BlockPixels((2, 0)), "`size` must be a whole number of at least 1"),
        (lambda: BlockPixels([]), "`size` must be a whole number of at least 1"),
        (lambda: DrawnPixels(0), "`pixels_per_image` must be a whole number of at least 1"),
        (lambda: DrawnPixels("9"), "`pixels_per_image` must be a whole number of at least 1"),
        (lambda: DrawnPixels(5, seed=-1), "`seed` must be a non-negative integer"),
        (lambda: DrawnPixels(5, seed=0.5), "`seed` must be a non-negative integer"),
        (lambda: DrawnPixels(5, shares=(0.5, 0.5)), "`shares` must be three shares"),
        (lambda: DrawnPixels(5, shares=(0.5, 0.5, 0.5)), "`shares` must be three shares"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("sampler", "maps", "message"),
    [
        (StridePixels((1, 2, 3)), lambda y, v: (y, v), "`stride` must be one number, or one for each of 2"),
        (BlockPixels((1, 2, 3)), lambda y, v: (y, v), "`size` must be one number, or one for each of 2"),
        (StridePixels(2), lambda y, v: (y[:, 0, 0], v), r"`labels` must be of shape \(B, 1, \*S\), got shape \(2, 7\)"),
        (BlockPixels(2), lambda y, v: (y, v.int()), "`valid` must be bool"),
        (BlockPixels(2), lambda y, v: (y, v[..., 1:]), "`valid` must be bool of shape"),
        (DrawnPixels(2, shares=(0, 0, 1)), lambda y, v: (y, v), "`tiers` must be given"),
        (DrawnPixels(2, shares=(0, 0, 1)), lambda y, v: (y, v, y + 1), "`tiers` must be 0, 1 or 2, got from 1 to 3"),
        (DrawnPixels(2, shares=(0, 0, 1)), lambda y, v: (y, v, y[..., 1:]), "`tiers` must be"),
        (DrawnPixels(2, shares=(0, 0, 1)), lambda y, v: (y, v, y.flatten()), "`tiers` must be"),
    ],
)
def test_bad_input_is_named(sampler, maps, message):
    with pytest.raises(ValueError, match=message):
        sampler(*maps(*numbered()[1:]))
