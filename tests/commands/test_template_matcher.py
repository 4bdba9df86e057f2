"""One annotated template in another image: what is found, and how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands.template_matcher import TemplateMatcher
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from tests.commands.scenes import save_checkpoint, smooth

CEPH = Path(__file__).parents[3] / "shared" / "data" / "ceph"
POINTS = np.array([[10.0, 8.0], [20.5, 30.25], [28.0, 15.0]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    settings = {"bundle": "landmark_pretraining", "modality": "xray", "features": [32] * 5, "working_pixdim": 0.5}
    return save_checkpoint(tmp_path_factory.mktemp("c") / "c.pt", find_bundle("landmark_pretraining"), settings)


@pytest.fixture
def given(checkpoint, tmp_path) -> dict:
    """A picture of 40 x 36 mm with three landmarks."""
    sitk.WriteImage(sitk.GetImageFromArray(smooth(0, (72, 80))), tmp_path / "a.png")
    write_landmarks(tmp_path / "table.csv", LandmarkTable("pqr", {"a": POINTS}))
    files = {"checkpoint": checkpoint, "template": tmp_path / "a.png", "landmarks": tmp_path / "table.csv"}
    return files | {"settings": {"pixdim": 0.5}}


def test_a_template_is_found_in_itself(given):
    matcher = TemplateMatcher(**given)
    assert matcher.labels == ["p", "q", "r"]
    torch.testing.assert_close(matcher.templates[0].points, torch.tensor(POINTS[None] / 0.5).float())
    match = matcher(matcher.read(given["template"]))
    np.testing.assert_allclose(match.world, POINTS, atol=0.6)
    assert match.space == "LPS"
    assert (match.scores > 0.7).all()
    assert (match.round_trips < 1.5).all()
    assert not match.low.any()


@pytest.mark.slow
def test_low_is_what_comes_back_elsewhere_or_scores_too_little(given, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(smooth(7, (72, 80))), tmp_path / "other.png")
    matches = []
    for limits in ({}, {"min_score": 0.999, "max_round_trip": 1000}, {"max_round_trip": 1000}):
        matcher = TemplateMatcher(**given, **limits)
        matches.append(matcher(matcher.read(tmp_path / "other.png")))
    by_trip, by_score, by_none = matches
    np.testing.assert_array_equal(by_trip.low, by_trip.round_trips > 3)
    assert by_trip.low.any(), "nothing of another picture should match well"
    assert by_score.low.all()
    assert not by_none.low.any()


def test_a_checkpoint_is_read_once(given, monkeypatch):
    load, loaded = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: loaded.append(args) or load(*args, **kwargs))
    TemplateMatcher(**given)
    assert len(loaded) == 1


@pytest.mark.parametrize("limits", [{"min_score": "0.5"}, {"max_round_trip": None}, {"max_round_trip": np.inf}])
def test_limits_of_a_wrong_type_are_named(given, limits):
    with pytest.raises(ValueError, match=f"^`{next(iter(limits))}` must be"):
        TemplateMatcher(**given, **limits)


@pytest.mark.skipif(not CEPH.exists(), reason="cephalometric images not at hand")
def test_real_images(checkpoint):
    matcher = TemplateMatcher(
        checkpoint,
        CEPH / "train" / "115.jpg",
        CEPH / "train_landmarks_mm.csv",
        settings={"pixdim": 0.3, "origin": 0.1, "working_pixdim": 1.25},
    )
    truth = read_landmarks(CEPH / "train_landmarks_mm.csv", "115")
    itself = matcher(matcher.read(CEPH / "train" / "115.jpg"))
    assert np.linalg.norm(itself.world - truth.points["115"], axis=1).max() < 5  # 4 pixels, without training
    other = matcher(matcher.read(CEPH / "train" / "121.jpg"))
    assert isinstance(matcher.templates[0].image, MetaTensor)
    assert matcher.labels == list(truth.labels)
    assert np.isfinite(other.world).all()
    assert other.scores.mean() < itself.scores.mean()
    assert other.round_trips.mean() > itself.round_trips.mean()
