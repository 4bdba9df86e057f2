from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Rand2DElasticd, Rand3DElasticd, RandAffined, Spacing

from monai_infoaug.transforms import CoordinateMap, CoordinateMapd, LandmarkHeatmap, LandmarkHeatmapd

NAN = float("nan")


def identity(*size: int) -> torch.Tensor:
    return CoordinateMap()(torch.zeros(1, *size))


def centres(maps: torch.Tensor, stride: int) -> torch.Tensor:
    """Mean place (L, D) of each map in voxels."""
    cells = [stride * torch.arange(n) + (stride - 1) / 2 for n in maps.shape[1:]]
    grid = torch.stack(torch.meshgrid(*cells, indexing="ij"), -1).flatten(0, -2)
    return maps.flatten(1) @ grid / maps.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("size", [(10, 12), (9, 7), (8, 6, 10)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_cell_by_cell(size, stride):
    points = torch.tensor([[3.2, 4.9, 5.0], [6.0, 1.5, 2.0]])[:, : len(size)]
    weights = [0.5, 2.0]
    maps = LandmarkHeatmap(sigma=1.7, stride=stride)(points, identity(*size), weights)
    assert maps.shape == (2, *(-(-n // stride) for n in size))
    assert maps.dtype == torch.float32
    for point, weight, got in zip(points.tolist(), weights, maps, strict=True):
        expected = np.empty(got.shape)
        for cell in np.ndindex(*got.shape):
            # the last cell may have fewer voxels
            voxels = [range(stride * j, min(stride * j + stride, n)) for j, n in zip(cell, size, strict=True)]
            place = [sum(axis) / len(axis) for axis in voxels]
            expected[cell] = math.exp(-(math.dist(place, point) ** 2) / (2 * 1.7**2))
        np.testing.assert_allclose(got, weight * expected / expected.sum(), atol=1e-6)


def test_missing_landmarks_and_those_outside():
    points = [[5.0, 5.0], [NAN, NAN], [-4.0, 5.0], [5.0, 14.0]]
    maps = LandmarkHeatmap(sigma=8.0, stride=2)(points, identity(12, 12))
    torch.testing.assert_close(maps.sum((1, 2)), torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize(("size", "stride"), [((4, 4), 4), ((3, 3), 4), ((8, 6), 8), ((3, 2, 4), 4)])
def test_a_single_cell_shows_what_lies_in_it(size, stride):
    inside, beside = [s / 2 for s in size], [s + 2.0 * stride for s in size]
    maps = LandmarkHeatmap(sigma=1.0, stride=stride)([inside, beside], identity(*size))
    assert maps.shape == (2, *[1] * len(size))
    assert maps.flatten().tolist() == [1, 0]


def test_a_view_that_is_mostly_border_shows_what_it_shows():
    coords = identity(6, 6).repeat_interleave(1, 1)
    padded = torch.nn.functional.pad(coords[None], [10] * 4, mode="replicate")[0]
    maps = LandmarkHeatmap(sigma=0.1)([[2.3, 3.2], [12.0, 3.0]], padded)
    assert maps.sum((1, 2)).tolist() == pytest.approx([1, 0])
    assert maps[0].argmax() == (10 + 2) * 26 + 10 + 3


def test_landmark_between_cells_with_a_small_sigma_is_shown():
    maps = LandmarkHeatmap(sigma=0.01, stride=4)([[5.4, 5.6], [0.0, 11.0]], identity(12, 12))
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))


def elastic(dims: int, **options):
    common = {"prob": 1.0, "magnitude_range": (3, 5), "rotate_range": 0.3, "padding_mode": "border", **options}
    common["translate_range"] = (5,) * dims
    if dims == 2:
        return Rand2DElasticd(spacing=(12, 12), **common)
    return Rand3DElasticd(sigma_range=(4, 5), **common | {"magnitude_range": (30, 60), "rotate_range": (0.2,) * 3})


@pytest.mark.parametrize("size", [(64, 56), (36, 32, 40)])
@pytest.mark.parametrize("chain", ["elastic", "affine"])
def test_target_lies_on_what_the_landmark_showed(size, chain):
    """A picture of the target, moved, is the target after the move, but for interpolation."""
    dims = len(size)
    affine = torch.diag(torch.tensor([0.5, 0.8, 0.6, 1.0])[[*range(dims), 3]])
    landmarks = torch.tensor(size) * torch.tensor([[0.4, 0.6, 0.5], [0.6, 0.4, 0.4]])[:, :dims] @ affine[:dims, :dims]
    coords = CoordinateMap()(MetaTensor(torch.zeros(1, *size), affine=affine))
    picture = LandmarkHeatmap(sigma=1.5)(landmarks, coords)
    keys, modes = ["image", "coords"], ["bilinear", "bilinear"]
    if chain == "elastic":
        moves = elastic(dims, keys=keys, mode=modes)
    else:
        shear = {"rotate_range": 0.3, "shear_range": 0.2, "scale_range": 0.1, "translate_range": (5,) * dims}
        moves = RandAffined(keys, prob=1.0, mode=modes, padding_mode="border", **shear)
    chain = Compose([CoordinateMapd("image"), moves, LandmarkHeatmapd("landmarks", sigma=1.5)])
    out = chain.set_random_state(seed=3)({"image": picture, "landmarks": landmarks})
    moved, target = (
        out[key].as_tensor() / out[key].amax((*range(1, dims + 1),), True) for key in ("image", "heatmaps")
    )
    assert (centres(target, 1) - centres(picture.as_tensor(), 1)).norm(dim=1).max() > 1
    torch.testing.assert_close(centres(target, 1), centres(moved, 1), atol=0.05, rtol=0)
    torch.testing.assert_close(target, moved, atol=0.1, rtol=0)
    assert (picture - moved).abs().max() > 0.5


def test_affine_of_the_cells():
    image = MetaTensor(torch.zeros(1, 16, 12), affine=torch.diag(torch.tensor([0.5, 0.75, 1.0, 1.0])))
    maps = LandmarkHeatmap(sigma=1.0, stride=4)([[3.0, 4.0]], CoordinateMap()(image))
    same = Spacing((2.0, 3.0), align_corners=False)(image)  # voxels of the size of a cell
    torch.testing.assert_close(maps.affine[:2, :2], same.affine[:2, :2])
    assert maps.affine[:2, -1].tolist() == [0.75, 1.125]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sigma", 0),
        ("sigma", 1e-30),
        ("sigma", 1e200),
        ("sigma", NAN),
        ("sigma", "1"),
        ("stride", 0),
        ("stride", 1.5),
        ("stride", "2"),
    ],
)
def test_bad_settings(name, wrong):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        LandmarkHeatmap(**{"sigma": 1.0, name: wrong})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0, 3.0]], identity(8, 8)), r"`landmarks` must be \(L,2\), L at least 1, got shape \(1, 3\)"),
        (([1.0, 2.0], identity(8, 8)), r"`landmarks` must be"),
        ((torch.zeros(0, 2), identity(8, 8)), r"`landmarks` must be"),
        (
            ([[1.0, 2.0]], torch.zeros(3, 8, 8)),
            r"`coords` must be \(D,\*S\), D 2 or 3, not empty, got shape \(3, 8, 8\)",
        ),
        (([[1.0, 2.0]], identity(8, 8), [1.0, 2.0]), r"`weights` must be 1 numbers of at least 0, got \[1.0, 2.0\]"),
        (([[1.0, 2.0]], identity(8, 8), [-1.0]), r"`weights` must be"),
        (([[1.0, 2.0]], identity(8, 8), [NAN]), r"`weights` must be"),
        (([[1.0, 2.0]], identity(8, 8), [float("inf")]), r"`weights` must be"),
        (([[1.0, 2.0], [3.0]], identity(8, 8)), r"`landmarks` must be of sequences of one length"),
        (([[1.0, 2.0]], identity(8, 8) * NAN), r"`coords` must be finite"),
        (([[1.0, 2.0]], torch.zeros(2, 0, 8)), r"`coords` must be"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        LandmarkHeatmap(1.0)(*arguments)


def test_weights_and_keys():
    item = {"points": [[3.0, 3.0], [4.0, 5.0]], "where": identity(8, 8), "sure": [0.25, 0.0]}
    heat = LandmarkHeatmapd("points", 1.0, coords_key="where", weights_key="sure", output_key="label")
    torch.testing.assert_close(heat(item)["label"].sum((1, 2)), torch.tensor([0.25, 0.0]))
    for key in ("where", "sure"):
        with pytest.raises(KeyError, match=f"Key `{key}` of transform `LandmarkHeatmapd` was missing"):
            heat({name: value for name, value in item.items() if name != key})
    with pytest.raises(KeyError, match="new to the data"):
        heat(item | {"label": 1})


@pytest.mark.parametrize("kind", [np.float64, np.int64, torch.float64])
def test_maps_are_of_single_precision_whatever_the_coordinates_are(kind):
    coords = identity(8, 8).to(kind) if isinstance(kind, torch.dtype) else identity(8, 8).numpy().astype(kind)
    maps = LandmarkHeatmap(1.0)([[3.0, 4.0]], coords)
    assert maps.dtype == (torch.float32 if isinstance(maps, torch.Tensor) else np.float32)
    np.testing.assert_allclose(maps, LandmarkHeatmap(1.0)([[3.0, 4.0]], identity(8, 8)))


@pytest.mark.parametrize("landmarks", ["ab", [["1", "2"]], [[None, 1.0]], None])
def test_landmarks_that_are_no_numbers(landmarks):
    with pytest.raises(TypeError, match="`landmarks` must be"):
        LandmarkHeatmap(1.0)(landmarks, identity(8, 8))
