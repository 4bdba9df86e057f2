"""Search from coarse to fine, against the search of every cell."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from monai_infoaug._grid import level_features
from monai_infoaug.inferers import LandmarkMatcher, _coarse_to_fine, _consensus, _patch_search, match_points
from monai_infoaug.inferers._coarse_to_fine import CoarseToFine, descriptors
from monai_infoaug.inferers.point_matching import _match_alone
from tests.inferers.test_consensus import inner_points, levels, random, smooth, turned


def pyramid(image: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Levels of strides 1, 2, 4, ..."""
    pool = torch.nn.functional.avg_pool2d if image.ndim == 4 else torch.nn.functional.avg_pool3d
    return [normalize(pool(image, 2**i, ceil_mode=True), dim=1) for i in range(count)]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("size", "blocks"), [((61, 52), 300), ((61, 52), 10**6), ((20, 25, 22), 100)])
def test_finds_what_a_search_of_every_cell_finds(size, blocks, dense, monkeypatch):
    monkeypatch.setattr(_coarse_to_fine, "BLOCKS", blocks)
    monkeypatch.setattr(_coarse_to_fine, "DENSE", 10**9 if dense else 0)
    monkeypatch.setattr(_coarse_to_fine, "AT_ONCE", 7)
    template = smooth(size)
    query, *_ = turned(template, 0.3, [3.0, -2.0, 1.0][: len(size)])
    strides, shares, points = (1, 2, 4), (0.2, 0.5, 0.3), inner_points(size, 20, 2)
    mine, its = pyramid(template, 3), pyramid(query, 3)
    found = CoarseToFine(its, strides, shares).find(descriptors(mine, strides, shares, points))
    expected, _ = _match_alone(mine, points[None], its, strides, size, shares, None)
    torch.testing.assert_close(found.maximum(torch.zeros(())), expected[0], atol=1e-3, rtol=0)


def test_blocks_are_no_larger_than_cells_of_half_of_the_weight():
    its = pyramid(smooth((200, 100)), 4)
    for shares, count in (((1, 0, 0, 0), 1), ((0.5, 0.5, 0, 0), 1), ((0.4, 0.6, 0, 0), 2), ((0.1, 0.1, 0.1, 0.7), 3)):
        assert len(CoarseToFine(its, (1, 2, 4, 8), shares).grids) == count


@pytest.mark.parametrize(("size", "stride"), [((9, 12), 2.0), ((6, 1, 7), 1.0)])
def test_patches_are_read_as_levels_are(size, stride):
    level, at = random(5, *size), 30 * random(4, 3, len(size), seed=1)
    [features] = _consensus._read((level,), at, stride)
    expected = level_features(level[None], at.reshape(1, -1, len(size)), stride).reshape(4, 3, -1)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


def slow_affine(points, found, scale):
    """`robust_affine` by the pseudo-inverse of all rows."""
    known = torch.cat([points, torch.ones_like(points[:, :1])], dim=1).double()
    weights = torch.ones_like(known[:, :1])
    for _ in range(_consensus.ITERATIONS):
        solution = torch.linalg.pinv(weights * known) @ (weights * found.double())
        distance = (known @ solution - found).norm(dim=1, keepdim=True)
        weights = 1 / (1 + (distance / distance.median().clamp_min(scale)).square())
    return solution[:-1].T.float(), solution[-1].float()


@pytest.mark.parametrize("size", [(150, 130), (32, 36, 30)])
def test_places_are_those_of_the_slow_way(size, monkeypatch):
    """19 landmarks by patches: every cell searched, and the robust fits by the pseudo-inverse of all rows."""
    template = smooth(size) + 0.2 * random(1, 6, *size)
    query, *_ = turned(template, 0.2, [3.0, -2.0, 1.0][: len(size)])
    mine, its = pyramid(template, 3), pyramid(query + 0.1 * random(*query.shape, seed=3), 3)
    points = inner_points(size, 19, 8)[None]
    given = mine, points, its, (1, 2, 4), size
    monkeypatch.setattr(_coarse_to_fine, "BLOCKS", 300)
    found, scores = match_points(*given, patch_radius=5)

    def everywhere(searched: CoarseToFine, described: torch.Tensor) -> torch.Tensor:
        support = _patch_search.PatchImage(mine, (1, 2, 4), None).support
        return _match_alone(mine[1:], support[None], its[1:], (2, 4), size, None, None)[0][0]

    monkeypatch.setattr(CoarseToFine, "find", everywhere)
    monkeypatch.setattr(_patch_search, "robust_affine", slow_affine)
    expected, expected_scores = match_points(*given, patch_radius=5)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(scores, expected_scores, atol=1e-3, rtol=0)


def test_what_is_made_of_an_embedding_is_made_once(monkeypatch):
    class Net(torch.nn.Module):
        strides = (1, 2)

        def forward(self, image):
            return levels(image)

    made, usual = [], _patch_search.salience
    monkeypatch.setattr(_patch_search, "salience", lambda level: made.append(level) or usual(level))
    image = smooth((40, 44))
    matcher, net = LandmarkMatcher(image, inner_points((40, 44), 3, 10), patch_radius=5), Net()
    first = matcher(image, net)
    torch.testing.assert_close(matcher(image, net), first)
    assert len(made) == 1
