"""Random convolutions against a convolution by loops."""

import numpy as np
import pytest
import torch

from benchmarks._random_convolution import RandConvolutiond


def by_loops(image, kernel, size):
    padded = np.pad(image, [(0, 0), *[(size // 2, size // 2)] * (image.ndim - 1)], mode="edge")
    out = np.zeros_like(image)
    for place in np.ndindex(*image.shape[1:]):
        window = padded[(slice(None), *(slice(start, start + size) for start in place))]
        out[(slice(None), *place)] = [(of_channel * window).sum() for of_channel in kernel]
    return out


@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 5, 6), (1, 4, 5, 6)])
def test_an_image_is_mixed_with_its_convolution(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    change = RandConvolutiond("image", sizes=(3,), prob=1.0).set_random_state(5)
    changed = change({"image": torch.from_numpy(image), "label": 7})
    generator = np.random.RandomState(5)
    generator.rand()
    generator.choice((3,))
    share = generator.uniform()
    channels, dims = len(image), image.ndim - 1
    kernel = generator.normal(0, (channels * 3**dims) ** -0.5, (channels, channels, *[3] * dims))
    wanted = share * image + (1 - share) * by_loops(image, kernel, 3)
    assert np.allclose(changed["image"], wanted, atol=1e-5)
    assert changed["label"] == 7


def test_half_of_the_images_stay_and_sizes_differ():
    image = torch.rand(1, 9, 9)
    change = RandConvolutiond("image").set_random_state(0)
    same = sum(torch.equal(change({"image": image})["image"], image) for _ in range(200))
    assert 70 < same < 130
