from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from monai.transforms import Compose, RandFlipd, Rotate90, Rotate90d, Zoom, Zoomd

from monai_infoaug.information import assign_tiers, local_entropy, save_thresholds, tier_thresholds
from monai_infoaug.transforms import InformationMap, InformationMapd, InformationTiers, InformationTiersd
from tests.versions import TRACKED

R = np.random.RandomState(0)
IMAGE = R.rand(1, 24, 20).astype(np.float32)
MASK = R.rand(1, 24, 20) < 0.6
AFFINE = torch.diag(torch.tensor([0.5, 1.0, 1.0, 1.0], dtype=torch.float64))


def meta(array, affine=AFFINE):
    return MetaTensor(torch.from_numpy(array), affine=affine, meta={"filename_or_obj": "a.nii"})


def test_map_is_the_mean_over_channels():
    image = R.rand(3, 10, 11, 9)
    expected = local_entropy(image, 5, 16, (0, 1)).mean(0, keepdims=True)
    result = InformationMap(window=5, num_bins=16, value_range=(0, 1))(image)
    assert result.shape == (1, 10, 11, 9)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, meta])
def test_kind_and_metadata(kind):
    image = kind(IMAGE.copy())
    information = InformationMap(5)(image, MASK)
    tiers = InformationTiers()(information, MASK)
    for result, dtype in ((information, torch.float32), (tiers, torch.uint8)):
        assert type(result) is type(image)
        assert torch.as_tensor(result).dtype == dtype
        assert result.shape == (1, 24, 20)
        assert not np.asarray(result)[~MASK].any()
        if kind is meta:
            assert torch.equal(result.affine, AFFINE)
            assert result.meta["filename_or_obj"] == "a.nii"
    np.testing.assert_array_equal(np.asarray(information), local_entropy(IMAGE, 5, mask=MASK))
    thresholds = tier_thresholds(np.asarray(information), mask=MASK)
    np.testing.assert_array_equal(np.asarray(tiers), assign_tiers(np.asarray(information), thresholds, MASK))
    np.testing.assert_array_equal(np.asarray(image), IMAGE)


@pytest.mark.parametrize(
    ("window_mm", "pixdim", "window"),
    [
        (5, None, (11, 5)),  # 10 voxels of 0.5 mm lie between 9 and 11
        (5, (1.0, 1.0), 5),
        (2.7, 0.3, 9),
        ((1, 8.9), None, (3, 9)),  # never below 3
        (((5,), (1, 8.9)), None, ((11, 5), (3, 9))),
        (0.1, 0.5, 3),
    ],
)
def test_window_in_millimetres(window_mm, pixdim, window):
    result = InformationMap(window_mm=window_mm, pixdim=pixdim)(meta(IMAGE))
    np.testing.assert_array_equal(result.numpy(), InformationMap(window)(IMAGE))


def test_spacing_survives_rotation_and_serves_3d():
    affine = torch.tensor([[0, 0, 2.0, 0], [0.6, 0.8 * 1, 0, 0], [0.8, -0.6, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    image = R.rand(1, 9, 10, 11)
    result = InformationMap(window_mm=6)(meta(image, affine))
    np.testing.assert_array_equal(result.numpy(), InformationMap((7, 7, 3))(image))


def test_a_plain_array_has_no_spacing():
    for image in (IMAGE, torch.from_numpy(IMAGE)):
        with pytest.raises(ValueError, match="`pixdim` must be given with `window_mm`"):
            InformationMap(window_mm=3)(image)


def test_pending_operations_are_applied_first():
    chain = Rotate90(), Zoom(1.5, keep_size=False)
    expected = InformationMap(5)(Compose(chain)(meta(IMAGE)))
    image = meta(IMAGE)
    for transform in chain:
        image = transform(image, lazy=True)
    direct = InformationMap(5)(image)
    assert len(image.pending_operations) == 2
    assert image.shape == (1, 24, 20)
    for result in (direct, Compose([*chain, InformationMap(5)], lazy=True)(meta(IMAGE))):
        assert result.shape == expected.shape == (1, 30, 36)
        assert not result.pending_operations
        assert len(result.applied_operations) == len(expected.applied_operations) == 2
        torch.testing.assert_close(result.affine, expected.affine)
    eager = InformationMap(5)(Compose(chain, lazy=True)(meta(IMAGE)))  # one resampling instead of two
    torch.testing.assert_close(direct.as_tensor(), eager.as_tensor())


def test_pending_operations_in_a_dictionary():
    data = {"image": meta(IMAGE), "mask": meta(MASK.astype(np.float32))}
    lazy = Zoomd(["image", "mask"], 1.5, mode=["area", "nearest"], keep_size=False, lazy=True)(data)
    lazy = Rotate90d(["image", "mask"], lazy=True)(lazy)
    result = InformationMapd("image", window=5, mask_key="mask")(lazy)
    assert len(lazy["image"].pending_operations) == len(lazy["mask"].pending_operations) == 2
    assert {key: tuple(value.shape) for key, value in result.items()} == dict.fromkeys(
        ("image", "mask", "information"), (1, 30, 36)
    )
    assert not any(value.pending_operations for value in result.values())
    expected = InformationMap(5)(result["image"], result["mask"])
    torch.testing.assert_close(result["information"].as_tensor(), expected.as_tensor())


def test_dictionary_keeps_the_rest_and_its_input():
    data = {"image": IMAGE, "mask": MASK, "name": "a"}
    result = Compose([InformationMapd("image", window=5, mask_key="mask"), InformationTiersd(mask_key="mask")])(data)
    assert set(data) == {"image", "mask", "name"}
    assert set(result) == {*data, "information", "tiers"}
    assert result["name"] == "a"
    assert result["image"] is IMAGE
    np.testing.assert_array_equal(result["information"], InformationMap(5)(IMAGE, MASK))
    np.testing.assert_array_equal(result["tiers"], InformationTiers()(result["information"], MASK))


def test_several_keys():
    data = {"t1": IMAGE, "t2": IMAGE[:, ::-1]}
    assert set(InformationMapd(["t1", "t2"])(data)) == {"t1", "t2", "t1_information", "t2_information"}
    result = InformationMapd(["t1", "t2"], ["a", "b"])(data)
    assert set(InformationTiersd(["a", "b"])(result)) == {"t1", "t2", "a", "b", "a_tiers", "b_tiers"}
    np.testing.assert_array_equal(result["b"], InformationMap()(data["t2"]))
    with pytest.raises(ValueError, match="`output keys` must be one for each of"):
        InformationMapd(["t1", "t2"], ["a"])


def test_missing_and_existing_keys():
    with pytest.raises(KeyError, match="image"):
        InformationMapd("image")({"other": IMAGE})
    assert set(InformationMapd(["image", "other"], allow_missing_keys=True)({"other": IMAGE})) == {
        "other",
        "other_information",
    }
    with pytest.raises(KeyError, match="got mask"):
        InformationMapd("image", mask_key="mask", allow_missing_keys=True)({"image": IMAGE})
    with pytest.raises(KeyError, match="new to the data, got information"):
        InformationMapd("image")({"image": IMAGE, "information": IMAGE})
    with pytest.raises(KeyError, match="new to the data, got tiers"):
        InformationTiersd()({"information": IMAGE, "tiers": IMAGE})


def test_thresholds_come_from_one_place(tmp_path):
    save_thresholds(tmp_path / "cuts.json", (0.2, 0.6))
    expected = assign_tiers(IMAGE, (0.2, 0.6))
    for transform in (InformationTiers((0.2, 0.6)), InformationTiers(file=tmp_path / "cuts.json")):
        np.testing.assert_array_equal(transform(IMAGE), expected)
    expected = assign_tiers(IMAGE, tier_thresholds(IMAGE, (0.1, 0.5)))
    np.testing.assert_array_equal(InformationTiers(quantiles=(0.1, 0.5))(IMAGE), expected)
    with pytest.raises(ValueError, match="the only one given"):
        InformationTiers(thresholds=(1, 2), quantiles=(0.1, 0.5))
    with pytest.raises(ValueError, match="the only one given"):
        InformationTiers(quantiles=(0.1, 0.5), file=tmp_path / "cuts.json")


def test_settings_from_a_file(tmp_path):
    file = tmp_path / "found.json"

    def write(**settings):
        file_settings = {"num_bins": 8, "value_range": [0.1, 0.7], "window": 5, "window_mm": None}
        settings = file_settings | {"reduction": "mean", "noise_factor": None} | settings
        file.write_text(json.dumps({"version": 2, "information": settings}))

    write()
    expected = InformationMap(5, num_bins=8, value_range=(0.1, 0.7))(IMAGE)
    np.testing.assert_array_equal(InformationMap(file=file)(IMAGE), expected)
    np.testing.assert_array_equal(InformationMapd("image", file=str(file))({"image": IMAGE})["information"], expected)
    write(window_mm=3.0)
    expected = InformationMap(window_mm=3, num_bins=8, value_range=(0.1, 0.7))(meta(IMAGE))
    assert torch.equal(InformationMap(file=file)(meta(IMAGE)), expected)
    write(window=[[3], [5, 7]], reduction="max", noise_factor=2.0)
    expected = local_entropy(IMAGE, ((3, 3), (5, 7)), 8, (0.1, 0.7), reduction="max", noise_factor=2.0)
    np.testing.assert_array_equal(InformationMap(file=file)(IMAGE), expected)
    given = {"window": [[3], [5, 7]], "num_bins": 8, "value_range": (0.1, 0.7), "reduction": "max", "noise_factor": 2.0}
    np.testing.assert_array_equal(InformationMapd("i", **given)({"i": IMAGE})["information"], expected)
    faults = {
        "window": "9",
        "num_bins": 2.5,
        "value_range": [1, 0],
        "window_mm": "3",
        "reduction": 1,
        "noise_factor": 0,
    }
    for faulty in ({name: value} for name, value in faults.items()):
        write(**faulty)
        with pytest.raises(ValueError, match=f"`{next(iter(faulty))}` must be"):
            InformationMap(file=file)
    write(mask="left")
    with pytest.raises(ValueError, match=r"`information in .*found\.json` must be a dictionary with window, window_mm"):
        InformationMap(file=file)


@pytest.mark.parametrize(
    "beside",
    [
        {"window": 9},
        {"window_mm": 3.0},
        {"num_bins": 32},
        {"value_range": (0, 1)},
        {"reduction": "max"},
        {"noise_factor": 1.0},
    ],
    ids=str,
)
def test_what_the_file_says_is_refused_beside_it(tmp_path, beside):
    settings = {"num_bins": 8, "value_range": [0.1, 0.7], "window": 5, "window_mm": None}
    settings |= {"reduction": "mean", "noise_factor": None}
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"version": 2, "information": settings}))
    for make in (InformationMap, lambda **given: InformationMapd("image", **given)):
        with pytest.raises(ValueError, match=f"`{next(iter(beside))}` must be None beside `file`, which says it, got"):
            make(file=file, **beside)
    assert InformationMap(file=file, pixdim=0.5).pixdim == 0.5  # of which the file says nothing


def test_window_and_num_bins_have_defaults():
    np.testing.assert_array_equal(InformationMap()(IMAGE), local_entropy(IMAGE, 9, 32))
    np.testing.assert_array_equal(InformationMapd("i")({"i": IMAGE})["information"], local_entropy(IMAGE, 9, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InformationMap(9, window_mm=3.0), "`window` must be None beside `window_mm`, got 9"),
        (lambda: InformationMapd("image", window=9, window_mm=3.0), "`window` must be None beside `window_mm`"),
        (lambda: InformationMap(window_mm=True), "`window_mm` must be None or positive"),
        (lambda: InformationMap(value_range=np.array(1.0)), "`value_range`"),
        (lambda: InformationMap(value_range=(0, True)), "`value_range`"),
        (lambda: InformationTiers(np.array(1.0)), "`thresholds`"),
        (lambda: InformationMap(4), "`window` must be odd"),
        (lambda: InformationMap(num_bins=1), "`num_bins`"),
        (lambda: InformationMap(((5,), (4,))), "`window` must be odd"),
        (lambda: InformationMap(reduction="sum"), "`reduction` must be one of"),
        (lambda: InformationMap(noise_factor=-1), "`noise_factor` must be None or a positive number"),
        (lambda: InformationMap(window_mm=((3,), (0,))), "`window_mm` must be None or positive"),
        (lambda: InformationMap(value_range=(2, 1)), "`value_range`"),
        (lambda: InformationMap(window_mm=0), "`window_mm` must be None or positive"),
        (lambda: InformationMap(window_mm="9"), "`window_mm`"),
        (lambda: InformationMap(window_mm=3, pixdim=(0.3, -1)), "`pixdim` must be None or positive"),
        (lambda: InformationMapd("image", window=4), "`window` must be odd"),
        (lambda: InformationTiers((2, 1)), "`thresholds`"),
        (lambda: InformationTiers(np.array([2, 1])), "`thresholds`"),
        (lambda: InformationTiers(quantiles=(0.5, 2)), "`quantiles`"),
        (lambda: InformationTiersd(thresholds=(2, 1)), "`thresholds`"),
        (
            lambda: InformationMap(window_mm=(1, 2, 3))(meta(IMAGE)),
            "`window_mm` must be one number or one for each of 2",
        ),
        (
            lambda: InformationMap(window_mm=3, pixdim=(1, 1, 1))(IMAGE),
            "`pixdim` must be one number or one for each of 2",
        ),
        (lambda: InformationMap(window_mm=30)(meta(IMAGE)), "no larger than the image's axes"),
        (lambda: InformationMap()(IMAGE[0]), "`image` must be channel first"),
        (lambda: InformationMap(window_mm=3, pixdim=1)(IMAGE[0]), "`image` must be channel first"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_thresholds_may_be_an_array():
    np.testing.assert_array_equal(InformationTiers(np.array([0.2, 0.6]))(IMAGE), assign_tiers(IMAGE, (0.2, 0.6)))


def test_are_deterministic_for_the_caching_data_sets(tmp_path):
    def chain(window):
        flip = RandFlipd(["image", "information", "tiers"], prob=1.0, spatial_axis=0)
        return Compose([InformationMapd("image", window=window), InformationTiersd(), flip])

    data = [{"image": IMAGE}, {"image": IMAGE[:, ::-1].copy()}]
    cached = CacheDataset(data, chain(5), num_workers=2, progress=False)
    assert all({"information", "tiers"} <= set(item) for item in cached._cache)
    for window in (5, 9):
        stored = PersistentDataset(data, chain(window), tmp_path, **TRACKED)
        expected = InformationMap(window)(IMAGE)[:, ::-1]
        for _ in range(2):  # computed, then read
            np.testing.assert_array_equal(np.asarray(stored[0]["information"]), expected)
        if window == 5:
            np.testing.assert_array_equal(np.asarray(cached[0]["information"]), expected)
    assert len(list(tmp_path.glob("*.pt"))) == 2  # a changed window has a cache of its own
