from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from monai_infoaug._require import (
    is_count,
    is_number,
    naming,
    reason,
    refusal,
    require_device,
    require_ignore_index,
    require_shares,
    require_truth,
    to_path,
)
from monai_infoaug.engines.precision import half_precision
from monai_infoaug.networks import AttentionSegmenter
from monai_infoaug.samplers import DistributionAlignment, ReliablePixels


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
def test_names_argument_accepted_and_got(error):
    refused = refusal("window", 4, "odd", error)
    assert type(refused) is error
    assert refused.args == ("`window` must be odd, got 4.",)


@pytest.mark.parametrize("value", ["wide", "3", None, [1, 2], True, np.bool_(True), 1j, np.array([1.0, 2.0])])
def test_what_is_neither_a_number_nor_a_count(value):
    assert not is_number(value)
    assert not is_count(value)


@pytest.mark.parametrize("value", [3, np.int16(3), np.uint8(3)])
def test_whole_numbers_of_any_type_are_counts_and_numbers(value):
    assert is_count(value, 3)
    assert not is_count(value, 4)
    assert is_number(value, 3, 3)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5)])
def test_fractions_of_any_type_are_numbers_and_no_counts(value):
    assert is_number(value, 0, 1)
    assert not is_number(value, 0.6)
    assert not is_number(value, 0, 0.4)
    assert not is_count(value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 10**400])
def test_no_number_is_without_a_limit(value):
    assert not is_number(value)


@pytest.mark.parametrize("value", [-1, 0, np.int16(255), 255.0])
def test_labels_to_ignore(value):
    require_ignore_index(value)


@pytest.mark.parametrize("value", ["255", 1.5, np.nan, np.inf, True, None, [255]])
def test_labels_to_ignore_are_whole_numbers(value):
    with pytest.raises(ValueError, match="`ignore_index` must be a whole number, got "):
        require_ignore_index(value)


@pytest.mark.parametrize("shares", [(0.2, 0.3, 0.5), [1, 0, 0], np.float32([0.1, 0.45, 0.45]), None])
def test_shares_that_sum_to_one(shares):
    require_shares(shares)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.5, 0.6, -0.1), (1, 1, 1), "abc", 1, ("a", 0, 1), [np.nan, 0.5, 0.5], [[1], [0, 1], 0]]
)
def test_other_shares(shares):
    with pytest.raises(ValueError, match="`shares` must be three shares"):
        require_shares(shares)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", ""])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"`device` must be one that PyTorch finds here, such as cpu, got {device}"):
        require_device(device)
    require_device("cpu")


def test_an_error_is_told_in_a_line_that_says_what_it_was_about():
    def wrapped():  # as MONAI wraps what its transforms raise
        try:
            raise refusal("pixdim", -1, "above 0")
        except ValueError as error:
            raise RuntimeError(f"applying transform\n{error}") from error

    with pytest.raises(ValueError, match=r"^image 1\.png: `pixdim` must be above 0, got -1\.$"), naming("image 1.png"):
        wrapped()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError(), "KeyError"),
        (OSError("\nno space\nleft"), "no space"),
        (TypeError("ValueError: `a` is b"), "`a` is b"),
    ],
)
def test_reason(error, expected):
    assert reason(error) == expected


@pytest.mark.parametrize("value", ["false", "", None, 2, 0.0, np.ones(2), []])
def test_what_is_neither_true_nor_false(value):
    with pytest.raises(ValueError, match="`amp` must be true or false, got "):
        require_truth(resume=True, amp=value)


@pytest.mark.parametrize("value", [True, False, np.bool_(True), 0, np.int64(1)])
def test_what_is_true_or_false(value):
    require_truth(amp=value)


def test_paths():
    assert to_path("path", "a/b") == to_path("path", Path("a", "b")) == Path("a/b")
    for value in (3, b"a", None, ["a"]):
        with pytest.raises(TypeError, match="`path` must be a path, got "):
            to_path("path", value)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("enabled", lambda value: half_precision("cpu", value).__enter__()),
        ("background", lambda value: AttentionSegmenter(nn.Identity(), nn.Identity(), background=value)),
        ("over_processes", lambda value: ReliablePixels(over_processes=value)),
        ("over_processes", lambda value: DistributionAlignment(over_processes=value)),
    ],
)
def test_truth_values_that_are_handed_on(name, make):
    for value in ("false", None, 0.5, [True]):
        with pytest.raises(ValueError, match=f"`{name}` must be true or false"):
            make(value)
