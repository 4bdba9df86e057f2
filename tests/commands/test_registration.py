from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.commands._registration import registration
from tests.commands.scenes import anatomy


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 0.5)])
def test_registration_finds_the_same_place(turned, spacing):
    """Of an image that is shifted, stored the other way round and without a part of its frame."""
    first = MetaTensor(torch.from_numpy(anatomy((90, 80))).float()[None], affine=np.diag([*spacing, 1]))
    array, affine = torch.from_numpy(anatomy((90, 80), 4)).float()[None], np.diag([*spacing, 1])
    if turned:
        array = array.flip(1)
        affine[0, 0], affine[0, 2] = -spacing[0], 89 * spacing[0]
    second = MetaTensor(array, affine=affine)
    transform = registration(first, second)
    for point in np.random.RandomState(0).uniform(25, 60, (20, 2)) * spacing:
        np.testing.assert_allclose(transform.TransformPoint(point), point + 4 * np.array(spacing), atol=1.0)
