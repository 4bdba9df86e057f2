"""Patches and what they share with their changed selves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import set_rnd

pytest.importorskip("tqdm", reason="the command shows its progress with tqdm")

from monai_infoaug.commands import _strengths
from monai_infoaug.information import mutual_information
from monai_infoaug.transforms import intensity_preset
from tests.commands.scenes import anatomy


@pytest.mark.parametrize("shape", [(3, 40, 45), (1, 14, 15, 13)])
def test_patches_are_cut_around_their_centres(shape):
    image, side = torch.rand(shape), {3: 33, 4: 11}[len(shape)]
    centres = torch.stack([torch.randint(side // 2, n - side // 2, (5,)) for n in shape[1:]], 1)
    for patch, centre in zip(_strengths.cut_patches(image, centres), centres.tolist(), strict=True):
        box = tuple(slice(c - side // 2, c + side // 2 + 1) for c in centre)
        assert torch.equal(patch, image[(slice(None), *box)])


def test_patches_lie_in_their_tier_in_the_foreground(monkeypatch):
    monkeypatch.setattr(_strengths, "MAX_VOXELS", 3000)
    image, tiers = torch.rand(2, 90, 70), torch.randint(0, 3, (1, 90, 70))
    tiers[:, :30] = 3  # outside
    view = _strengths.draw_view(image, tiers, np.random.RandomState(0))
    assert view.image.shape[1:].numel() <= 3300
    assert torch.equal(view.image, image[(slice(None), *view.part)])
    for tier, centres in enumerate(view.centres):
        assert len(centres) == 24
        assert len(centres.unique(dim=0)) == 24
        assert (tiers[0][view.part][tuple(centres.T)] == tier).all()
        assert _strengths.cut_patches(view.image, centres).shape == (24, 2, 33, 33)


def test_curves_are_of_the_draw_that_leaves_least(monkeypatch):
    monkeypatch.setattr(_strengths, "STRENGTHS", (0.5, 1.0))
    monkeypatch.setattr(_strengths, "DRAWS", 4)
    generator = np.random.RandomState(0)
    views = [
        _strengths.draw_view(
            torch.from_numpy(anatomy((50, 48), s)[None] / 255.0), torch.full((1, 50, 48), s), generator
        )
        for s in (0, 2)
    ]
    own = _strengths.of_themselves(views, (0.0, 0.9))
    strengths, curves = _strengths.weakened(views, "rich", (0.0, 0.9), own, np.zeros(3), 7)
    assert strengths == [0, 0.5, 1]
    assert np.isnan(curves[:, 1]).all()  # a tier that no image has
    for tier, view in ((0, views[0]), (2, views[1])):
        for strength, bits in zip(strengths, curves[:, tier], strict=True):
            draws = []
            for draw in range(4):
                changed = view.image
                if strength:
                    change = intensity_preset("rich", strength)
                    set_rnd(change, 7 + 2 * draw + (tier == 2))
                    changed = change(view.image).clamp(0, 1)
                each = []
                for x, y in view.centres[tier].tolist():
                    box = (slice(None), slice(x - 16, x + 17), slice(y - 16, y + 17))
                    each.append(mutual_information(view.image[box], changed[box], 16, (0.0, 0.9)))
                draws.append(np.mean(each))
            assert bits == pytest.approx(min(draws), abs=1e-6)


@pytest.mark.parametrize(
    ("bits", "stop", "expected"),
    [((3, 2, 1), 1.5, 0.75), ((3, 2, 1), 2, 0.5), ((3, 2, 1), 0.5, 1), ((3, 1, 2), 1.5, 0.375), ((3, 2, 1), 4, 0)],
)
def test_crossing(bits, stop, expected):
    assert _strengths.crossing([0, 0.5, 1], np.array(bits), stop) == expected


def test_strengths_are_closer_where_a_tier_reaches_its_stop(monkeypatch):
    monkeypatch.setattr(_strengths, "STRENGTHS", (0.5, 1.0))
    monkeypatch.setattr(_strengths, "DRAWS", 1)
    generator = np.random.RandomState(0)
    tiers = torch.arange(3, dtype=torch.uint8).repeat_interleave(24).expand(1, 64, 72)
    views = [_strengths.draw_view(torch.rand(1, 64, 72), tiers, generator)]
    own = _strengths.of_themselves(views, (0.0, 1.0))
    _, coarse = _strengths.weakened(views, "rich", (0.0, 1.0), own, np.full(3, -1.0), 7)
    stop = np.array([coarse[:2, 0].mean(), -1.0, -1.0])  # low reaches its stop at once, the others never
    strengths, curves = _strengths.weakened(views, "rich", (0.0, 1.0), own, stop, 7)
    assert strengths == [0, 0.125, 0.25, 0.375, 0.5, 1]
    np.testing.assert_array_equal(curves[[0, 4, 5]], coarse)
