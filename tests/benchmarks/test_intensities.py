"""Random convolutions against a convolution by loops, nnU-Net's set, and tiers that are drawn apart."""

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from benchmarks._intensities import RandConvolutiond, drawn_apart, nnunet
from monai_infoaug.transforms import RandTierIntensity


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


@pytest.mark.parametrize("sizes", [(20, 24), (16, 20, 24)])
def test_the_set_of_nnunet_runs(sizes):
    parser = ConfigParser({"steps": nnunet(), "spatial_dims": len(sizes)})
    for step in (steps := parser.get_parsed_content("steps")):
        step.prob = 1.0
    image = torch.rand(1, *sizes)
    changed = Compose(steps).set_random_state(0)({"image": image})["image"]
    assert changed.shape == image.shape
    assert float((changed - image).abs().mean()) > 0.01


def test_tiers_that_are_drawn_apart_do_not_move_together():
    """With one seed all tiers become brighter, or all darker; apart, either."""
    image, tiers = torch.full((1, 12, 12), 0.5), torch.zeros(1, 12, 12)
    image[:, 0, 0], image[:, 0, 1] = 0, 1
    tiers[:, :, 4:8], tiers[:, :, 8:] = 1, 2
    transforms = ConfigParser({"t": drawn_apart("published", [1, 1, 1])}).get_parsed_content("t")
    signs = {}
    for name, given in (
        ("together", {"transforms": "published", "strengths": [1, 1, 1]}),
        ("apart", {"transforms": transforms}),
    ):
        change = RandTierIntensity(**given, sigma=0).set_random_state(0)
        brighter = [
            [float(change_[tiers == k].median()) > 0.5 for k in range(3)]
            for change_ in (change(image, tiers=tiers) for _ in range(20))
        ]
        signs[name] = {tuple(each) for each in brighter}
    assert signs["together"] <= {(True,) * 3, (False,) * 3}
    assert len(signs["apart"]) > 2
