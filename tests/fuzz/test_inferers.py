"""Matching and detecting: what can be told from how the images were made."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import nn
from torch.nn.functional import normalize

from monai_infoaug.inferers import HeatmapDetector, LandmarkMatcher, match_points, to_voxels, to_world
from tests.fuzz.fuzzing import REFUSED, as_numpy, fuzz, odd_images, odd_values, outcome, seeds


class Places(nn.Module):
    """Random embeddings of the cells of an image of one size, the same each time: only a cell is like itself."""

    strides = (1, 2)

    def forward(self, images):
        return [torch.cat([level(images.shape[2:], stride)] * len(images)).to(images) for stride in self.strides]


def level(size, stride, features=24):
    cells = [-(-n // stride) for n in size]
    generator = torch.Generator().manual_seed(sum(cells) + stride)
    return normalize(torch.randn(1, features, *cells, generator=generator), dim=1)


def affines(dims):
    """An affine that can be inverted: turned, sheared, scaled and mirrored."""

    def made(seed, scale):
        random = np.random.default_rng(seed)
        affine = np.eye(dims + 1)
        affine[:dims, :dims] = np.linalg.qr(random.normal(size=(dims, dims)))[0] * scale
        affine[0, 1] += 0.1 * scale
        affine[:dims, -1] = random.normal(size=dims) * 50
        return affine

    return st.builds(made, seeds, st.sampled_from([0.1, 1.0, 5.0]))


@fuzz(data=st.data(), dims=st.sampled_from([2, 3]), double=st.booleans())
def test_voxels_and_millimetres_are_inverse(data, dims, double):
    affine = data.draw(affines(dims))
    image = MetaTensor(torch.zeros(1, *[4] * dims), affine=torch.from_numpy(affine))
    random = np.random.default_rng(data.draw(seeds))
    points = torch.from_numpy(random.uniform(-5, 20, (data.draw(st.integers(0, 5)), dims)))
    points = points[None] if double else points.float()[None]
    world = outcome(lambda: to_world(points, image))
    expected = as_numpy(points) @ affine[:dims, :dims].T + affine[:dims, -1]
    np.testing.assert_allclose(as_numpy(world), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(as_numpy(outcome(lambda: to_voxels(world, image))), as_numpy(points), atol=2e-2)


@fuzz(data=st.data(), dims=st.sampled_from([2, 3]), chunk=st.sampled_from([None, 1, 2]), world=st.booleans())
def test_a_self_match_finds_its_points(data, dims, chunk, world):
    size = data.draw(st.tuples(*[st.integers(4, 20 if dims == 2 else 8)] * dims))
    random = np.random.default_rng(data.draw(seeds))
    points = torch.from_numpy(random.integers(0, size, (data.draw(st.integers(1, 5)), dims))).float()
    points[torch.from_numpy(random.random(len(points)) < 0.2)] = torch.nan
    image = MetaTensor(torch.zeros(1, *size), affine=torch.from_numpy(data.draw(affines(dims))))
    landmarks = to_world(points[None], image)[0] if world else points
    weights = data.draw(st.sampled_from([None, (1, 0), (3.0, 1.0)]))
    matcher = LandmarkMatcher(image, landmarks, world, weights, chunk)
    found = outcome(lambda: matcher(image[None], Places().eval()))
    assert found is not REFUSED
    there = points.isfinite().all(1).numpy()
    assert np.array_equal(found["landmarks"][0].isfinite().all(1), there)
    assert (found["landmarks"][0] - points)[there].abs().max() < 0.75 if there.any() else True
    assert found["scores"][0][there].min() > 0.5 if there.any() else True
    np.testing.assert_allclose(
        as_numpy(found["world"][0][there]), as_numpy(to_world(found["landmarks"], image))[0][there], atol=1e-2
    )


class Heat(nn.Module):
    """Gaussians around points, as logits of cells."""

    def __init__(self, points, stride, sigma):
        super().__init__()
        self.points, self.stride, self.sigma = points, stride, sigma

    def forward(self, images):
        cells = [self.stride * torch.arange(-(-n // self.stride)) + (self.stride - 1) / 2 for n in images.shape[2:]]
        grid = torch.stack(torch.meshgrid(*cells, indexing="ij"))
        squares = [((grid - p.view(-1, *[1] * len(p))) ** 2).sum(0) for p in self.points]
        return (torch.stack(squares) / (-2 * self.sigma**2))[None].expand(
            len(images), *[-1] * (len(squares[0].shape) + 1)
        )


@fuzz(
    data=st.data(), dims=st.sampled_from([2, 3]), stride=st.sampled_from([1, 2, 4]), sigma=st.sampled_from([1.0, 4.0])
)
def test_a_detector_finds_the_middle_of_a_gaussian(data, dims, stride, sigma):
    size = data.draw(st.tuples(*[st.integers(5 * stride, 6 * stride)] * dims))
    random = np.random.default_rng(data.draw(seeds))
    points = torch.from_numpy(random.uniform(1.5 * stride, np.array(size) - 2.5 * stride, (3, dims))).float()
    found = outcome(lambda: HeatmapDetector()(torch.zeros(2, 1, *size), Heat(points, stride, sigma)))
    np.testing.assert_allclose(found["landmarks"], points.expand(2, 3, dims), atol=1e-2)
    assert ((found["scores"] >= 0) & (found["scores"] <= 1)).all()


@fuzz(data=st.data(), detector=st.booleans())
def test_odd_images_are_matched_or_refused(data, detector):
    image, values = data.draw(odd_images(least=3))
    if not isinstance(image, torch.Tensor):
        return
    dims = image.ndim - 1
    if detector:
        found = outcome(lambda: HeatmapDetector()(image[None], Heat(torch.ones(1, dims), 1, 1.0)))
    else:
        found = outcome(lambda: LandmarkMatcher(image, torch.ones(1, dims))(image[None], Places()))
    assert (found is not REFUSED) == bool(np.isfinite(values).all())


@fuzz(data=st.data(), argument=st.sampled_from(["weights", "chunk", "patch_radius"]))
def test_odd_settings_of_a_search(data, argument):
    levels, points = [level((6, 6), stride) for stride in (1, 2)], torch.ones(1, 2, 2)
    found = outcome(lambda: match_points(levels, points, levels, (1, 2), (6, 6), **{argument: data.draw(odd_values)}))
    if found is not REFUSED:
        assert found[0].isfinite().all()


@fuzz(data=st.data())
def test_odd_landmarks_of_a_matcher(data):
    image = torch.rand(1, 6, 6)
    landmarks = data.draw(
        st.sampled_from(
            [[[1, 2]], [[1, 2, 3]], [[7, 1]], [[-0.5, 5.5]], [[-0.6, 1]], [], [[torch.nan] * 2], [1, 2], [[1e9, 1]]]
        )
    )
    found = outcome(lambda: LandmarkMatcher(image, torch.tensor(landmarks).float())(image[None], Places()))
    assert (found is not REFUSED) == (landmarks in ([[1, 2]], [[-0.5, 5.5]]) or str(landmarks) == "[[nan, nan]]")
