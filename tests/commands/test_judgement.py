from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from monai_infoaug.commands._judgement import Found, features_of, heat_spread, judge, looked_at
from monai_infoaug.data._grids import Grid

TURNED = np.array([[0, 2.0, -10], [-0.5, 0, 70], [0, 0, 1]])  # 160 x 50 voxels: 100 x 80 mm from (-10, -10)
GRID = Grid((160, 50), TURNED)


def example(count: int = 12, detected: bool = True) -> tuple[Found, np.ndarray]:
    """Found landmarks of which one, of the first image, is wrong."""
    rng = np.random.default_rng(0)
    template = 25 * np.stack(np.mgrid[:3, :3], -1).reshape(9, 2) + rng.normal(0, 1, (9, 2))
    points = template + rng.normal(0, 1, (count, 9, 2))
    spreads, scores = np.full((count, 9), 0.8), np.full((count, 9), 0.9)
    near = points + rng.normal(0, 0.5, points.shape)
    matches = np.where(np.arange(count)[:, None, None] < 8, near, np.nan)  # the others were not matched
    points[0, 3] += 25
    scores[0, 3] = 0.2
    return Found(points, scores, detected, matches, spreads), template


@pytest.mark.parametrize("detected", [True, False])
@pytest.mark.parametrize("voxel", [0.5, 1.0])
def test_what_is_wrong_is_said_to_be(detected, voxel):
    found, template = example(detected=detected)
    errors, absent = judge(found, template, voxel, [GRID] * 12)
    assert errors.shape == absent.shape == (12, 9)
    assert errors.argmax() == 3
    assert errors[0, 3] > 2 * np.median(errors)
    assert not absent.any()


def test_units_make_no_difference():
    found, template = example()
    values = {name: 1000 * getattr(found, name) for name in ("points", "matches", "spreads")}
    mm, um = judge(found, template, 0.5)[0], judge(replace(found, **values), 1000 * template, 500)[0]
    np.testing.assert_allclose(um, 1000 * mm, rtol=1e-5)


def test_landmarks_cut_off_are_absent():
    found, template = example()
    cut = template[:, 0].argsort()[:3]
    left = np.sort(template[:, 0])[2:4].mean()
    affine = TURNED.copy()
    affine[0, 2] = left + 1
    points, scores = found.points.copy(), found.scores.copy()
    points[5, cut, 0], scores[5, cut] = left + 2, 0.1
    points[5, cut[0]] = np.nan
    errors, absent = judge(
        replace(found, points=points, scores=scores), template, 0.5, [None] * 5 + [Grid((160, 50), affine)]
    )
    assert absent[5].nonzero()[0].tolist() == sorted(cut)
    assert absent.sum() == 3
    assert np.isnan(errors).nonzero() == ([5], [cut[0]])


@pytest.mark.parametrize("missing", ["matches", "spreads"])
def test_what_is_not_known_is_as_usual(missing):
    found, template = example()
    errors, _ = judge(replace(found, **{missing: None}), template, 0.5)
    assert np.isfinite(errors).all()
    assert errors.argmax() == 3


def test_features_of_images_that_were_not_matched():
    found, template = example()
    features = features_of(found, *looked_at(found, template), 0.5)
    its = np.linalg.norm(found.points - found.matches, axis=-1)
    np.testing.assert_allclose(features["matches"][:8], its[:8])
    np.testing.assert_allclose(features["matches"][8:], np.tile(np.sqrt((its[:8] ** 2).mean(0)), (4, 1)))
    assert all(values.shape == (12, 9) for values in features.values())


def test_of_one_landmark_the_scores_alone_tell():
    found, template = example(detected=False)
    one = Found(found.points[:, :1], np.linspace(0.9, 0.1, 12)[:, None], False)
    errors, absent = judge(one, template[:1], 0.5, [GRID] * 12)
    assert (np.diff(errors[:, 0]) >= 0).all()
    assert errors.max() < 10
    assert not absent[:6].any()


def test_a_template_may_lack_a_landmark():
    found, template = example()
    template[3] = np.nan
    errors, _ = judge(found, template, 0.5)
    assert errors.argmax() == 3


def test_spread_of_a_heat_map():
    points = 3.0 * torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    for radius in (2.0, 5.0):
        share = (points.norm(dim=1) <= radius).double().mean()
        assert heat_spread(share, radius).item() == pytest.approx(3, rel=0.02)
    assert torch.isfinite(heat_spread(torch.tensor([0.0, 1.0]), 5.0)).all()
