from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import avg_pool2d, avg_pool3d, normalize

from monai_infoaug._grid import at_places, directions, level_features, level_shares, plain, sample_at

SIZES = [(7, 5), (4, 6, 5)]


def multilinear(image: np.ndarray, point: np.ndarray, padding: str) -> np.ndarray:
    """(C, *S) interpolated at one point (D,), corner by corner."""
    size = np.array(image.shape[1:])
    if padding == "reflection":  # at the outer faces of the border voxels
        folded = (point + 0.5) % (2 * size)
        point = np.minimum(folded, 2 * size - folded) - 0.5
    if padding != "zeros":
        point = point.clip(0, size - 1)
    base, total = np.floor(point).astype(int), np.zeros(len(image))
    for corner in itertools.product((0, 1), repeat=len(size)):
        index = base + corner
        if ((index >= 0) & (index < size)).all():
            total += np.prod(1 - abs(point - index)) * image[(slice(None), *index)]
    return total


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points_in_and_around(size: tuple[int, ...], number: int, margin: float = 2.0) -> torch.Tensor:
    size = torch.tensor(size, dtype=torch.float64)
    return random(2, number, len(size), seed=1) * (size - 1 + 2 * margin) - margin


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("size", SIZES)
def test_sample_at_equals_brute_force(size, padding):
    image, points = random(2, 3, *size), points_in_and_around(size, 40)
    got = sample_at(image, points.mT.reshape(2, -1, 8, 5), padding_mode=padding)
    assert got.shape == (2, 3, 8, 5)
    expected = [[multilinear(i, p, padding) for p in ps] for i, ps in zip(image.numpy(), points.numpy(), strict=True)]
    np.testing.assert_allclose(got.flatten(2).mT, expected, atol=1e-12)
    single = sample_at(image.float(), points.mT.float(), padding_mode=padding)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, got.flatten(2).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_sample_at_nearest_and_whole_voxels(size):
    image, points = random(2, 3, *size), points_in_and_around(size, 40, margin=0.4)
    got = sample_at(image, points.mT, "nearest")
    for b, n in itertools.product(range(2), range(40)):
        assert torch.equal(got[b, :, n], image[(b, slice(None), *points[b, n].round().long())])
    grid = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).double()
    torch.testing.assert_close(sample_at(image, grid.expand(2, *grid.shape)), image)


@pytest.mark.parametrize("stride", [1, 2, 8])
@pytest.mark.parametrize("dims", [2, 3])
def test_ramp_averaged_into_cells_is_read_back_exactly(dims, stride):
    slope = random(3, dims, seed=3)  # three features, each a ramp of another direction
    cells = (4, 3, 2)[:dims]
    grid = torch.meshgrid(*(torch.arange(c * stride).double() for c in cells), indexing="ij")
    ramp = torch.einsum("fd,d...->f...", slope, torch.stack(grid))[None]
    level = (avg_pool2d if dims == 2 else avg_pool3d)(ramp, stride)
    first = (stride - 1) / 2  # centre of the first cell; the ramp goes on up to that of the last
    points = first + random(1, 50, dims, seed=4) * stride * (torch.tensor(cells) - 1)
    torch.testing.assert_close(level_features(level, points, stride), points @ slope.T)


@pytest.mark.parametrize("size", SIZES)
def test_level_features_equals_brute_force(size):
    level, stride = random(2, 3, *size), 4
    points = points_in_and_around(tuple(stride * s for s in size), 40, margin=20)
    cells = (points.numpy() + 0.5) / stride - 0.5
    expected = [[multilinear(i, p, "border") for p in ps] for i, ps in zip(level.numpy(), cells, strict=True)]
    np.testing.assert_allclose(level_features(level, points, stride), expected, atol=1e-12)


def test_missing_point_has_no_feature_and_no_gradient():
    level = random(1, 2, 3, 3).requires_grad_()
    features = level_features(level, torch.tensor([[[torch.nan, 1.0], [4.0, 4.0]]]), 2)
    assert torch.equal(features[0, 0], torch.zeros(2))
    features.sum().backward()
    assert level.grad.isfinite().all()
    assert level.grad.sum() == pytest.approx(2)


def test_values_at_places():
    values, places = torch.rand(2, 3, 4, 5, 2), torch.randint(40, (2, 6, 7))
    found = at_places(values, places)
    for b, c, i, j in itertools.product(*map(range, (2, 3, 6, 7))):
        at = np.unravel_index(int(places[b, i, j]), (4, 5, 2))
        assert found[b, c, i, j] == values[(b, c, *at)]


@pytest.mark.parametrize(
    "weights", [[1], [1, -1], [0, 0], [1, "2"], [1, True], [1, None], [1, torch.inf], "11", 2, 1.5, [[1], [2]]]
)
def test_shares_of_levels_are_numbers(weights):
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers of at least 0, one a level, not all 0"):
        level_shares(weights, 2)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_shares_of_levels_in_any_sequence(kind):
    assert level_shares(kind([3.0, 1.0]), 2) == [0.75, 0.25]
    assert level_shares(None, 4) == [0.25] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_directions_are_those_of_normalize_but_for_zeros(dtype):
    features = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    weights = torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for function in (directions, lambda x, dim: normalize(x.to(torch.promote_types(dtype, torch.float32)), dim=dim)):
        leaf = features.clone().requires_grad_()
        made = function(leaf, 1)
        results.append((made, *torch.autograd.grad((made * weights).sum(), leaf)))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    zero = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
    made = directions(zero)
    assert not made.any()
    assert not torch.autograd.grad(made.sum(), zero)[0].any()


def test_directions_of_what_is_next_to_nothing_in_half_precision():
    """As short as they came, else their gradient is none that half precision can say."""
    short = torch.full((1, 4), 2.0**-24, dtype=torch.float16, requires_grad=True)
    for made in (directions(short), directions(short.float(), half=True)):
        assert 0 < made.norm() < 0.01
        assert torch.autograd.grad(made.sum(), short)[0].isfinite().all()
    assert directions(short.float()).norm() == 1


def test_plain_tensors_stay_and_metadata_go():
    values = torch.zeros(1, 2)
    assert plain(values) is values
    assert type(plain(MetaTensor(values))) is torch.Tensor
