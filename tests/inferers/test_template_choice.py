"""Which images to annotate: greedy steps against all subsets, and where points are drawn."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from monai_infoaug.inferers import choose_templates, salient_points
from monai_infoaug.networks import PixelEmbeddingNet


def reached(scores: torch.Tensor, rows) -> float:
    """Mean over the images of the best score of the rows."""
    return sum(max(float(scores[row, image]) for row in rows) for image in range(scores.shape[1])) / scores.shape[1]


@pytest.mark.parametrize("seed", range(5))
def test_each_step_is_the_best_one_and_all_steps_are_nearly_the_best_set(seed):
    scores = torch.rand(7, 5, generator=torch.Generator().manual_seed(seed))
    choice = choose_templates(scores, 3)
    rows = choice.rows.tolist()
    assert len(set(rows)) == 3
    for step in range(3):
        best = max(reached(scores, [*rows[:step], row]) for row in range(7) if row not in rows[:step])
        assert reached(scores, rows[: step + 1]) == pytest.approx(best)
        assert choice.reached[step] == pytest.approx(best)
        assert choice.alone[step] == pytest.approx(reached(scores, [rows[step]]))
    assert reached(scores, rows) >= 0.63 * max(reached(scores, few) for few in combinations(range(7), 3))
    before = [float(scores.mean()), *choice.reached.tolist()]
    torch.testing.assert_close(choice.gains, torch.tensor(before).double().diff(), atol=1e-6, rtol=0)


def test_those_given_are_not_chosen_and_the_next_adds_to_them():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.8, 0.9, 0.2], [0.1, 0.1, 0.7], [0.2, 0.2, 0.2]])
    assert choose_templates(scores, 1).rows.tolist() == [1]
    choice = choose_templates(scores, given=[1])
    assert choice.rows.tolist()[0] == 2
    assert sorted(choice.rows.tolist()) == [0, 2, 3]
    torch.testing.assert_close(choice.gains, torch.tensor([0.5, 0.1, 0.0]).double() / 3)
    assert len(choose_templates(scores, given=range(4)).rows) == 0


def test_what_adds_nothing_is_ranked_by_its_mean():
    scores = torch.tensor([[0.9, 0.9], [0.1, 0.3], [0.5, 0.4]])
    assert choose_templates(scores).rows.tolist() == [0, 2, 1]


def test_an_image_serves_itself_as_it_serves_others_and_as_others_do():
    scores = torch.tensor([[torch.nan, 0.6, 0.5], [0.4, torch.nan, 0.7], [0.3, 0.2, torch.nan]])
    filled = torch.tensor([[0.45, 0.6, 0.5], [0.4, 0.5, 0.7], [0.3, 0.2, 0.4]])  # mean of row + of column - of all
    for one, other in zip(choose_templates(scores), choose_templates(filled), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert choose_templates(torch.tensor([[torch.nan]])).rows.tolist() == [0]


@pytest.mark.parametrize(
    ("scores", "options", "name"),
    [
        (torch.zeros(3), {}, "scores"),
        (torch.zeros(0, 3), {}, "scores"),
        (torch.zeros(2, 3), {"number": 0}, "number"),
        (torch.zeros(2, 3), {"number": 1.5}, "number"),
        (torch.zeros(2, 3), {"given": [2]}, "given"),
        (torch.zeros(2, 3), {"given": [-1]}, "given"),
    ],
)
def test_bad_input_is_named(scores, options, name):
    with pytest.raises(ValueError, match=f"^`{name}` must be"):
        choose_templates(scores, **options)


@pytest.mark.parametrize("dims", [2, 3])
def test_points_are_drawn_where_the_embedding_changes(dims):
    """In halves of constant embeddings, beside the border between them."""
    level = torch.zeros(1, 2, *[16] * dims)
    level[:, 0, :8], level[:, 1, 8:] = 3, 0.5
    coarse = torch.rand(1, 2, *[4] * dims)
    points = salient_points([coarse, level], [8, 2], 10)
    assert points.shape == (1, 10, dims)
    assert set(points[0, :, 0].tolist()) <= {2 * 7 + 0.5, 2 * 8 + 0.5}
    torch.testing.assert_close(points, salient_points([coarse, level], [8, 2], 10))
    inside = salient_points([coarse, level], [8, 2], 5, [1, 0])  # the finest level is not looked at
    assert bool(((inside[0] - 3.5) % 8 == 0).all())


def test_points_of_a_network_lie_in_its_image():
    network, image = PixelEmbeddingNet(), torch.rand(1, 1, 30, 41)
    points = salient_points(network(image), network.strides, 1000)
    assert len(points[0]) == 15 * 21  # all cells
    assert not points.requires_grad
    with pytest.raises(ValueError, match=r"^`count` must be"):
        salient_points(network(image), network.strides, 0)
