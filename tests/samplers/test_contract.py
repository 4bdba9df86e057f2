"""What every sampler keeps to: settings of the right type, which it shows."""

from __future__ import annotations

import inspect

import pytest

from monai_infoaug import samplers

GIVEN = {"StridePixels": {"stride": (2, 3)}, "DrawnPixels": {"pixels_per_image": 7}}


@pytest.mark.parametrize("name", samplers.__all__)
def test_settings_are_shown(name):
    sampler = getattr(samplers, name)(**GIVEN.get(name, {}))
    names = inspect.signature(type(sampler)).parameters
    shown = {setting: getattr(sampler, setting) for setting in names}
    assert repr(sampler) == f"{name}({', '.join(f'{setting}={value!r}' for setting, value in shown.items())})"
    again = eval(repr(sampler), vars(samplers))
    assert {setting: getattr(again, setting) for setting in names} == shown


@pytest.mark.parametrize("name", samplers.__all__)
def test_numbers_are_numbers_and_counts_are_whole(name):
    cls, given = getattr(samplers, name), GIVEN.get(name, {})
    annotations = {n: setting.annotation for n, setting in inspect.signature(cls).parameters.items()}
    numbers = [n for n, annotation in annotations.items() if "int" in annotation or "float" in annotation]
    assert numbers
    for number in numbers:
        wrong = ["1", float("nan"), True, [[1], [1, 2]], ["1"], object()]
        whole = [1.5, [1.5]] if "int" in annotations[number] else []
        for value in wrong + whole:
            with pytest.raises(ValueError, match=f"`{number}` must be "):
                cls(**given | {number: value})
    if "set_epoch" in dir(cls):
        with pytest.raises(ValueError, match=r"`epoch` must be a whole number of at least 0, got 1\.5"):
            cls(**given).set_epoch(1.5)
