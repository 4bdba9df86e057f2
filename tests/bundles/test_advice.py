"""Which recipe is taken: what the tables say, and what is refused."""

from __future__ import annotations

import pytest

from monai_infoaug.bundles import choose_recipe


@pytest.mark.parametrize(
    ("situation", "take"),
    [
        (
            {"task": "landmarks", "labels": 1, "unlabelled": 149},
            "a detector that learns from the matches of one annotated image",
        ),
        (
            {"task": "landmarks", "labels": 1, "unlabelled": 149, "minutes": 12},
            "landmark_detection after landmark_pretraining",
        ),
        ({"task": "landmarks", "labels": 3, "unlabelled": 149}, "landmark_detection after landmark_pretraining"),
        ({"task": "landmarks", "labels": 3, "unlabelled": 10}, "landmark_detection from scratch"),
        ({"task": "landmarks", "labels": 6, "unlabelled": 149}, "landmark_detection from scratch"),  # measured with 25
        ({"task": "landmarks", "labels": 1000, "unlabelled": 1000}, "landmark_detection from scratch"),
        ({"task": "landmarks", "labels": 1, "volumes": True}, "landmark_matching_3d, from one annotated volume"),
        ({"task": "segmentation", "labels": 5, "unlabelled": 1000}, "the U-Net alone, for long"),
        ({"task": "segmentation", "labels": 7, "unlabelled": 1000, "volumes": True}, "the U-Net alone"),
        (
            {"task": "segmentation", "labels": 104, "unlabelled": 52, "volumes": True, "other_site": True},
            "source_free_adaptation, all by tier",
        ),
        (
            {"task": "segmentation", "labels": 104, "volumes": True, "other_site": True},
            "the U-Net, intensities by tier",
        ),
        (
            {"task": "segmentation", "labels": 160, "unlabelled": 50, "other_site": True},
            "source_free_adaptation, zoomed",
        ),
        ({"task": "segmentation", "labels": 5, "unlabelled": 50, "other_site": True}, "the U-Net alone"),
    ],
)
def test_what_is_taken(situation, take):
    assert choose_recipe(**situation).take == take


def test_longer_plain_training_is_what_speaks_against_a_recipe_on_radiographs():
    advice = choose_recipe("segmentation", labels=5, unlabelled=140)
    assert "0.859" in advice.rows[0]
    assert "--max_epochs 24" in advice.commands[-1]
    (line,) = (line for line in advice.not_taken if "a round" in line)
    assert "a longer plain training has Dice 0.859" in line
    assert "+0.047 (95 % interval +0.040 to +0.055)" in line
    (line,) = (line for line in advice.not_taken if "intensities by tier" in line)
    assert "it is worse" in line


def test_says_what_is_missing_for_a_recipe():
    (line,) = (s for s in choose_recipe("landmarks", labels=5).not_taken if "pretraining" in s)
    assert "wants 73 images without labels or more" in line
    (line,) = (
        s for s in choose_recipe("landmarks", labels=5, unlabelled=145, minutes=3).not_taken if "pretraining" in s
    )
    assert "takes some 10 minutes" in line
    few = choose_recipe("segmentation", labels=5, unlabelled=50, other_site=True)
    assert any("wants 80 annotated images or more" in line for line in few.not_taken)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"task": "classification"}, "`task` must be landmarks or segmentation, got 'classification'"),
        ({"task": None}, "`task`"),
        ({"labels": 0}, "`labels` must be a whole number of at least 1"),
        ({"labels": None}, "`labels`"),
        ({"unlabelled": -1}, "`unlabelled`"),
        ({"minutes": 0}, "`minutes` must be a number above 0, got 0"),
        ({"minutes": float("nan")}, "`minutes`"),
        ({"other_site": True}, "`other_site` must be given with segmentation"),
    ],
)
def test_refuses_by_name(wrong, named):
    with pytest.raises(ValueError, match=named):
        choose_recipe(**{"task": "landmarks", "labels": 5} | wrong)
