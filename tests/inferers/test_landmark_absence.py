from __future__ import annotations

import pytest
import torch

from monai_infoaug.inferers import LandmarkLayout, LayoutPlaces, absent_landmarks, share_inside
from monai_infoaug.inferers.landmark_absence import FLEXIBLE

# turned by a quarter, voxels of 2 x 0.5 x 1 mm: x grows along axis 1, y falls along axis 0
AFFINE = torch.tensor([[0, 0.5, 0, -3], [-2, 0, 0, 40], [0, 0, 1, 5], [0, 0, 0, 1.0]]).double()
SIZE = (20, 100, 30)


def places(points: torch.Tensor, deviation: float = 1.0) -> LayoutPlaces:
    eye = torch.eye(points.shape[-1]).double().expand(*points.shape, -1)
    return LayoutPlaces(points, eye * deviation**2, torch.zeros(points.shape[:-1]))


def test_the_share_inside_is_that_of_draws():
    generator = torch.Generator().manual_seed(0)
    points = torch.tensor([[[-3.0, 40.0, 20.0], [20.0, 20.0, 20.0], [47.0, 2.0, 34.0], [80.0, 20.0, 20.0]]]).double()
    spread = torch.tensor([4.0, 9.0, 2.0]).double()  # along axes of the millimetres, which are those of the voxels
    given = LayoutPlaces(points, spread.square().diag().expand(1, 4, 3, 3), torch.zeros(1, 4))
    drawn = points[0] + FLEXIBLE * spread * torch.randn(20000, 4, 3, generator=generator).double()
    voxels = (drawn - AFFINE[:3, 3]) @ torch.linalg.inv(AFFINE[:3, :3]).T
    inside = ((voxels > -0.5) & (voxels < torch.tensor(SIZE) - 0.5)).all(-1).double().mean(0)
    torch.testing.assert_close(share_inside(given, SIZE, AFFINE)[0], inside, rtol=0, atol=0.015)


@pytest.mark.parametrize(
    ("apart", "fit", "absent"),
    [
        (-20.0, 1.0, False),  # voxels beyond the border
        (-20.0, 0.1, False),  # badly found, but it has to be there
        (0.5, 1.0, False),  # at the border, and well found
        (0.5, 0.2, True),
        (0.5, float("nan"), True),
        (20.0, 0.2, True),
        (20.0, 0.9, True),  # something alike has been found
    ],
)
def test_layout_and_fit_decide_together(apart, fit, absent):
    point = torch.tensor([[[10.0, 99.5 + apart, 15.0]]]).double() @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    assert absent_landmarks(places(point), torch.tensor([[fit]]), SIZE, AFFINE).item() is absent


def test_what_was_cut_off_is_absent():
    generator = torch.Generator().manual_seed(0)
    template = 60 * torch.rand(12, 2, generator=generator).double()
    images = template + torch.randn(30, 12, 2, generator=generator).double()
    layout = LandmarkLayout(template, images[:20])
    wrong = total = 0
    for truth in images[20:]:
        order = truth[:, 0].argsort()
        left = truth[order[2:4], 0].mean().item()
        found, fits = truth.clone(), torch.ones(12)
        found[order[:3]], fits[order[:3]] = torch.nan, 0.3  # what does not fit says nothing of the others
        size, affine = [round(60 - left), 60], torch.eye(3)
        affine[0, 2] = left
        absent = absent_landmarks(layout.predict(found[None]), fits[None], size, affine)[0]
        wrong += (absent != (truth[:, 0] < left)).sum().item()
        total += 12
    assert wrong <= 0.03 * total


@pytest.mark.parametrize(
    ("size", "affine", "fits", "match"),
    [
        ((5, 5), torch.eye(3), torch.ones(1, 2), r"`fits` must be \(1, 3\), got shape \(1, 2\)"),
        ((5, 5, 5), torch.eye(3), torch.ones(1, 3), "`size` must be 2 numbers of voxels"),
        ((5, 0), torch.eye(3), torch.ones(1, 3), "`size`"),
        ((5, 5), torch.eye(4), torch.ones(1, 3), r"`affine` must be \(3, 3\)"),
    ],
)
def test_bad_input_is_refused(size, affine, fits, match):
    with pytest.raises(ValueError, match=match):
        absent_landmarks(places(torch.zeros(1, 3, 2).double()), fits, size, affine)
