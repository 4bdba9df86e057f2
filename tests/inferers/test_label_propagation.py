from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn.functional import avg_pool2d, avg_pool3d, normalize

from monai_infoaug._grid import sample_at
from monai_infoaug.inferers import DenseMap, LabelPropagator, _consensus, carry_labels, map_densely
from monai_infoaug.inferers._consensus import nearest_maps

SIZES = [(64, 56), (30, 26, 28)]
SETTINGS = {"patch_radius": 4.0, "count": 250, "neighbours": 16}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Places(nn.Module):
    """Embeds an image whose D channels say which place of the anatomy a voxel shows: an exact embedding."""

    strides = (1, 2)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        assert type(image) is torch.Tensor
        waves = 0.35 * random(image.shape[1], 24)
        phases = torch.einsum("bd...,df->bf...", image, waves)
        fine = torch.cat([phases.sin(), phases.cos()], dim=1)
        return [normalize(level, dim=1) for level in (fine, (avg_pool2d, avg_pool3d)[image.ndim - 4](fine, 2))]


def grid_of(size: tuple[int, ...]) -> torch.Tensor:
    """(D, *size)."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"))


def warped(size: tuple[int, ...], bend: float = 3.0) -> torch.Tensor:
    """(D, *size): the places of a template that the voxels of an image show, turned, moved and bent by waves."""
    dims, grid = len(size), grid_of(size)
    turn = torch.eye(dims)
    turn[:2, :2] = torch.tensor([[np.cos(0.15), -np.sin(0.15)], [np.sin(0.15), np.cos(0.15)]])
    centre = (torch.tensor(size).view(-1, *[1] * dims) - 1) / 2
    waves = torch.stack([(torch.pi * grid[axis - 1] / size[axis - 1]).sin() for axis in range(dims)])
    return torch.einsum("de,e...->d...", turn, grid - centre) + centre + bend * (waves - 0.5)


def anatomy(places: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """(1, *S) label map: two ellipsoids, one within the other, and a third beside them."""
    scaled = places / torch.tensor(size).view(-1, *[1] * len(size)) - 0.5
    first, third = (scaled + 0.1).norm(dim=0), (scaled - 0.25).norm(dim=0)
    labels = (first < 0.3).long() + 6 * (first < 0.15).long()
    return torch.where(third < 0.12, 3, labels)[None].to(torch.uint8)


def dice(found: torch.Tensor, truth: torch.Tensor) -> float:
    return min(
        (2 * ((found == k) & (truth == k)).sum() / ((found == k).sum() + (truth == k).sum())).item() for k in (1, 3, 7)
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_an_exact_embedding_gives_the_true_map_and_the_labels(size):
    truth, net = warped(size), Places()
    dense = map_densely(net(truth[None]), net(grid_of(size)[None]), net.strides, size, size, **SETTINGS)
    # where the template shows what the image does
    inside = ((truth >= 1) & (truth <= torch.tensor(size).view(-1, *[1] * len(size)) - 2)).all(0)
    places, errors, agreement = dense(grid_of(size).flatten(1).T)
    off = (places.T.reshape(truth.shape) - truth).norm(dim=0)[inside]
    assert off.mean() < 0.4
    assert off.quantile(0.99) < 1.2
    assert errors.reshape(size)[inside].mean() < 0.5
    assert agreement.reshape(size)[inside].mean() > 0.8
    affine_off = (dense.linear @ grid_of(size).flatten(1) + dense.shift[:, None]).reshape(truth.shape) - truth
    assert affine_off.norm(dim=0)[inside].mean() > 3 * off.mean()

    template = grid_of(size)
    propagator = LabelPropagator(template, anatomy(template, size), **SETTINGS)
    found = propagator(torch.stack([truth, template]), net)
    expected = anatomy(truth, size)
    assert found["labels"].dtype == torch.uint8
    assert found["labels"].shape == found["confidence"].shape == (2, 1, *size)
    assert dice(found["labels"][0], expected) > (0.95, 0.88)[len(size) - 2]  # ellipsoids of few voxels
    assert dice(found["labels"][1], anatomy(template, size)) > 0.99
    confidence, right = found["confidence"][0], found["labels"][0] == expected
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert confidence[right].mean() > 0.9
    assert confidence[~right].mean() < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_labels_come_onto_the_original_grid(dims):
    """The image was resampled from a rotated anisotropic grid, the label map has a grid of its own."""
    size = SIZES[dims - 2]
    net, template = Places(), grid_of(size)
    turn = torch.linalg.qr(random(dims, dims).double())[0]

    def affine(sides: list[float], turned: torch.Tensor) -> torch.Tensor:
        out = torch.eye(4 if dims == 3 else 3, dtype=torch.float64)
        out[:dims, :dims] = turned @ torch.diag(torch.tensor(sides[:dims], dtype=torch.float64))
        out[:dims, -1] = torch.tensor([5.0, -7, 3][:dims])
        return out

    shown = MetaTensor(warped(size), affine=affine([2.0, 2, 2], turn))
    labels = MetaTensor(
        anatomy(grid_of(tuple(2 * n for n in size)) / 2, size), affine=torch.diag(torch.tensor([0.5] * dims + [1.0]))
    )
    sides = [1.0, 3.0, 2.5]
    grid = MetaTensor(
        torch.zeros(1, *(int(2 * n / s) for n, s in zip(size, sides, strict=False))), affine=affine(sides, turn)
    )
    found = LabelPropagator(template, labels, **SETTINGS)(shown[None], net, grid=grid)
    assert found["labels"].shape == (1, 1, *grid.shape[1:])
    voxels = grid_of(tuple(grid.shape[1:])) * torch.tensor(sides[:dims]).view(-1, *[1] * dims) / 2
    truth = anatomy(sample_at(warped(size)[None], voxels[None], padding_mode="border")[0], size)
    assert dice(found["labels"][0], truth) > 0.9


@pytest.mark.parametrize("dims", [2, 3])
def test_nearest_maps_are_weighted_least_squares(dims, monkeypatch):
    monkeypatch.setattr(_consensus, "PLACES", 2)
    points, at, neighbours, scale = 30 * random(40, dims), 30 * random(5, dims, seed=1), 12, 3.0
    linear, shift = torch.eye(dims) + 0.2 * random(dims, dims, seed=2), random(dims, seed=3)
    found = points @ linear.T + shift + 3 * (points / 20).sin() + 0.5 * random(40, dims, seed=4)
    found[:6] += 60
    trust = random(40, seed=6).abs().clamp(0, 1)
    moves, turns, errors, shares = nearest_maps(points, found, trust, at, linear, shift, neighbours, scale)
    for n, place in enumerate(at.double().numpy()):
        distances = np.linalg.norm(points.double().numpy() - place, axis=1)
        nearest = np.argsort(distances)[:neighbours]
        spread = distances[nearest[-1]] / 2
        robust = np.ones(neighbours)
        for _ in range(_consensus.ITERATIONS):
            rows, sides, near = list(np.sqrt(_consensus.RIDGE) * np.eye(dims + 1)), list(np.zeros((dims + 1, dims))), []
            for i, weight in zip(nearest, robust, strict=True):
                offset = (points[i].double().numpy() - place) / spread
                near.append(trust[i].item() * np.exp(-(offset @ offset) / 2))
                root = np.sqrt(weight * near[-1])
                rows.append(root * np.append(offset, 1))
                sides.append(root * (found[i] - linear @ points[i] - shift).double().numpy())
            solution = np.linalg.lstsq(np.array(rows), np.array(sides), rcond=None)[0]
            fitted = [np.append((points[i].double().numpy() - place) / spread, 1) @ solution for i in nearest]
            off = [
                np.linalg.norm((found[i] - linear @ points[i] - shift).double().numpy() - move)
                for i, move in zip(nearest, fitted, strict=True)
            ]
            robust = np.array([1 / (1 + (distance / scale) ** 2) ** 2 for distance in off])
        weights = robust * near
        np.testing.assert_allclose(moves[n], solution[-1], atol=1e-3)
        np.testing.assert_allclose(turns[n], linear.numpy() + solution[:-1].T / spread, atol=1e-3)
        assert errors[n].item() == pytest.approx(np.sqrt(np.average(np.square(off), weights=weights)), abs=1e-3)
        assert shares[n].item() == pytest.approx(weights.sum() / np.sum(near), abs=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_labels_are_carried_voxel_by_voxel(dims, count, monkeypatch):
    monkeypatch.setattr("monai_infoaug.inferers.label_propagation.VOXELS", 50)  # several turns
    size, stride = (7, 6, 5)[:dims], 2
    draws = torch.Generator().manual_seed(0)

    def image(*shape: int, seed: int) -> MetaTensor:
        affine = torch.eye(dims + 1)
        affine[:dims, :dims] = torch.eye(dims) + 0.1 * random(dims, dims, seed=seed)
        affine[:dims, -1] = random(dims, seed=seed + 1)
        return MetaTensor(torch.zeros(1, *shape), affine=affine)

    templates, shown, grid = (
        [image(*size, seed=10 * t) for t in range(count)],
        image(*size, seed=50),
        image(*size, seed=60),
    )
    labels, maps = [], []
    for t in range(count):
        label = image(*size, seed=100 + t)
        label.copy_(torch.randint(0, 4, (1, *size), generator=draws) * 2)
        labels.append(label)
        moves = random(1, dims + 2, *(-(-n // stride) for n in size), seed=t)
        moves[:, dims] = moves[:, dims].abs()
        moves[:, dims + 1] = moves[:, dims + 1].sigmoid()
        maps.append(
            DenseMap(torch.eye(dims) + 0.1 * random(dims, dims, seed=t), random(dims, seed=7 + t), moves, stride)
        )
    got, confidence = carry_labels(maps, labels, templates, shown, grid)

    def share(label: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Of the labels 0, 2, 4 and 6 at a place, interpolated corner by corner; 0 outside."""
        total, base = np.zeros(4), np.floor(place).astype(int)
        for corner in itertools.product((0, 1), repeat=dims):
            index, weight = base + corner, np.prod(1 - abs(place - base - corner))
            inside = ((index >= 0) & (index < label.shape)).all()
            total[int(label[tuple(index)]) // 2 if inside else 0] += weight
        return total

    def world(affine: torch.Tensor, voxel: np.ndarray) -> np.ndarray:
        return affine[:dims, :dims].numpy() @ voxel + affine[:dims, -1].numpy()

    def voxel(affine: torch.Tensor, place: np.ndarray) -> np.ndarray:
        return np.linalg.solve(affine[:dims, :dims].numpy(), place - affine[:dims, -1].numpy())

    for index in itertools.product(*map(range, size)):
        place = voxel(shown.affine, world(grid.affine, np.array(index, float)))
        shares, sure = np.zeros(4), np.zeros(4)
        for dense, label, template in zip(maps, labels, templates, strict=True):
            (found,), (error,), (agreement,) = (x.double().numpy() for x in dense(torch.tensor(place)[None].float()))
            offsets = [
                np.zeros(dims),
                *np.sqrt(3 / dims) * error * np.eye(dims),
                *-np.sqrt(3 / dims) * error * np.eye(dims),
            ]
            parts = [share(label[0].numpy(), voxel(label.affine, world(template.affine, found + o))) for o in offsets]
            shares += parts[0] / count
            sure += agreement * np.average(parts, axis=0, weights=[1 - dims / 3] + [1 / 6] * 2 * dims) / count
        if np.diff(np.sort(shares))[-1] < 1e-3:
            continue  # either
        assert got[(0, *index)] == 2 * shares.argmax()
        assert confidence[(0, *index)].item() == pytest.approx(sure[shares.argmax()], abs=1e-3)


@pytest.mark.slow
def test_nothing_in_common_gives_little_confidence():
    size, net = SIZES[0], Places()
    template = grid_of(size)
    propagator = LabelPropagator(template, anatomy(template, size), **SETTINGS)
    sure = propagator(warped(size)[None], net)["confidence"].mean()
    other = propagator(100 + 20 * random(1, 2, *size), net)["confidence"].mean()
    assert other < 0.8 * sure


@pytest.mark.slow
def test_batches_and_several_templates():
    size, net, few = (40, 36), Places(), {"patch_radius": 4.0, "count": 80}
    template, other = grid_of(size), warped(size, bend=1.0)
    labels = [anatomy(template, size), anatomy(other, size)]
    propagator = LabelPropagator(torch.stack([template, other]), labels, **few)
    images = MetaTensor(torch.stack([warped(size), template]))
    both, alone = propagator(images, net), propagator(images[1:], net)
    for key in both:
        torch.testing.assert_close(both[key][1:], alone[key])
    assert dice(both["labels"][0], anatomy(warped(size), size)) > 0.85
    assert LabelPropagator(template, labels[0].numpy(), **few)(images[1:], net)["labels"].dtype == torch.uint8


IMAGE = torch.rand(2, 16, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"labels": torch.zeros(2, 16, 12)},
            r"`labels` must be \(1, \*S\), 2D like the templates, got shape \(2, 16, 12\)",
        ),
        ({"labels": torch.full((1, 16, 12), 0.5)}, "`labels` must be whole numbers of at least 0, got other values"),
        ({"labels": -torch.ones(1, 16, 12)}, "`labels` must be whole numbers"),
        ({"labels": torch.full((1, 16, 12), torch.nan)}, "`labels` must be whole numbers"),
        ({"labels": [torch.zeros(1, 16, 12)] * 2}, "`templates` must be .* with T = 2 like `labels`"),
        ({"templates": IMAGE * torch.nan}, "`templates` must be finite"),
        ({"templates": IMAGE[0]}, "`templates` must be"),
        ({"templates": "a"}, "`templates` must be a tensor"),
        ({"labels": None}, "`labels` must be"),
        ({"patch_radius": 0}, "`patch_radius` must be a number of voxels above 0, got 0"),
        ({"count": 0}, "`count` must be a whole number of at least 1, got 0"),
        ({"neighbours": 1.5}, "`neighbours` must be a whole number of at least 1, got 1.5"),
        ({"level_weights": "1"}, "`level_weights` must be"),
    ],
)
def test_bad_templates(arguments, message):
    given = {"templates": IMAGE, "labels": torch.zeros(1, 16, 12)} | arguments
    with pytest.raises(ValueError, match=message):
        LabelPropagator(**given)


@pytest.mark.parametrize(
    ("inputs", "grid", "message"),
    [
        (IMAGE, None, r"`inputs` must be \(B, C, \*S\) like"),
        (IMAGE[None] / 0 * 0, None, "`inputs` must be finite"),
        (IMAGE[None], torch.zeros(1, 3, 3, 3), r"`grid` must be \(C, \*S\), 2D, with one image, got"),
        (IMAGE[None].expand(2, -1, -1, -1), IMAGE, "`grid` must be"),
    ],
)
def test_bad_inputs(inputs, grid, message):
    with pytest.raises(ValueError, match=message):
        LabelPropagator(IMAGE, torch.zeros(1, 16, 12))(inputs, Places(), grid=grid)


def test_network_without_strides():
    with pytest.raises(ValueError, match="`network` must be an embedding network with `strides`, got"):
        LabelPropagator(IMAGE, torch.zeros(1, 16, 12))(IMAGE[None], nn.Identity())
