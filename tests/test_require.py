from __future__ import annotations

import pytest

from monai_infoaug._require import require


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
def test_names_argument_accepted_and_got(error):
    with pytest.raises(error, match=r"`window` must be odd, got 4\."):
        require(4 % 2 == 1, "window", 4, "odd", error)


def test_is_silent_where_the_condition_holds():
    assert require(3 % 2 == 1, "window", 3, "odd") is None
