"""Label images of points against loops over voxels and points, and bad input."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.transforms import PointLabels, PointLabelsd


def by_loops(points, classes, radius, affine, size):
    """The class plus 1 of the nearest point, if it is near or the voxel is the point's own."""
    labels = np.zeros(size, int)
    places = {index: affine[:-1, :-1] @ index + affine[:-1, -1] for index in itertools.product(*map(range, size))}
    for index, place in places.items():
        distances = [np.linalg.norm(place - point) for point in points]
        if min(distances) <= radius:
            labels[index] = classes[int(np.argmin(distances))] + 1
    for point, kind in zip(points, classes, strict=True):
        voxel = np.linalg.solve(affine[:-1, :-1], point - affine[:-1, -1])
        if all(-0.5 <= x <= n - 0.5 for x, n in zip(voxel, size, strict=True)):
            labels[tuple(np.rint(voxel).astype(int))] = kind + 1
    return labels


@pytest.mark.parametrize("size", [(7, 9), (5, 6, 4)])
@pytest.mark.parametrize("radius", [0.0, 1.0, 2.5])
def test_labels_are_those_of_loops(size, radius):
    generator = np.random.default_rng(0)
    affine = np.diag([*[1.5, -0.8, 2.0][: len(size)], 1.0])
    affine[:-1, -1] = [3, -4, 5][: len(size)]
    voxels = generator.uniform(-0.4, np.array(size) - 0.6, (5, len(size)))
    points, classes = voxels @ affine[:-1, :-1].T + affine[:-1, -1], generator.integers(0, 3, 5)
    image = MetaTensor(torch.zeros(2, *size), affine=affine)
    found = PointLabels(radius)(points, classes, image)
    assert isinstance(found, MetaTensor)
    assert found.dtype == torch.int64
    assert np.array_equal(found[0].numpy(), by_loops(points.astype(np.float32), classes, radius, affine, size))


def test_points_outside_and_no_points_leave_all_unknown():
    image = torch.zeros(1, 4, 5)
    assert PointLabels()([[9.0, 9.0], [-1.0, 2.0]], [1, 2], image).sum() == 0
    assert PointLabels(3.0)(np.zeros((0, 2)), [], image).sum() == 0


def test_a_missing_point_takes_nothing_from_the_others():
    points, classes, image = [[5.0, 5.0], [14.0, 14.0]], [0, 1], torch.zeros(1, 20, 20)
    whole = PointLabels(3.0)(points, classes, image)
    for missing in ([np.nan, np.nan], [np.nan, 5.0]):
        assert torch.equal(PointLabels(3.0)([missing, *points], [2, *classes], image), whole)
        assert PointLabels(3.0)([missing], [2], image).sum() == 0


def test_whole_numbers_of_any_type_are_classes():
    image = torch.zeros(1, 4, 5)
    for classes in ([1], [1.0], np.array([1], np.uint8), torch.tensor([1.0], dtype=torch.float16)):
        assert PointLabels()([[1.0, 2.0]], classes, image)[0, 1, 2] == 2


def test_dictionary():
    data = {"image": torch.zeros(1, 4, 5), "points": [[1.0, 2.0]], "point_classes": [1]}
    out = PointLabelsd(radius=1.0)(data)
    assert torch.equal(out["known"], PointLabels(1.0)([[1.0, 2.0]], [1], data["image"]))
    assert "known" not in data
    without = {key: data[key] for key in ("image", "point_classes")}
    assert "known" not in PointLabelsd(allow_missing_keys=True)(without)
    with pytest.raises(KeyError, match="`output_key` must be new to the data, got known"):
        PointLabelsd()(out)
    with pytest.raises(KeyError, match="Key `point_classes` of transform `PointLabelsd` was missing"):
        PointLabelsd()({key: data[key] for key in ("image", "points")})


@pytest.mark.parametrize(
    ("points", "classes", "message"),
    [
        ([[1.0, 2.0, 3.0]], [1], r"`points` must be \(N,2\), got shape \(1, 3\)"),
        ([[1.0, 2.0]], [1, 2], r"`classes` must be 1 whole numbers from 0 on, got \[1, 2\]"),
        ([[1.0, 2.0]], [-1], "`classes` must be 1 whole numbers from 0 on"),
        ([[1.0, 2.0]], [1.7], r"`classes` must be 1 whole numbers from 0 on, got \[1.7"),
        ([[1.0, 2.0]], [np.nan], "`classes` must be 1 whole numbers from 0 on"),
        ([[1.0, 2.0]], [np.inf], "`classes` must be 1 whole numbers from 0 on"),
        ([[1.0, 2.0]], ["rim"], r"`classes` must be an array of numbers, got \['rim'\]"),
        ([["1", "2"]], [1], "`points` must be an array of numbers"),
        ([[1.0, np.inf]], [1], "`points` must be finite, or NaN for a missing one"),
    ],
)
def test_bad_points(points, classes, message):
    with pytest.raises(ValueError, match=message):
        PointLabels()(points, classes, torch.zeros(1, 4, 5))


@pytest.mark.parametrize("radius", [-1, float("inf"), "wide"])
def test_bad_radius(radius):
    with pytest.raises(ValueError, match="`radius` must be a finite number of at least 0"):
        PointLabels(radius)
