from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.transforms.foreground import BodyMask, BodyMaskD, BodyMaskd, BodyMaskDict, _filled, _largest

DATA = Path(__file__).parents[3] / "shared" / "data"  # optional real images beside the repository


def flood(mask: np.ndarray, start: tuple[int, ...]) -> set[tuple[int, ...]]:
    """All pixels of the value of ``start`` that a walk over faces reaches from there."""
    seen, todo = {start}, [start]
    while todo:
        at = todo.pop()
        for axis, step in product(range(mask.ndim), (-1, 1)):
            near = (*at[:axis], at[axis] + step, *at[axis + 1 :])
            inside = all(0 <= i < n for i, n in zip(near, mask.shape, strict=True))
            if inside and near not in seen and mask[near] == mask[start]:
                seen.add(near)
                todo.append(near)
    return seen


def parts(mask: np.ndarray, value: bool) -> list[set[tuple[int, ...]]]:
    found, left = [], set(zip(*np.nonzero(mask == value), strict=True))
    while left:
        found.append(flood(mask, next(iter(left))))
        left -= found[-1]
    return found


def filled_by_hand(mask: np.ndarray) -> np.ndarray:
    out = mask.copy()
    if mask.ndim == 3:
        for axis, index in ((a, i) for a in range(3) for i in range(mask.shape[a])):
            slice_ = (slice(None),) * axis + (index,)
            out[slice_] |= filled_by_hand(mask[slice_])
        return out
    for part in parts(mask, False):
        if not any(i in (0, n - 1) for at in part for i, n in zip(at, mask.shape, strict=True)):
            out[tuple(zip(*part, strict=True))] = True
    return out


@pytest.mark.parametrize("shape", [(17, 14), (7, 8, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_largest_part_and_holes_against_a_walk(shape, seed):
    mask = np.random.RandomState(seed).rand(*shape) > 0.4
    sizes = sorted(len(part) for part in parts(mask, True))
    largest = _largest(mask)
    assert largest.sum() == sizes[-1]
    assert len(flood(largest, next(zip(*np.nonzero(largest), strict=True)))) == sizes[-1]
    np.testing.assert_array_equal(_filled(mask), filled_by_hand(mask))


def ct(shape: tuple[int, int, int] = (48, 40, 12), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A chest in HU with lungs, a windpipe that leaves through the top, skin, spine and a table; and its true body."""
    x, y, z = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    body = (x / 20) ** 2 + (y / 13) ** 2 <= 1
    hu = np.where(body, 40.0, -1000.0)
    for side in (-9, 9):
        hu[((x - side) / 6) ** 2 + (y / 8) ** 2 + (z / 5) ** 2 <= 1] = -850
    hu[(x**2 + (y + 4) ** 2 <= 2) & (z > 0)] = -1000
    hu[x**2 + (y - 9) ** 2 <= 4] = 700
    hu[:, -3:] = 100  # the table; air lies between
    return (hu + np.random.RandomState(seed).normal(0, 25, shape)).astype(np.float32)[None], body


def test_body_in_ct_holds_lungs_and_airways_but_no_table():
    image, body = ct()
    np.testing.assert_array_equal(BodyMask(-500)(image)[0], body)
    assert (image[0][body] < -500).mean() > 0.1  # what a plain threshold would leave out


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_head_in_mr_under_bias_and_noise(gain):
    generator = np.random.RandomState(0)
    x, y, z = np.indices((44, 40, 36)) - np.array([21.5, 19.5, 17.5]).reshape(3, 1, 1, 1)
    radius = np.sqrt((x / 17) ** 2 + (y / 15) ** 2 + (z / 14) ** 2)
    head = radius <= 1
    grey = head * 600.0 + (radius < 0.8) * 300 - (radius < 0.3) * 800  # dark fluid in the middle
    grey *= np.exp(x / 60 - y / 80)
    noisy = np.abs(grey + generator.normal(0, 30, grey.shape) + 1j * generator.normal(0, 30, grey.shape))
    found = BodyMask()(gain * noisy[None])[0]
    assert 2 * (found * head).sum() / (found.sum() + head.sum()) > 0.98
    shifted = BodyMask()((gain * noisy[None] - 300 * gain) / 100)[0]  # standardised: the same
    np.testing.assert_array_equal(shifted, found)


def test_crop_without_air_is_all_body():
    generator = np.random.RandomState(0)
    tissue = np.where(generator.rand(1, 20, 24, 18) < 0.4, 250, 600) + generator.normal(0, 60, (1, 20, 24, 18))
    tissue[:, :2, :2] = 0  # a bit of air, or fluid
    assert BodyMask()(tissue).all()


@pytest.mark.parametrize("threshold", ["otsu", 5.0])
@pytest.mark.parametrize("value", [0.0, 3.0, 7.0])
def test_constant_image_is_all_body(threshold, value):
    assert BodyMask(threshold)(np.full((1, 6, 7), value)).all()


def test_channels_count_by_their_mean():
    image = np.zeros((2, 9, 9), np.float32)
    image[0, 2:5, 2:5], image[1, 2:5, 2:8] = 10, 4
    expected = np.zeros((9, 9))
    expected[2:5, 2:5] = 1
    np.testing.assert_array_equal(BodyMask(3)(image)[0], expected)


def test_metadata_stay():
    image = MetaTensor(torch.rand(1, 5, 5), affine=torch.eye(4) * 2, meta={"patient": "p1"})
    out = BodyMask()(image)
    assert out.dtype == torch.uint8
    assert out.meta["patient"] == "p1"
    assert torch.equal(out.affine, image.affine)


def test_dictionary():
    data = {"t1": torch.rand(1, 6, 6), "t2": torch.rand(1, 6, 6)}
    assert {"t1_foreground", "t2_foreground"} < set(BodyMaskd(("t1", "t2"))(data))
    np.testing.assert_array_equal(BodyMaskd("t1", "body", 0.5)(data)["body"], BodyMask(0.5)(data["t1"]))
    assert BodyMaskD is BodyMaskDict is BodyMaskd
    with pytest.raises(KeyError, match="new to the data"):
        BodyMaskd("t1", "t2")(data)


@pytest.mark.parametrize("threshold", ["air", np.nan, np.inf, None, True, np.zeros(2)])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match="`threshold` must be a grey level or 'otsu'"):
        BodyMask(threshold)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((1, 0, 4)), np.full((1, 4, 4), np.nan)])
def test_bad_image(image):
    with pytest.raises(ValueError, match="`img` must be"):
        BodyMask()(image)


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_real_head(contrast):
    path = DATA / "afids" / f"tpl-MNI152NLin2009cAsym_res-01_{contrast}.nii.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    image = np.asarray(nibabel.load(path).dataobj[::3, ::3, ::3], np.float32)
    mask = BodyMask()(image[None])[0] > 0
    assert 0.4 < mask.mean() < 0.5
    assert mask[image > np.percentile(image, 60)].mean() > 0.99
    assert mask[12:-12, 15:-15, 20:-20].mean() > 0.99
    corner = image[:8, :8, -8:]
    assert not mask[:8, :8, -8:].any()
    assert corner.max() < 0.1 * np.percentile(image, 90)


@pytest.mark.slow
def test_real_crops_are_all_tissue():
    paths = sorted((DATA / "hippocampus" / "images").glob("*.nii.gz"))[::50]
    if not paths:
        pytest.skip(f"no images in {DATA / 'hippocampus'}")
    assert all(BodyMask()(np.asarray(nibabel.load(path).dataobj)[None]).all() for path in paths)
