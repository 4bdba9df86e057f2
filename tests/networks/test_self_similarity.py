from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_infoaug.networks import PixelEmbeddingNet, SelfSimilarity


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def of_one(image: np.ndarray, distance: int, radius: int) -> np.ndarray:
    """The definition, voxel by voxel, for an image (*S)."""
    dims, size = image.ndim, np.array(image.shape)
    patch = [np.array(step) - radius for step in np.ndindex(*[2 * radius + 1] * dims)]

    def at(voxel: np.ndarray) -> float:
        return image[tuple(np.clip(voxel, 0, size - 1))]

    found = np.zeros((2 * dims, *size))
    for voxel in np.ndindex(*size):
        for k, (axis, sign) in enumerate((axis, sign) for axis in range(dims) for sign in (-1, 1)):
            step = sign * distance * np.eye(dims, dtype=int)[axis]
            inner = [np.clip(voxel + offset, 0, size - 1) for offset in patch]
            found[(k, *voxel)] = np.mean([(at(x) - at(x + step)) ** 2 for x in inner])
    mean = found.mean(0)
    mean = np.clip(mean, 1e-3 * mean.mean(), 1e3 * mean.mean())
    return np.exp(-(found - found.min(0)) / mean)


@pytest.mark.parametrize(("distance", "radius"), [(1, 1), (2, 1), (1, 2), (1, 0)])
@pytest.mark.parametrize("size", [(7, 5), (5, 4, 3)])
def test_is_its_definition(size, distance, radius):
    images = random(3, 1, *size)
    images[1] *= 100  # each image has its own bounds of the mean
    images[1, :, :3, :3] = 0  # and here they hold
    got = SelfSimilarity(distance, radius)(images)
    assert got.shape == (3, 2 * len(size), *size)
    assert got.min() > 0
    assert got.max() == 1
    np.testing.assert_allclose(got, [of_one(image, distance, radius) for image in images[:, 0].numpy()], atol=1e-4)


def test_channels_follow_each_other():
    images = random(2, 3, 6, 7)
    each = [SelfSimilarity()(images[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(SelfSimilarity()(images), torch.cat(each, 1))


@pytest.mark.parametrize("size", [(20, 24), (12, 10, 14)])
def test_does_not_see_an_inversion(size):
    image = random(1, 1, *size)
    descriptor = SelfSimilarity()
    torch.testing.assert_close(descriptor(5 - 3 * image), descriptor(image), atol=1e-3, rtol=1e-3)
    assert (descriptor(image) - descriptor(image.flip(2))).abs().max() > 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_flat_images(dtype):
    flat = SelfSimilarity()(torch.full((1, 1, 6, 6), 3.0, dtype=dtype))
    assert flat.dtype == dtype
    assert (flat == 1).all()


def test_embeddings_that_do_not_see_an_inversion():
    torch.manual_seed(0)
    settings = {"spatial_dims": 3, "in_channels": 2, "features": (4, 6), "strides": (2, 4)}
    image = random(1, 2, 16, 24, 18)
    for blind in (True, False):
        net = PixelEmbeddingNet(**settings, self_similarity=blind).eval()
        for level, inverted in zip(net(image), net(1 - image), strict=True):
            assert torch.allclose(level, inverted, atol=1e-3) == blind


@pytest.mark.parametrize(("name", "value"), [("distance", 0), ("distance", "1"), ("radius", -1), ("radius", 0.5)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a whole number of at least .*got {value}"):
        SelfSimilarity(**{name: value})
