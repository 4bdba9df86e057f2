"""What the samplers choose from odd labels, against loops."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st

from monai_infoaug.samplers import BlockPixels, DistributionAlignment, DrawnPixels, ReliablePixels, StridePixels
from tests.fuzz.fuzzing import REFUSED, as_numpy, fuzz, odd_values, outcome, seeds

TYPES = st.sampled_from([torch.int64, torch.uint8, torch.float32, torch.bool, torch.int16])


@st.composite
def cases(draw: st.DrawFn):
    """Labels (B, 1, *S), which are valid, and their tiers."""
    shape = (draw(st.integers(1, 3)), 1, *draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    random = np.random.default_rng(draw(seeds))
    labels = torch.from_numpy(random.integers(0, 3, shape)).to(draw(TYPES))
    valid = draw(st.sampled_from([None, torch.from_numpy(random.random(shape) < 0.7), torch.zeros(shape).bool()]))
    return (
        labels,
        valid,
        torch.from_numpy(random.integers(0, 3, shape)).to(draw(TYPES.filter(lambda t: t != torch.bool))),
    )


@fuzz(case=cases(), every=st.sampled_from([1, 2, 3, 9, (2, 1), (1, 2, 3), 0, 1.5]), blocks=st.booleans())
def test_strides_and_blocks(case, every, blocks):
    labels, valid, _ = case
    size, there = labels.shape[2:], np.ones(labels.shape, bool) if valid is None else valid.numpy()
    found = outcome(lambda: (BlockPixels if blocks else StridePixels)(every)(labels, valid))
    sides = [every] * len(size) if isinstance(every, int) else list(every) if isinstance(every, tuple) else []
    good = len(sides) == len(size) and min(sides) > 0
    assert (found is not REFUSED) == good
    if not good:
        return
    places, has_part = (each.numpy() for each in found)
    for image, own in enumerate(there.reshape(len(labels), -1)):
        if blocks:
            for numbers, kept in zip(places[image], has_part[image], strict=True):
                at = np.stack(np.unravel_index(numbers[kept], size)) // np.array(sides)[:, None]
                assert (at == at[:, :1]).all()
            assert sorted(places[image][has_part[image]]) == own.nonzero()[0].tolist()
        else:
            at = np.stack(np.unravel_index(np.arange(own.size), size)) % np.array(sides)[:, None]
            numbers = (at == 0).all(0).nonzero()[0]
            assert places[image].tolist() == [numbers.tolist()]
            assert has_part[image].tolist() == [own[numbers].tolist()]


@fuzz(case=cases(), count=st.sampled_from([1, 5, 500]), balanced=st.booleans(), seed=st.integers(0, 5))
def test_draws_are_of_valid_pixels_of_the_wanted_tiers(case, count, balanced, seed):
    labels, valid, tiers = case
    for shares in (None, (0.5, 0.0, 0.5), (0.0, 1.0, 0.0)):
        draws = DrawnPixels(count, balanced, shares, seed)
        found = outcome(lambda draws=draws, shares=shares: draws(labels, valid, tiers if shares else None))
        assert found is not REFUSED
        places, there = (each.numpy()[:, 0] for each in found)
        assert places.shape == (len(labels), count)
        allowed = np.ones(labels.shape, bool) if valid is None else valid.numpy()
        allowed = allowed & (np.array(shares or (1, 1, 1))[tiers.numpy().astype(int)] > 0)
        for image, own in enumerate(allowed.reshape(len(labels), -1)):
            chosen = places[image][there[image]]
            assert own[chosen].all()
            assert len(set(chosen)) == len(chosen) == min(count, own.sum())
        again = outcome(lambda shares=shares: DrawnPixels(count, balanced, shares, seed)(labels, valid, tiers))
        assert torch.equal(again[0], found[0])


@fuzz(
    data=st.data(),
    share=st.sampled_from([0.01, 0.3, 1.0]),
    at_least=st.sampled_from([0.0, 0.5, 1.0]),
    tiered=st.booleans(),
)
def test_reliable_pixels_are_the_surest_of_each_class_and_tier(data, share, at_least, tiered):
    b, c = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 4))
    size = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    random = np.random.default_rng(data.draw(seeds))
    logits = random.normal(size=(b, c, *size)) * 2
    probabilities = torch.from_numpy(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).float()
    tiers = torch.from_numpy(random.integers(0, 3, (b, 1, *size))) if tiered else None
    reliable = ReliablePixels(share, at_least)
    outcome(lambda: reliable.update(probabilities, tiers))
    found = outcome(lambda: reliable(probabilities, tiers))
    sure, classes = (each.numpy() for each in probabilities.max(1, keepdim=True))
    kinds = classes + c * (0 if tiers is None else tiers.numpy())
    expected = np.full(classes.shape, -1)
    for kind in np.unique(kinds):
        own = np.sort(sure[kinds == kind])[::-1]
        least = max(at_least, own[max(1, round(share * len(own))) - 1])
        expected[(kinds == kind) & (sure >= np.float32(least))] = kind % c
    assert np.array_equal(found.numpy(), expected)


@fuzz(
    data=st.data(),
    shares=st.sampled_from([None, (1, 2), (0.2, 0.3, 0.5), (1.0,)]),
    strength=st.sampled_from([0.0, 1.0]),
)
def test_aligned_classes_have_the_expected_shares(data, shares, strength):
    b, c = data.draw(st.integers(1, 2)), data.draw(st.integers(2, 4))
    size = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    random = np.random.default_rng(data.draw(seeds))
    probabilities = random.random((b, c, *size)) + 0.05
    probabilities = torch.from_numpy(probabilities / probabilities.sum(1, keepdims=True))
    if data.draw(st.integers(0, 5)) == 0:
        probabilities[:, 1:], probabilities[:, :1] = 0, 1
    alignment = DistributionAlignment(strength, shares)
    found = outcome(lambda: (alignment.update(probabilities), alignment(probabilities))[1])
    assert (found is not REFUSED) == (shares is None or len(shares) == c - 1)
    if found is REFUSED:
        return
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, 0], probabilities[:, 0], atol=1e-6)
    given, mean = as_numpy(probabilities), as_numpy(found).mean((0, *range(2, 2 + len(size))))[1:]
    if strength == 0 or not given[:, 1:].any():
        np.testing.assert_allclose(as_numpy(found), given, atol=1e-4)
    else:
        wanted = np.array(shares or [1] * (c - 1)) / sum(shares or [1] * (c - 1))
        np.testing.assert_allclose(mean / mean.sum(), wanted, atol=2e-3)


@fuzz(data=st.data(), which=st.integers(0, 3))
def test_odd_arguments_of_a_call(data, which):
    labels = torch.zeros(2, 1, 4, 4)
    sampler = [StridePixels(2), BlockPixels(2), DrawnPixels(3), DrawnPixels(3, shares=(0.2, 0.3, 0.5))][which]
    shapes = [(2, 1, 4, 4), (1, 1, 4, 4), (2, 4, 4), (2, 2, 4, 4), (0, 1, 4, 4), (2, 1, 16), (2,), ()]
    odd = [torch.full(shape, value) for shape in shapes for value in (True, 0, 2, 0.5, 7)]
    given = [labels, labels == 0, labels]
    given[data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(odd))
    found = outcome(lambda: sampler(*given))
    assert found is REFUSED or found[0].shape == found[1].shape


@fuzz(data=st.data(), which=st.booleans())
def test_numbers_of_epochs(data, which):
    sampler = DrawnPixels(3)
    outcome(lambda: sampler.set_epoch(data.draw(odd_values)))
