from __future__ import annotations

import pytest

from monai_infoaug._require import require, require_device


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
def test_names_argument_accepted_and_got(error):
    with pytest.raises(error, match=r"`window` must be odd, got 4\."):
        require(4 % 2 == 1, "window", 4, "odd", error)


def test_is_silent_where_the_condition_holds():
    assert require(3 % 2 == 1, "window", 3, "odd") is None


@pytest.mark.parametrize("value", ["wide", None, [1, 2]])
def test_a_value_of_a_wrong_type_is_refused_like_a_bad_one(value):
    with pytest.raises(ValueError, match=r"`size` must be above 0, got "):
        require(lambda: value > 0, "size", value, "above 0")
    require(lambda: 3 > 0, "size", 3, "above 0")


@pytest.mark.parametrize("device", ["abacus", "cuda:99", ""])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"`device` must be one that PyTorch finds here, such as cpu, got {device}"):
        require_device(device)
    require_device("cpu")
