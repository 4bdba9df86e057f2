from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.inferers import to_voxels, to_world
from monai_infoaug.inferers.coordinates import to_tensor


@pytest.mark.parametrize("dims", [2, 3])
def test_each_image_of_a_batch_has_its_own_affine(dims):
    draws = np.random.default_rng(0)
    points = torch.tensor(draws.normal(size=(2, 4, dims)))
    affines = np.tile(np.eye(dims + 1), (2, 1, 1))
    affines[:, :dims] += draws.normal(size=(2, dims, dims + 1)) / 4
    batch = MetaTensor(torch.zeros(2, 1, *[3] * dims))
    batch.affine = torch.tensor(affines)
    world = to_world(points, batch)
    for its, found, affine in zip(points.numpy(), world.numpy(), affines, strict=True):
        for voxel, place in zip(its, found, strict=True):
            np.testing.assert_allclose(place, (affine @ [*voxel, 1])[:dims])
    torch.testing.assert_close(to_voxels(world, batch), points)


def test_a_tensor_without_affine_has_voxels_of_a_millimetre():
    points = torch.tensor([[[1.5, 2.0]]])
    assert torch.equal(to_world(points, torch.zeros(1, 1, 4, 4)), points)
    assert torch.equal(to_voxels(points, torch.zeros(1, 1, 4, 4)), points)


def test_values_of_any_kind_become_tensors():
    for values in ([[1.0, 2.0]], np.array([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])):
        assert type(to_tensor("points", values)) is torch.Tensor
        assert to_tensor("points", values).tolist() == [[1.0, 2.0]]
    assert type(to_tensor("image", MetaTensor(torch.zeros(1, 2)))) is MetaTensor
    for values in ("abc", None, {"a": 1}, [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"^`points` must be a tensor, got"):
            to_tensor("points", values)
