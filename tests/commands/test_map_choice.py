"""The map that is chosen, and what it is chosen by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

pytest.importorskip("tqdm", reason="the command shows its progress with tqdm")

from monai_infoaug.commands import _map_choice, _strengths
from monai_infoaug.commands._map_choice import SHARES, Scene, choose_map, search, shared_bits
from monai_infoaug.commands._registration import warped
from monai_infoaug.information import local_entropy, mutual_information, tier_thresholds
from monai_infoaug.transforms import InformationMap
from tests.commands.scenes import anatomy

RANGE = (0.0, 0.9)


@pytest.fixture(scope="module")
def scene() -> Scene:
    images = [MetaTensor(torch.from_numpy(anatomy((90, 84), s, 0.02, s)[None]).float() / 255) for s in (0, 2, 4)]
    return Scene(images, [torch.ones(1, 90, 84, dtype=torch.bool)] * 3, _strengths.to_next(images), RANGE, 0)


def test_search_goes_along_one_setting_after_the_other():
    asked = []

    def value(window, bins):
        asked.append((window, bins))
        return {(9, 32): 1, (5, 32): 3, (17, 32): 3, (5, 16): 2, (5, 64): 4}[window, bins]

    assert search(value, [9, 5, 17], [32, 16, 64]) == (5, 64)
    assert set(asked) == {(9, 32), (5, 32), (17, 32), (5, 16), (5, 64)}
    assert search(lambda window, bins: 100 + (window == 5) * 4, [9, 5], [32, 16]) == (9, 32)  # that may be chance
    assert search(lambda window, bins: 0, [9, 5], [32, 16]) == (9, 32)
    assert search(None, [7], [8]) == (7, 8)


def test_shared_bits_are_those_of_corresponding_patches_by_tier(scene, monkeypatch):
    """Against patches that are cut, and compared, one by one."""
    monkeypatch.setattr(_map_choice, "PATCHES", 300)
    found = shared_bits(scene, InformationMap(5, None, 32, RANGE))
    bits = [local_entropy(image, 5, 32, RANGE).as_tensor() for image in scene.images]
    cuts, rows = tier_thresholds(torch.cat([each.flatten() for each in bits])[None, None]), []
    for image, other, transform, each in zip(
        scene.images, [*scene.images[1:], scene.images[0]], scene.transforms, bits, strict=True
    ):
        partner = warped(other, transform, image, (slice(0, 90), slice(0, 84)))
        shares = [[], [], []]
        for x in range(16, 74, 3):
            for y in range(16, 68, 3):
                box = (slice(None), slice(x - 16, x + 17), slice(y - 16, y + 17))
                if partner[box].isfinite().all():
                    value = mutual_information(image[box], partner[box], 16, RANGE)
                    shares[sum(float(each[0, x, y]) >= cut for cut in cuts)].append(value)
        rows.append([np.mean(tier) for tier in shares])
    assert found == pytest.approx(np.mean(rows, 0) @ SHARES, rel=0.05)


def test_a_map_that_says_nothing_of_the_image_shares_less(scene):
    real = shared_bits(scene, InformationMap(9, None, 32, RANGE))

    def noise(image, mask):
        return torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) + 1

    assert real > shared_bits(scene, noise) + 0.02


def test_what_is_given_is_kept_and_only_the_rest_is_compared(scene):
    measure, compared = choose_map(scene, 7, None, 20)
    assert (measure.window, measure.num_bins, compared) == (7, 20, [])
    measure, compared = choose_map(scene, None, 7.0, None)
    assert measure.window_mm == 7
    assert [each["num_bins"] for each in compared] == [32, 16, 64]
    measure, compared = choose_map(scene, None, None, 20)
    assert measure.num_bins == 20
    assert [each["window"] for each in compared] == [9, 5, 17, ((5,), (9,), (17,))]
    assert measure.value_range == RANGE


def test_windows_that_do_not_fit_are_left_out():
    images = [MetaTensor(torch.rand(1, 30, 28, 11)) for _ in range(2)]
    scene = Scene(images, [torch.ones(1, 30, 28, 11, dtype=torch.bool)] * 2, [None, None], (0.0, 1.0), 0)
    measure, compared = choose_map(scene, None, None, 32)
    assert [each["window"] for each in compared] == [9, 5]
    assert measure.window == 9  # nothing corresponds: the first
