from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.information import TIERS, assign_tiers, load_thresholds, save_thresholds, tier_thresholds

R = np.random.RandomState(0)
MAP = R.rand(1, 9, 8).astype(np.float32) * 5


def test_names():
    assert TIERS == ("low", "medium", "high")


@pytest.mark.parametrize("quantiles", [(1 / 3, 2 / 3), (0, 1), (0.5, 0.5), (0.123, 0.9)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda x: MetaTensor(torch.from_numpy(x))])
def test_thresholds_are_the_quantiles_inside_the_mask(quantiles, masked, kind):
    mask = R.rand(1, 9, 8) < 0.3
    expected = np.quantile((MAP[mask] if masked else MAP).astype(float), quantiles)
    result = tier_thresholds(kind(MAP), quantiles, mask if masked else None)
    assert [type(threshold) for threshold in result] == [float, float]
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_each_pixel_has_the_tier_of_its_information():
    mask = R.rand(1, 9, 8) < 0.7
    tiers = assign_tiers(MAP, (1.5, 3), mask)
    assert tiers.dtype == np.uint8
    assert tiers.shape == MAP.shape
    for value, tier, inside in zip(MAP.flat, tiers.flat, mask.flat, strict=True):
        assert tier == (0 if not inside or value < 1.5 else 1 if value < 3 else 2)


def test_edges_belong_to_the_upper_tier():
    np.testing.assert_array_equal(assign_tiers(np.array([[[1.0, 2.0, 3.0]]]), (2, 3)), [[[0, 1, 2]]])
    np.testing.assert_array_equal(assign_tiers(np.array([[[1.0, 2.0, 3.0]]]), (2, 2)), [[[0, 2, 2]]])


def test_default_quantiles_make_three_equal_tiers():
    information = R.permutation(300).reshape(1, 30, 10)
    assert np.bincount(assign_tiers(information, tier_thresholds(information)).ravel()).tolist() == [100, 100, 100]


@pytest.mark.parametrize("value", [0, 0.1, 3.3])
def test_a_constant_map_has_one_tier(value):
    information = torch.full((1, 6, 6), value)
    assert len(assign_tiers(information, tier_thresholds(information)).unique()) == 1


@pytest.mark.parametrize("nothing", [0.0, 0.3, 1 / 3, 0.34, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("shares", [(1 / 3, 2 / 3), (0.1, 0.55)])
def test_what_tells_nothing_is_low_and_the_rest_is_split_as_the_rest_of_the_shares(nothing, shares):
    information = np.sort(R.uniform(1, 5, 30_000)).reshape(1, 100, 300)
    information.flat[: round(nothing * information.size)] = 0
    tiers = assign_tiers(information, tier_thresholds(information, shares))
    assert (tiers[information == 0] == 0).all()
    low = max(shares[0], nothing)
    high = (1 - low) * (1 - shares[1]) / (1 - shares[0])
    counted = np.bincount(tiers.ravel(), minlength=3) / tiers.size
    np.testing.assert_allclose(counted, [low, 1 - low - high, high], atol=2e-4)


def test_thresholds_where_less_than_the_low_share_tells_nothing_are_plain_quantiles():
    information = np.where(np.arange(300) < 99, 0, R.rand(300)).reshape(1, 30, 10)
    assert tier_thresholds(information) == pytest.approx(np.quantile(information, (1 / 3, 2 / 3)), rel=1e-12)


def test_a_low_tier_without_a_share_stays_empty():
    information = np.array([[[0.0, 0.0, 1.0, 2.0]]])
    assert tier_thresholds(information, (0, 0.5)) == (0, 0.5)


def test_kind_and_metadata():
    source = MetaTensor(torch.from_numpy(MAP), affine=torch.diag(torch.tensor([0.3, 0.3, 1, 1])), meta={"a": 1})
    tiers = assign_tiers(source, (1, 2))
    assert isinstance(tiers, MetaTensor)
    assert tiers.dtype == torch.uint8
    assert tiers.meta["a"] == 1
    assert torch.equal(tiers.affine, source.affine)
    np.testing.assert_array_equal(tiers.numpy(), assign_tiers(MAP, (1, 2)))
    assert type(assign_tiers(torch.from_numpy(MAP), (1, 2))) is torch.Tensor


def test_file_round_trip(tmp_path):
    save_thresholds(tmp_path / "cuts.json", np.array([2.27, 4.35]))
    assert json.loads((tmp_path / "cuts.json").read_text()) == {"thresholds": [2.27, 4.35]}
    assert load_thresholds(str(tmp_path / "cuts.json")) == (2.27, 4.35)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\x00",
        "null",
        "[1, 2]",
        "{}",
        '{"thresholds": 3}',
        '{"thresholds": [1]}',
        '{"thresholds": [2, 1]}',
        '{"thresholds": ["1", "2"]}',
        '{"thresholds": [NaN, 2]}',
        '{"thresholds": [1, Infinity]}',
    ],
)
def test_bad_file_is_named(tmp_path, text):
    file = tmp_path / "cuts.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"cuts\.json` must be"):
        load_thresholds(file)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        load_thresholds(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match=r"binary\.json"):
        load_thresholds(tmp_path / "binary.json")


@pytest.mark.parametrize("thresholds", [(2, 1), (1,), (1, 2, 3), (np.nan, 1), (0, np.inf), "12", None, 3])
def test_bad_thresholds(tmp_path, thresholds):
    with pytest.raises(ValueError, match=r"`thresholds` must be two finite numbers"):
        assign_tiers(MAP, thresholds)
    with pytest.raises(ValueError, match=r"`thresholds` must be two finite numbers"):
        save_thresholds(tmp_path / "cuts.json", thresholds)
    assert not (tmp_path / "cuts.json").exists()


@pytest.mark.parametrize("quantiles", [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.1), (0.5,), None])
def test_bad_quantiles(quantiles):
    with pytest.raises(ValueError, match=r"`quantiles` must be two numbers"):
        tier_thresholds(MAP, quantiles)


@pytest.mark.parametrize("information", [MAP[0], np.zeros((2, 4, 4)), MAP[:, :0], MAP + np.nan])
def test_bad_map(information):
    for function in (tier_thresholds, lambda bad: assign_tiers(bad, (1, 2))):
        with pytest.raises(ValueError, match="`information` must be"):
            function(information)


@pytest.mark.parametrize("mask", [np.zeros_like(MAP), MAP[:, 1:], MAP[0]])
def test_bad_mask(mask):
    with pytest.raises(ValueError, match="`mask` must be"):
        tier_thresholds(MAP, mask=mask)
    with pytest.raises(ValueError, match="`mask` must be"):
        assign_tiers(MAP, (1, 2), mask)


@pytest.mark.parametrize("path", [3, 2.5, True, None, ["a"]])
def test_a_file_that_is_no_path(path):
    with pytest.raises(TypeError, match="`file` must be the path of a JSON file, got"):
        load_thresholds(path)
