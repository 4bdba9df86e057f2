from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn.functional import normalize

from monai_infoaug.inferers import LandmarkMatcher, match_points, match_votes, robust_centre
from tests.inferers.test_consensus import inner_points, levels, smooth, turned


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cost(places: np.ndarray, votes: np.ndarray, scale: float) -> np.ndarray:
    """Geman and McClure's cost (P,) of places (P, D)."""
    squares = (np.linalg.norm(places[:, None] - votes, axis=-1) / scale) ** 2
    return (squares / (1 + squares)).sum(1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_no_place_of_a_grid_costs_less(dims, scale):
    votes, scores = 4 * random(7, 5, dims), random(7, 5, seed=1)
    votes[4:] += 9 * random(3, 5, dims, seed=2)
    found = robust_centre(votes, scores, scale, None)
    step = 0.25
    axis = np.arange(-12, 12, step)
    grid = np.array(list(itertools.product(axis, repeat=dims))) if dims == 2 else None
    for n in range(5):
        its = votes[:, n].double().numpy()
        mine = cost(found.points[n : n + 1].double().numpy(), its, scale)[0]
        around = found.points[n].double().numpy() + np.array([*itertools.product((-0.05, 0, 0.05), repeat=dims)])
        assert mine <= cost(around, its, scale).min() + 1e-6
        # a volume is searched around the votes alone, where every minimum lies
        places = (
            its.mean(0) + grid
            if dims == 2
            else np.concatenate(
                [vote + np.array([*itertools.product(np.arange(-2, 2.1, 0.5), repeat=3)]) for vote in its]
            )
        )
        assert mine <= cost(places, its, scale).min() + 1e-2
        weights = 1 / (1 + (np.linalg.norm(its - found.points[n].numpy(), axis=1) / scale) ** 2) ** 2
        assert found.scores[n].item() == pytest.approx(np.average(scores[:, n], weights=weights), abs=1e-4)
        spread = np.linalg.norm(its - found.points[n].numpy(), axis=1).mean()
        assert found.spreads[n].item() == pytest.approx(spread, abs=1e-4)
    assert found.votes.tolist() == [7] * 5


def test_a_majority_wins_over_better_scores():
    votes = torch.tensor([[[10.0, 10.0]], [[10.0, 11.0]], [[11.0, 10.0]], [[60.0, 0.0]], [[61.0, 0.0]]])
    found = robust_centre(votes, torch.tensor([[0.1], [0.1], [0.1], [0.9], [0.9]]))
    assert (found.points[0] - torch.tensor([10.3, 10.3])).norm() < 0.2
    assert found.scores.item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("keep", [None, 3])
def test_the_best_scores_are_kept(keep):
    votes, scores = 5 * random(6, 4, 2), random(6, 4, seed=1)
    found = robust_centre(votes, scores, keep=keep) if keep else robust_centre(votes, scores)
    assert found.votes.tolist() == [keep or 5] * 4
    for n in range(4):
        best = scores[:, n].topk(keep or 5).indices
        alone = robust_centre(votes[best, n, None], scores[best, n, None])
        for kept, its in zip(found, alone, strict=True):
            torch.testing.assert_close(kept[n], its[0])


@pytest.mark.parametrize("far", [0.5, 5.0, 50.0])
def test_of_two_votes_the_better_score_wins(far):
    votes = torch.tensor([[[0.0, 0.0]], [[far, 0.0]]])
    for scores, winner in (((0.3, 0.6), 1), ((0.6, 0.3), 0)):
        found = robust_centre(votes, torch.tensor(scores)[:, None])
        torch.testing.assert_close(found.points, votes[winner])
        assert found.scores.item() == pytest.approx(0.6)
        assert found.spreads.item() == pytest.approx(far / 2)


def test_of_votes_that_all_differ_the_better_score_wins():
    corners = torch.tensor([[0.0, 0, 0], [300, 0, 0], [0, 300, 0], [300, 300, 0], [0, 0, 300]])[:, None]
    for best in range(3):  # of those three that are alike
        scores = torch.full((4, 1), 0.2).index_fill(0, torch.tensor([best]), 0.5)
        torch.testing.assert_close(robust_centre(corners[:4], scores).points, corners[best], atol=0.01, rtol=0)


def test_votes_that_are_missing():
    votes, scores = random(3, 4, 2), random(3, 4, seed=1)
    votes[0, 0] = torch.nan
    scores[:2, 1] = torch.nan
    votes[:, 2] = torch.nan
    found = robust_centre(votes, scores)
    assert found.votes.tolist() == [2, 1, 0, 3]
    torch.testing.assert_close(found.points[1], votes[2, 1])
    assert found.spreads[1] == 0
    assert found.points[2].isnan().all()
    assert found.scores[2].isnan()
    assert found.spreads[2].isnan()
    assert found.points[[0, 1, 3]].isfinite().all()


def test_one_vote_stays_as_it_is_and_types_are_kept():
    votes, scores = 1000 * random(1, 2, 3, 2), random(1, 2, 3, seed=1)
    found = robust_centre(votes, scores)
    torch.testing.assert_close((found.points, found.scores), (votes[0], scores[0]))
    assert found.points.dtype == torch.float32
    assert robust_centre(votes.double(), scores).points.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0}, "`scale` must be a number of millimetres above 0, got 0"),
        ({"scale": "3"}, "`scale` must be a number"),
        ({"keep": 0}, "`keep` must be a whole number of at least 1, or None, got 0"),
        ({"scores": torch.zeros(2)}, r"`votes` must be \(T, \*N, D\) with `scores` \(T, \*N\), got shapes"),
        ({"votes": torch.zeros(0, 3, 2), "scores": torch.zeros(0, 3)}, "`votes` must be"),
    ],
)
def test_bad_votes(arguments, message):
    with pytest.raises(ValueError, match=message):
        robust_centre(**({"votes": torch.zeros(2, 3, 2), "scores": torch.zeros(2, 3)} | arguments))


@pytest.mark.parametrize("patch_radius", [None, 6.0])
def test_each_template_has_a_vote_of_its_own(patch_radius):
    size = (60, 52)
    image = smooth(size)
    query, *_ = turned(image, 0.2, [2.0, 1.0])
    points = torch.stack([inner_points(size, 3, 12), inner_points(size, 3, 14)])
    points[1, 2] = torch.nan
    templates = levels(torch.cat([image, smooth(size, seed=11)]))
    both = levels(torch.cat([query, image]))
    votes, scores = match_votes(templates, points, both, (1, 2), size, patch_radius=patch_radius)
    assert votes.shape == (2, 2, 3, 2)
    for t in range(2):
        own = [level[t : t + 1] for level in templates]
        alone = match_points(own, points[t : t + 1], both, (1, 2), size, patch_radius=patch_radius)
        torch.testing.assert_close((votes[t], scores[t]), alone, equal_nan=True)
    assert votes[1, :, 2].isnan().all()
    with pytest.raises(ValueError, match="`patch_radius` must be"):
        match_votes(templates, points, both, (1, 2), size, patch_radius=0)


class Colours(nn.Module):
    strides = (1,)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [normalize(image, dim=1)]


@pytest.mark.parametrize("size", [(12, 10), (8, 6, 7)])
def test_a_matcher_by_consensus(size):
    dims = len(size)
    image = random(12, *size)
    points = torch.stack([torch.randint(1, s - 1, (6,), generator=torch.Generator().manual_seed(s)) for s in size], 1)
    wrong = random(12, *size, seed=8)  # another anatomy
    templates = torch.stack([image, image + 0.05 * random(12, *size, seed=3), wrong, image])
    landmarks = points.float().repeat(4, 1, 1)
    landmarks[3, 5] = torch.nan
    affine = torch.diag(torch.tensor([*(0.5, 2, 3)[:dims], 1]).double())
    query = MetaTensor(image[None], affine=affine)
    found = LandmarkMatcher(templates, landmarks, consensus=3.0)(query, Colours())
    torch.testing.assert_close(found["landmarks"][0].round(), points.float())
    torch.testing.assert_close(found["world"], found["landmarks"] * affine.diag()[:dims].float())
    assert found["votes"].tolist() == [[4] * 5 + [3]]
    assert found["spreads"].shape == found["scores"].shape == (1, 6)
    assert all(type(value) is torch.Tensor for value in found.values())
    one = LandmarkMatcher(image, points.float(), consensus=3.0)(query, Colours())
    plain = LandmarkMatcher(image, points.float())(query, Colours())
    torch.testing.assert_close({key: one[key] for key in plain}, plain)
    assert set(plain) == {"landmarks", "world", "scores"}
    with pytest.raises(ValueError, match="`consensus` must be a number of millimetres above 0, or None, got -1"):
        LandmarkMatcher(image, points.float(), consensus=-1)


def test_pseudo_templates_are_those_that_score_best():
    size = (40, 36)
    image = random(12, *size)
    points = inner_points(size, 5, 4).round()
    near = [image + noise * random(12, *size, seed=i) for i, noise in enumerate((0.9, 0.1, 0.5, 0.2), 20)]
    matcher = LandmarkMatcher(image, points)
    more = matcher.with_pseudo_templates(near, Colours(), 2)
    torch.testing.assert_close(more.templates, torch.stack([image, near[1], near[3]]))
    for t, i in ((1, 1), (2, 3)):
        torch.testing.assert_close(more.landmarks[t], matcher(near[i][None], Colours())["landmarks"][0])
    assert more.consensus == 3.0
    assert len(matcher.with_pseudo_templates(near, Colours(), 9).templates) == 5
    assert more(image[None], Colours())["votes"].tolist() == [[3] * 5]
    with pytest.raises(ValueError, match="`count` must be a whole number of at least 1, got 0"):
        matcher.with_pseudo_templates(near, Colours(), 0)
