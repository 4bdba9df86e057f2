from __future__ import annotations

import json
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.information import TIERS, assign_tiers, load_thresholds, save_thresholds, tier_thresholds

R = np.random.RandomState(0)
MAP = R.rand(1, 9, 8).astype(np.float32) * 5


def test_names():
    assert TIERS == ("low", "medium", "high")


def misfit(values, thresholds, quantiles):
    """Sum of squares of what the tiers' shares of the values lack."""
    t1, t2 = (float((values < threshold).mean()) for threshold in thresholds)
    q1, q2 = quantiles
    return (t1 - q1) ** 2 + (t2 - t1 - (q2 - q1)) ** 2 + (t2 - q2) ** 2


@pytest.mark.parametrize("quantiles", [(1 / 3, 2 / 3), (0, 1), (0.5, 0.5), (0.123, 0.9)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda x: MetaTensor(torch.from_numpy(x))])
def test_thresholds_are_the_quantiles_inside_the_mask(quantiles, masked, kind):
    mask = R.rand(1, 9, 8) < 0.3
    inside = MAP[mask] if masked else MAP.ravel()
    result = tier_thresholds(kind(MAP), quantiles, mask if masked else None)
    assert [type(threshold) for threshold in result] == [float, float]
    assert set(result) <= set(inside.tolist())
    best = min(misfit(inside, cuts, quantiles) for cuts in combinations_with_replacement(np.unique(inside), 2))
    if quantiles[1] < 1:  # else high has the largest value, so that its threshold is one of the map
        assert misfit(inside, result, quantiles) == pytest.approx(best, abs=1e-12)
    assert np.abs([(inside < cut).mean() for cut in result] - np.array(quantiles)).max() <= 1 / len(inside) + 1e-12


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
    information = 1 + R.permutation(300).reshape(1, 30, 10)
    assert np.bincount(assign_tiers(information, tier_thresholds(information)).ravel()).tolist() == [100, 100, 100]


@pytest.mark.parametrize(("value", "tier"), [(0, 0), (1e-7, 0), (0.1, 2), (3.3, 2)])
def test_a_constant_map_has_one_tier(value, tier):
    information = torch.full((1, 6, 6), value)
    assert assign_tiers(information, tier_thresholds(information)).unique().tolist() == [tier]


@pytest.mark.parametrize("shape", [(1, 100, 300), (1, 30, 20, 50)])
@pytest.mark.parametrize("bits", [0, 1e-7, -1e-7])
@pytest.mark.parametrize("nothing", [0.0, 0.3, 1 / 3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("quantiles", [(1 / 3, 2 / 3), (0.1, 0.55), (0, 0.5)])
def test_what_tells_nothing_is_low_and_quantiles_are_of_the_rest(quantiles, nothing, bits, shape):
    information = R.permutation(R.uniform(1, 5, 30_000)).reshape(shape)
    information.flat[: round(nothing * information.size)] = bits
    thresholds = tier_thresholds(information, quantiles)
    tiers = assign_tiers(information, thresholds)
    assert (tiers[information < 1] == 0).all()
    if nothing < 1:
        counted = np.bincount(tiers[information >= 1], minlength=3) / (information >= 1).sum()
        np.testing.assert_allclose(counted, np.diff([0, *quantiles, 1]), atol=2e-4)
        assert thresholds == tier_thresholds(information, quantiles, information >= 1)  # however much of it is around


@pytest.mark.parametrize("thresholds", [(0, 0), (-5, -1), (0, 3), (1e-7, 1e-7), (2, 4)])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda x: MetaTensor(torch.from_numpy(x))])
def test_what_tells_nothing_is_low_whatever_the_thresholds_are(kind, thresholds):
    information = np.where(R.rand(1, 9, 8, 3) < 0.5, R.choice([0, 1e-7], (1, 9, 8, 3)), 3.5)
    tiers = np.asarray(assign_tiers(kind(information), thresholds))
    assert set(tiers[information < 1]) == {0}
    assert set(tiers[information > 1]) == {(thresholds[0] <= 3.5) + (thresholds[1] <= 3.5)}


def test_few_levels_leave_no_tier_empty():
    """Quantised maps tie at the quantiles: all tiers have a voxel, or low and high if there are two levels alone."""
    for _ in range(300):
        levels = R.choice([0, 0.5, 1, 2, 3, 4.5], R.randint(2, 7), replace=False)
        weights = R.dirichlet(np.full(len(levels), 0.3))
        information = np.concatenate([levels, R.choice(levels, 200, p=weights)]).reshape(1, 1, -1)
        thresholds = tier_thresholds(information)
        tiers = assign_tiers(information, thresholds)
        assert set(tiers.ravel()) == ({0, 1, 2} if len(levels) > 2 else {0, 2})
        if len(levels) > 2 and levels.min() > 0:
            best = min(misfit(information, cuts, (1 / 3, 2 / 3)) for cuts in combinations(sorted(levels)[1:], 2))
            assert misfit(information, thresholds, (1 / 3, 2 / 3)) <= 1.2 * best + 1e-12
        assert all(len(set(tiers[information == level])) == 1 for level in levels)


def test_ties_go_where_the_shares_come_closest():
    information = np.repeat([1.0, 2, 3, 4], [1, 33, 33, 33]).reshape(1, 10, 10)
    assert np.bincount(assign_tiers(information, tier_thresholds(information)).ravel()).tolist() == [34, 33, 33]
    information = np.repeat([1.0, 2, 3], [50, 30, 20]).reshape(1, 10, 10)
    assert np.bincount(assign_tiers(information, tier_thresholds(information)).ravel()).tolist() == [50, 30, 20]


def test_all_of_the_foreground_tells_nothing():
    information, mask = R.rand(1, 9, 8), R.rand(1, 9, 8) < 0.5
    information[mask] = 0
    assert not assign_tiers(information, tier_thresholds(information, mask=mask), mask).any()


def test_a_low_tier_without_a_share_is_what_tells_nothing():
    information = np.array([[[0.0, 0.0, 1.0, 2.0]]])
    assert assign_tiers(information, tier_thresholds(information, (0, 0.5))).tolist() == [[[0, 0, 1, 2]]]


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
