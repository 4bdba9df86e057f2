from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from monai_infoaug._grid import sample_at
from monai_infoaug.inferers import LandmarkMatcher, _consensus, _patch_search, match_points
from monai_infoaug.inferers._consensus import compare_patches, local_places, robust_affine, salience, support_points


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(size: tuple[int, ...], channels: int = 6, seed: int = 0) -> torch.Tensor:
    """(1, channels, *size) waves, of a period that no other place within the image repeats."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"), dim=-1)
    waves, phases = random(len(size), channels, seed=seed) * 0.25, 3 * random(channels, seed=seed + 1)
    return (grid @ waves + phases).sin().movedim(-1, 0)[None]


def turned(image: torch.Tensor, angle: float, shift: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image turned in its first two axes and shifted, with the map from its voxels to the new ones."""
    size = torch.tensor(image.shape[2:])
    linear = torch.eye(len(size))
    linear[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (size - 1) / 2
    offset = centre - linear @ centre + torch.tensor(shift)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"), dim=-1)
    places = (grid - offset) @ torch.linalg.inv(linear).T
    return sample_at(image, places.movedim(-1, 0)[None], padding_mode="border"), linear, offset


def bent(image: torch.Tensor, far: float, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An image moved along its last axis by up to ``far``, as a wave along its first, and its points' new places."""

    def moved(places: torch.Tensor, far: float) -> torch.Tensor:
        wave = far * (2 * torch.pi * places[..., 0] / image.shape[2]).sin()
        return torch.cat([places[..., :-1], places[..., -1:] + wave[..., None]], dim=-1)

    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in image.shape[2:]], indexing="ij"), dim=-1)
    return sample_at(image, moved(grid, -far).movedim(-1, 0)[None], padding_mode="border"), moved(points, far)


def levels(image: torch.Tensor) -> list[torch.Tensor]:
    """Two levels of strides 1 and 2 that know the image's values."""
    dims = image.ndim - 2
    pool = torch.nn.functional.avg_pool2d if dims == 2 else torch.nn.functional.avg_pool3d
    return [normalize(image, dim=1), normalize(pool(image, 2), dim=1)]


def inner_points(size: tuple[int, ...], count: int, margin: float) -> torch.Tensor:
    draws = torch.rand(count, len(size), generator=torch.Generator().manual_seed(5))
    return margin + draws * (torch.tensor(size) - 1 - 2 * margin)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_robust_affine_follows_the_majority(dims, wrong):
    points, linear, shift = 50 * random(200, dims), torch.eye(dims) + 0.2 * random(dims, dims), 9 * random(dims, seed=2)
    found = points @ linear.T + shift
    bad = int(wrong * len(points))
    found[:bad] = 80 * random(bad, dims, seed=3)
    got_linear, got_shift = robust_affine(points, found, scale=0.5)
    torch.testing.assert_close((got_linear, got_shift), (linear, shift), atol=0.02, rtol=0)
    plain = torch.linalg.lstsq(torch.cat([points, torch.ones(200, 1)], 1), found).solution
    assert ((plain[:dims].T - linear).abs().max() > 0.1) == bool(wrong)


def test_robust_affine_of_points_in_a_line():
    points = torch.stack([torch.arange(9.0), torch.full((9,), 4.0)], dim=1)
    linear, shift = robust_affine(points, points + 3, scale=1.0)
    torch.testing.assert_close(points @ linear.T + shift, points + 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_local_places_are_weighted_least_squares(dims, monkeypatch):
    monkeypatch.setattr(_consensus, "PLACES", 2)  # several turns
    points, at, spread, scale = 30 * random(40, dims), 30 * random(5, dims, seed=1), 20.0, 3.0
    linear, shift = torch.eye(dims) + 0.2 * random(dims, dims, seed=2), random(dims, seed=3)
    found = points @ linear.T + shift + 5 * (points / 20).sin() + random(40, dims, seed=4)
    found[:8] += 60
    got = local_places(points, found, at, linear, shift, spread, scale)
    for place, its in zip(at.double().numpy(), got, strict=True):
        robust = np.ones(len(points))
        for _ in range(_consensus.ITERATIONS):
            # the rows of the matches, then one row of weight 1 a coefficient, which asks for no change of the map
            rows, sides = list(np.eye(dims + 1)), list(np.zeros((dims + 1, dims)))
            for point, match, weight in zip(points.double().numpy(), found.double().numpy(), robust, strict=True):
                offset = (point - place) / spread
                root = np.sqrt(weight * np.exp(-(offset @ offset) / 2))
                rows.append(root * np.append(offset, 1))
                sides.append(root * (match - linear.numpy() @ point - shift.numpy()))
            solution = np.linalg.lstsq(np.array(rows), np.array(sides), rcond=None)[0]
            for n, (point, match) in enumerate(zip(points.double().numpy(), found.double().numpy(), strict=True)):
                change = np.append((point - place) / spread, 1) @ solution
                distance = np.linalg.norm(match - linear.numpy() @ point - shift.numpy() - change)
                robust[n] = 1 / (1 + (distance / scale) ** 2) ** 2
        np.testing.assert_allclose(its, linear.numpy() @ place + shift.numpy() + solution[-1], atol=1e-3)


def test_local_places_without_matches_keep_the_map():
    points = torch.stack([torch.arange(9.0), torch.full((9,), 4.0)], dim=1)  # a line leaves a map open
    linear, shift = torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.tensor([5.0, 2.0])
    at = torch.tensor([[4.0, 4.0], [4.0, 400.0]])
    near, far = local_places(points, points @ linear.T + shift + 2, at, linear, shift, spread=10.0, scale=6.0)
    torch.testing.assert_close(far, linear @ at[1] + shift)
    assert (near - linear @ at[0] - shift - 2).norm() < 0.5


@pytest.mark.parametrize("size", [(9, 12), (7, 8, 9)])
def test_support_points_lie_where_the_embedding_changes(size):
    level = torch.zeros(2, *size)
    level[0] = 1
    level[:, :3] = torch.tensor([0.0, 1.0]).view(2, *[1] * len(size))  # changes between rows 2 and 3
    points = support_points(salience(level), stride=4.0, count=10)
    rows = (points[:, 0] - 1.5) / 4
    assert len(points.unique(dim=0)) == 10
    assert set(rows.tolist()) == {2.0, 3.0}
    assert torch.equal(points, support_points(salience(level), stride=4.0, count=10))
    flat = support_points(salience(torch.ones(2, 3, 3)), stride=1.0, count=100)
    assert len(flat.unique(dim=0)) == 9


@pytest.mark.parametrize("size", [(5, 6), (4, 3, 5)])
def test_salience_is_the_distance_to_the_neighbours(size):
    level = random(3, *size)
    got = salience(level)
    for cell in itertools.product(*map(range, size)):
        beside = [n for n in itertools.product(*map(range, size)) if sum(abs(np.subtract(n, cell))) == 1]
        squares = sum(float((level[(slice(None), *cell)] - level[(slice(None), *n)]).square().sum()) for n in beside)
        assert got[cell].item() == pytest.approx(squares**0.5, rel=1e-5)


@pytest.mark.parametrize(("size", "reach", "search"), [((12, 14), 2, 3), ((9, 10, 11), 1, 2)])
def test_compare_patches_is_a_brute_force_comparison(size, reach, search):
    dims, stride, step = len(size), 2.0, 3.0
    template, query = (normalize(random(4, *size, seed=seed), dim=0) for seed in (0, 9))
    linear = torch.eye(dims) + 0.1 * random(dims, dims, seed=1)
    points = inner_points(tuple(2 * n for n in size), 2, 3)
    places = points + random(2, dims, seed=2)
    salient = 0.1 + random(*size, seed=3).abs()
    got = compare_patches(template, salient, points, query, places, linear, stride, step, reach, search)
    assert got.shape == (2, *[2 * search + 1] * dims)

    def read(level: torch.Tensor, place: np.ndarray) -> np.ndarray:
        last = np.array(level.shape[1:]) - 1
        cell = ((place + 0.5) / stride - 0.5).clip(0, last)
        base, total = np.floor(cell).astype(int), 0.0
        for corner in itertools.product((0, 1), repeat=dims):
            index = tuple(np.minimum(base + corner, last))
            total = total + np.prod(1 - abs(cell - base - corner)) * level[(slice(None), *index)].numpy()
        return total

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / np.linalg.norm(vector)

    patch = [step * np.array(o) for o in itertools.product(range(-reach, reach + 1), repeat=dims)]
    gaussian = np.array([np.exp(-(o @ o) / (2 * (reach * step / 2) ** 2)) for o in patch])
    for point, place, similarities in zip(points.numpy(), places.numpy(), got, strict=True):
        weights = gaussian * [read(salient[None], point + o)[0] for o in patch]
        mine = [unit(read(template, point + o)) for o in patch]
        for index in itertools.product(range(2 * search + 1), repeat=dims):
            move = step * (np.array(index) - search)
            its = [unit(read(query, place + linear.numpy() @ (o + move))) for o in patch]
            cosines = [a @ b for a, b in zip(mine, its, strict=True)]
            assert similarities[index].item() == pytest.approx(np.average(cosines, weights=weights), abs=1e-5)


@pytest.mark.parametrize(("size", "shift"), [((60, 52), [3.0, -2.0]), ((32, 36, 30), [2.0, -1.0, 1.5])])
def test_finds_points_of_a_turned_image_to_a_fraction_of_a_voxel(size, shift):
    template = smooth(size)
    query, linear, offset = turned(template, 0.3, shift)
    points = inner_points(size, 6, 10)
    truth = points @ linear.T + offset
    both = levels(template), levels(query)
    found, scores = match_points(both[0], points[None], both[1], (1, 2), size, patch_radius=5)
    assert (found[0] - truth).norm(dim=1).max() < 0.3
    assert scores.min() > 0.99
    assert scores.max() <= 1 + 1e-5
    # with noise, a patch says what a point cannot
    noisy = levels(query + 0.5 * random(*query.shape, seed=7))
    alone, _ = match_points(both[0], points[None], noisy, (1, 2), size)
    found, _ = match_points(both[0], points[None], noisy, (1, 2), size, patch_radius=5)
    assert (found[0] - truth).norm(dim=1).mean() < 0.5 * (alone[0] - truth).norm(dim=1).mean()


@pytest.mark.parametrize(("size", "patch_radius"), [((160, 100), 8), ((120, 32, 36), 6)])
def test_local_maps_follow_a_bend_that_one_affine_map_cannot(size, patch_radius, monkeypatch):
    # the coarser level tells every place, the finest only the right one: nothing leads a search to it from afar
    waves, texture = smooth(size), random(1, 6, *size)
    points = inner_points(size, 30, 10)
    (bent_waves, truth), (bent_texture, _) = bent(waves, 8, points), bent(texture, 8, points)
    template, query = [levels(texture)[0], levels(waves)[1]], [levels(bent_texture)[0], levels(bent_waves)[1]]

    def mean_error() -> float:
        found, _ = match_points(template, points[None], query, (1, 2), size, patch_radius=patch_radius)
        return (found[0] - truth).norm(dim=1).mean().item()

    local = mean_error()
    monkeypatch.setattr(_patch_search, "local_places", lambda _, __, at, linear, shift, **___: at @ linear.T + shift)
    stiff = mean_error()
    assert local < 0.6
    assert 2 * local < stiff


@pytest.mark.parametrize("weights", [None, (2, 1), (1, 0), (0, 1)])
def test_levels_in_use(weights):
    size = (60, 52)
    template = smooth(size)
    query, linear, offset = turned(template, 0.2, [2.0, 1.0])
    points = inner_points(size, 4, 12)
    used = [levels(template), levels(query)]
    for each in used:
        for level, weight in zip(each, weights or (1, 1), strict=True):
            level.mul_(1.0 if weight else torch.nan)  # what has no weight is not looked at
    found, _ = match_points(used[0], points[None], used[1], (1, 2), size, weights, patch_radius=6)
    assert (found[0] - points @ linear.T - offset).norm(dim=1).max() < 0.3


def test_the_best_template_decides_on_each_point():
    size = (60, 52)
    image = smooth(size)
    query, *_ = turned(image, 0.2, [2.0, 1.0])
    points = inner_points(size, 3, 12)
    templates = levels(torch.cat([smooth(size, seed=11), image]))
    seen = torch.stack([points, points])
    seen[0, 1] = torch.nan
    seen[:, 2] = torch.nan
    one = match_points(levels(image), points[None], levels(query), (1, 2), size, patch_radius=6)
    found, scores = match_points(templates, seen, levels(torch.cat([query, query])), (1, 2), size, patch_radius=6)
    for b in range(2):
        torch.testing.assert_close((found[b, :2], scores[b, :2]), (one[0][0, :2], one[1][0, :2]), atol=1e-4, rtol=0)
    assert found[:, 2].isnan().all()
    assert scores[:, 2].isnan().all()


def test_autocast_costs_no_precision():
    size = (60, 52)
    template = smooth(size)
    query, *_ = turned(template, 0.3, [3.0, -2.0])
    given = levels(template), inner_points(size, 4, 12)[None], levels(query), (1, 2), size
    expected = match_points(*given, patch_radius=5)
    with torch.autocast("cpu", torch.bfloat16):
        found = match_points(*given, patch_radius=5)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


def test_stays_in_the_image():
    size = (40, 40)
    template = smooth(size)
    query, *_ = turned(template, 0.0, [30.0, 0.0])
    points = torch.tensor([[38.0, 20.0], [0.0, 0.0]])
    found, _ = match_points(levels(template), points[None], levels(query), (1, 2), size, patch_radius=4)
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 39


def test_constant_embeddings_give_finite_places():
    flat = [torch.ones(1, 1, 12, 12), torch.ones(1, 1, 6, 6)]
    found, scores = match_points(flat, torch.full((1, 2, 2), 5.0), flat, (1, 2), (12, 12), patch_radius=3)
    assert found.isfinite().all()
    assert scores.isfinite().all()


@pytest.mark.parametrize("patch_radius", [1e-313, 1e30])
def test_smallest_and_largest_patches(patch_radius):
    level = [*levels(smooth((12, 12)))]
    found, scores = match_points(level, torch.full((1, 1, 2), 5.0), level, (1, 2), (12, 12), patch_radius=patch_radius)
    assert (found - 5).abs().max() < 1
    assert scores.isfinite().all()


@pytest.mark.parametrize("patch_radius", [0, -2.0, torch.nan, "5", True])
def test_patch_radius_out_of_range(patch_radius):
    image = smooth((20, 20))
    with pytest.raises(ValueError, match=r"`patch_radius` must be a number of voxels above 0, or None"):
        match_points(levels(image), torch.ones(1, 1, 2), levels(image), (1, 2), (20, 20), patch_radius=patch_radius)
    with pytest.raises(ValueError, match=r"`patch_radius` must be a number of voxels above 0, or None"):
        LandmarkMatcher(image, torch.ones(1, 1, 2), patch_radius=patch_radius)


def test_matcher_passes_the_patch_radius_on():
    class Levels(torch.nn.Module):
        strides = (1, 2)

        def forward(self, image):
            return levels(image)

    size = (60, 52)
    template = smooth(size)
    query, *_ = turned(template, 0.3, [3.0, -2.0])
    points = inner_points(size, 4, 12)[None]
    found = LandmarkMatcher(template, points, patch_radius=5)(query, Levels())
    expected = match_points(levels(template), points, levels(query), (1, 2), size, patch_radius=5)
    torch.testing.assert_close((found["landmarks"], found["scores"]), expected)
    alone = LandmarkMatcher(template, points)(query, Levels())
    assert not torch.allclose(alone["landmarks"], found["landmarks"], atol=1e-3)
