from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Spacingd

from monai_infoaug.transforms import CoordinateMap, CoordinateMapd


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_indices_of_a_plain_array(shape):
    coords = CoordinateMap()(np.zeros((2, *shape)))
    assert isinstance(coords, np.ndarray)
    assert coords.dtype == np.float32
    np.testing.assert_array_equal(coords, np.indices(shape))


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("dims", [2, 3])
def test_millimetres_voxel_by_voxel(dims, rows):
    rows = max(rows, dims + 1)
    affine = torch.eye(rows, dtype=torch.float64)
    affine[:dims, :dims] += 0.3 * torch.rand(dims, dims, generator=torch.Generator().manual_seed(0))
    affine[:dims, -1] = torch.tensor([5.0, -7.0, 100.0])[:dims]
    coords = CoordinateMap()(MetaTensor(torch.zeros(1, *(5, 4, 3)[:dims]), affine=affine))
    for voxel in np.ndindex(*coords.shape[1:]):
        place = affine[:dims, :dims] @ torch.tensor(voxel, dtype=torch.float64) + affine[:dims, -1]
        torch.testing.assert_close(coords[(slice(None), *voxel)].as_tensor().double(), place, atol=1e-4, rtol=0)
    torch.testing.assert_close(coords.affine, affine)
    voxels = CoordinateMapd("image", world=False)({"image": MetaTensor(torch.zeros(1, 5, 4), affine=affine)})["coords"]
    np.testing.assert_array_equal(voxels, np.indices((5, 4)))


def test_coordinates_go_where_the_affine_goes():
    """Resampled and flipped with the image they are what the new affine says."""
    image = MetaTensor(torch.rand(1, 12, 10), affine=torch.diag(torch.tensor([1.5, 1.0, 1.0])))
    both = ["image", "coords"]
    chain = Compose([CoordinateMapd("image"), Spacingd(both, (2.0, 1.6), padding_mode="border"), Flipd(both, 1)])
    moved = chain({"image": image})
    expected = CoordinateMap()(moved["image"])
    torch.testing.assert_close(moved["coords"][:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 2, 2, 2)])
def test_other_ranks(shape):
    with pytest.raises(ValueError, match="`img` must be channel first, 2D or 3D, not empty, got shape"):
        CoordinateMap()(torch.zeros(shape))


@pytest.mark.parametrize(
    "affine",
    [
        torch.tensor([[0.0, 0, 0, 5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),  # a sagittal slice: its x is constant
        torch.diag(torch.tensor([1.0, 0, 1, 1])),
        torch.diag(torch.tensor([1.0, torch.nan, 1, 1])),
    ],
)
def test_affines_that_send_voxels_to_one_place_are_refused(affine):
    image = MetaTensor(torch.zeros(1, 4, 4), affine=affine)
    with pytest.raises(
        ValueError, match="`affine of `img`` must be finite, and tell places by the first 2 of their mill"
    ):
        CoordinateMap()(image)
    assert CoordinateMap(world=False)(image).shape == (2, 4, 4)


def test_key_that_exists():
    with pytest.raises(KeyError, match="new to the data"):
        CoordinateMapd("image")({"image": torch.zeros(1, 4, 4), "coords": 0})
