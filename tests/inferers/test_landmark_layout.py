from __future__ import annotations

import math

import pytest
import torch

from monai_infoaug.inferers import LandmarkLayout


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def turned(points: torch.Tensor, by: float = 0.2) -> torch.Tensor:
    """Turned, stretched and moved."""
    linear = torch.eye(points.shape[-1]).double()
    linear[:2, :2] = 1.1 * torch.tensor([[math.cos(by), math.sin(by)], [-math.sin(by), math.cos(by)]])
    return points @ linear.T + 31


@pytest.mark.parametrize("dims", [2, 3])
def test_each_is_predicted_as_if_it_had_been_left_out(dims):
    template = 30 * random(7, dims)
    layout = LandmarkLayout(template, template + random(4, 7, dims, seed=1))
    found = turned(template)[None] + random(3, 7, dims, seed=2)
    places = layout.predict(found)
    noise, away, _ = layout._fit(found)
    whole = layout._affine + layout.covariance
    for b in range(3):
        own = noise[b].square().repeat_interleave(dims)
        for i in range(7):
            mine = torch.arange(dims) + dims * i
            others = torch.tensor([k for k in range(7 * dims) if k not in mine])
            given = torch.linalg.inv((whole + own.diag())[others][:, others])
            gain = whole[mine][:, others] @ given
            torch.testing.assert_close(places.points[b, i], layout.mean[i] + gain @ away[b, others])
            its = whole[mine][:, mine] - gain @ whole[others][:, mine]
            torch.testing.assert_close(places.covariances[b, i], its, rtol=1e-5, atol=1e-6)
            apart = (found[b, i] - places.points[b, i]).norm()
            torch.testing.assert_close(places.distances[b, i], apart)


@pytest.mark.parametrize("dims", [2, 3])
def test_wrong_and_missing_landmarks_do_not_mislead(dims):
    template = 30 * random(16, dims)
    truth = turned(template)
    found = truth + 0.5 * random(16, dims, seed=1)
    found[:3] += 60
    found[3] = torch.nan
    places = LandmarkLayout(template, found[None]).predict(found[None])
    assert (places.points[0] - truth).norm(dim=-1).max() < 3
    assert places.distances[0, :3].min() > 60
    assert places.distances[0, 3].isnan()
    assert places.distances[0, 4:].max() < 5
    assert places.covariances[0].diagonal(dim1=-2, dim2=-1).sqrt().max() < 5


def test_units_make_no_difference():
    template, found = 30 * random(6, 2), 30 * random(6, 2) + random(5, 6, 2, seed=1)
    found[0, 2] = torch.nan
    mm = LandmarkLayout(template, found).predict(found)
    um = LandmarkLayout(1000 * template, 1000 * found).predict(1000 * found)
    torch.testing.assert_close(um.points, 1000 * mm.points)
    torch.testing.assert_close(um.covariances, 1e6 * mm.covariances, rtol=1e-5, atol=1e-3)


def test_learns_the_mean_and_what_moves_together():
    template = 30 * random(8, 2)
    odd = template.clone()
    odd[0] += torch.tensor([9.0, 0.0])  # as nobody else has it
    bends = 0.3 * random(80, 8, 2, seed=1)
    bends[:, 1] *= 10
    bends[:, 2] = -bends[:, 1]  # far from each other, but moving together
    images = template + bends
    learnt, smooth = LandmarkLayout(odd, images[:60]), LandmarkLayout(odd, images[:0])
    apart, before = (layout.predict(images[60:]).distances.mean(0) for layout in (learnt, smooth))
    assert apart[0] < 2 < 6 < before[0]
    assert apart[2] < 1.5 < 3 < before[2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_landmarks_say_little(count):
    template = 30 * random(count, 2)
    found = template[None] + 5
    places = LandmarkLayout(template, found).predict(found)
    assert places.points.isfinite().all()
    assert places.covariances.isfinite().all()
    if count == 1:
        assert places.covariances[0, 0].diagonal().min() > 3


@pytest.mark.parametrize(
    ("template", "found", "match"),
    [
        (torch.zeros(4), torch.zeros(1, 4, 2), r"`template` must be \(L, 2\) or \(L, 3\), finite"),
        (torch.full((4, 2), torch.nan), torch.zeros(1, 4, 2), "`template`"),
        (torch.zeros(4, 2), torch.zeros(4, 2), r"`found` must be \(N, 4, 2\), got shape \(4, 2\)"),
        (torch.zeros(4, 2), torch.zeros(1, 3, 2), "`found`"),
    ],
)
def test_bad_input_is_refused(template, found, match):
    with pytest.raises(ValueError, match=match):
        LandmarkLayout(template, found)
