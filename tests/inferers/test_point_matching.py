from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, normalize

from monai_infoaug.inferers import _coarse_to_fine, match_points, point_matching


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels_of(batch: int, size: tuple[int, ...], strides: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    shapes = [[-(-s // stride) for s in size] for stride in strides]
    return [normalize(random(batch, 4, *shape, seed=seed + i), dim=1) for i, shape in enumerate(shapes)]


def of_cosines(cosines: torch.Tensor) -> torch.Tensor:
    """A level (1, 2, *cells) of unit norm with these cosines to that of cosine 1."""
    return torch.stack([cosines, (1 - cosines.square()).sqrt()]).float()[None]


def read(level: np.ndarray, voxel: np.ndarray, stride: int) -> np.ndarray:
    """Features (F,) of one voxel, interpolated corner by corner."""
    size = np.array(level.shape[1:])
    cell = ((np.asarray(voxel) + 0.5) / stride - 0.5).clip(0, size - 1)
    base, total = np.floor(cell).astype(int), 0.0
    for corner in itertools.product((0, 1), repeat=len(size)):
        index = np.minimum(base + corner, size - 1)
        total = total + np.prod(1 - abs(cell - base - corner)) * level[(slice(None), *index)]
    return total


def similarity(template, point, query, strides, weights) -> np.ndarray:
    """Weighted mean over levels of the cosine with one template's point, for every cell of the finest level in use."""
    finest = min(range(len(strides)), key=lambda i: (not weights[i], strides[i]))
    found = np.zeros(query[finest].shape[1:])
    for mine, its, stride, weight in zip(template, query, strides, weights, strict=True):
        descriptor = read(mine, point, stride)
        descriptor = descriptor / np.linalg.norm(descriptor)
        for cell in np.ndindex(*found.shape):
            voxel = strides[finest] * np.array(cell) + (strides[finest] - 1) / 2
            found[cell] += weight / sum(weights) * descriptor @ read(its, voxel, stride)
    return found


def refined(found: np.ndarray) -> np.ndarray:
    """The largest cell, moved along each axis to the vertex of the parabola through it and its neighbours."""
    peak = np.unravel_index(found.argmax(), found.shape)
    place = np.array(peak, float)
    for axis, p in enumerate(peak):
        if 0 < p < found.shape[axis] - 1:
            a, b, _ = np.polyfit(
                [-1, 0, 1], np.moveaxis(found, axis, 0)[(slice(p - 1, p + 2), *np.delete(peak, axis))], 2
            )
            place[axis] += -b / (2 * a)
    return place


@pytest.mark.parametrize("weights", [None, (1, 3), (0, 2), (0.5, 0.0)])
@pytest.mark.parametrize(("size", "template_size"), [((11, 9), (8, 13)), ((6, 5, 7), (4, 8, 5))])
def test_equals_brute_force(size, template_size, weights):
    strides = (2, 4)
    template, query = levels_of(2, template_size, strides, seed=0), levels_of(2, size, strides, seed=9)
    points = torch.rand(2, 3, len(size), generator=torch.Generator().manual_seed(1)) * (torch.tensor(template_size) - 1)
    points[1, 0] = torch.nan  # the second template does not show it
    points[:, 2] = torch.nan  # none does
    found, scores = match_points(template, points, query, strides, size, weights)
    for b in range(2):
        for n, voters in enumerate([(0,), (0, 1)]):
            votes = [
                similarity(
                    [m[t] for m in map(np.asarray, template)],
                    points[t, n].numpy(),
                    [q[b] for q in map(np.asarray, query)],
                    strides,
                    weights or (1, 1),
                )
                for t in voters
            ]
            expected = np.mean(votes, axis=0)
            assert scores[b, n].item() == pytest.approx(expected.max(), abs=1e-5)
            stride = strides[1] if weights == (0, 2) else strides[0]
            place = (stride * refined(expected) + (stride - 1) / 2).clip(0, np.array(size) - 1)
            np.testing.assert_allclose(found[b, n], place, atol=1e-3)
    assert found[:, 2].isnan().all()
    assert scores[:, 2].isnan().all()


@pytest.mark.parametrize("centre", [(4.3, 2.5, 3.25), (1.0, 4.9, 2.2), (3.0, 3.0, 3.0)])
@pytest.mark.parametrize("dims", [2, 3])
def test_peak_of_a_parabola_is_found_to_a_fraction_of_a_voxel(dims, centre):
    size, centre = (8, 7, 6)[:dims], centre[:dims]
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    bowl = 1 - 0.01 * ((grid - centre) ** 2 * (1, 2, 3)[:dims]).sum(-1)
    query = of_cosines(torch.as_tensor(bowl))
    found, _ = match_points([of_cosines(torch.ones([1] * dims))], torch.zeros(1, 1, dims), [query], (1,), size)
    np.testing.assert_allclose(found[0, 0], centre, atol=1e-3)


@pytest.mark.parametrize("size", [(5, 1), (1, 5), (5, 2), (2, 5)])
@pytest.mark.parametrize("end", [0, -1])
def test_peak_at_the_border_stays_in_the_image(size, end):
    cosines = torch.zeros(size)
    cosines[end, end] = 1
    template, query = of_cosines(torch.ones(1, 1)), of_cosines(cosines)
    found, scores = match_points([template], torch.zeros(1, 1, 2), [query], (1,), size)
    assert found[0, 0].tolist() == [end % size[0], end % size[1]]
    assert scores.item() == 1


def test_flat_similarity_gives_a_finite_place():
    levels = [torch.ones(1, 1, 4, 4)]
    found, scores = match_points(levels, torch.zeros(1, 1, 2), levels, (1,), (4, 4))
    assert found.isfinite().all()
    assert scores.item() == 1


@pytest.mark.parametrize("patch_radius", [None, 4.0])
@pytest.mark.parametrize("size", [(40, 36), (16, 14, 12)])
def test_norms_of_embeddings_do_not_matter(size, patch_radius):
    """As in any network of one's own; and a network that normalises gets what it got, bit by bit."""
    template, query = levels_of(2, size, (2, 4), seed=0), levels_of(2, size, (2, 4), seed=9)
    query[0][:, :, : size[0] // 4] = 0  # padding has no direction
    points = torch.rand(2, 6, len(size), generator=torch.Generator().manual_seed(1)) * (torch.tensor(size) - 1)
    expected = match_points(template, points, query, (2, 4), size, patch_radius=patch_radius)
    loud = [level * (5 + 4 * random(len(level), 1, *level.shape[2:], seed=5).tanh()) for level in query]
    found = match_points([7 * level for level in template], points, loud, (2, 4), size, patch_radius=patch_radius)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    for level in query:
        assert point_matching.of_unit_norm(level) is level
        assert point_matching.of_unit_norm(level.bfloat16()).dtype == torch.bfloat16


def test_norms_are_looked_at_everywhere():
    """Not along the border alone, whose cells may be zeros."""
    level = torch.zeros(1, 4, 32, 32, 32)
    level[:, :, 10:20, 10:20, 10:20] = 3.0
    torch.testing.assert_close(point_matching.of_unit_norm(level), normalize(level, dim=1))
    level = torch.zeros(1, 4, 300, 300)
    level[:, :, 150, 151] = 3.0  # not in the sample
    torch.testing.assert_close(point_matching.of_unit_norm(level), normalize(level, dim=1))
    half = torch.full((1, 4, 5, 5), 1e-4, dtype=torch.float16)
    torch.testing.assert_close(point_matching.of_unit_norm(half).norm(dim=1), torch.ones(1, 5, 5))


@pytest.mark.parametrize("weights", [(1, "1"), (1, torch.nan), (1, -1), (0, 0), (True, True), (1,)])
def test_weights_of_levels_are_numbers(weights):
    levels = levels_of(1, (12, 10), (2, 4), seed=0)
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers of at least 0, one a level, not all 0"):
        match_points(levels, torch.zeros(1, 1, 2), levels, (2, 4), (12, 10), weights)
    with pytest.raises(ValueError, match=r"`chunk` must be a whole number of at least 1, or None, got 2\.5"):
        match_points(levels, torch.zeros(1, 1, 2), levels, (2, 4), (12, 10), chunk=2.5)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunk_does_not_matter(chunk):
    strides, size = (2, 4), (12, 10)
    template, query = levels_of(1, size, strides, seed=0), levels_of(3, size, strides, seed=9)
    points = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(1)) * 9
    found, scores = match_points(template, points, query, strides, size, chunk=5)
    again, again_scores = match_points(template, points, query, strides, size, chunk=chunk)
    torch.testing.assert_close((again, again_scores), (found, scores))


@pytest.mark.parametrize("chunk", [None, 2])
def test_never_holds_all_maps(monkeypatch, chunk):
    largest = 0

    def measured(maps: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        nonlocal largest
        out = interpolate(maps, *args, **kwargs)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(_coarse_to_fine, "interpolate", measured)
    monkeypatch.setattr(point_matching, "CACHED_CELLS", 700)
    strides, size = (2, 4), (12, 14, 10)  # 210 cells
    levels = levels_of(1, size, strides, seed=0)
    match_points(levels, torch.rand(1, 50, 3) * 9, levels, strides, size, chunk=chunk)
    assert largest <= (3 if chunk is None else chunk) * 8 * 4 * 4 * 3  # before the padded cells are cut off
