"""What is decided from images, and plans that were edited."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("tqdm", reason="annotating needs the extra train")
pytest.importorskip("ignite", reason="annotating needs the extra train")

from monai_infoaug.commands import _plan
from monai_infoaug.commands._plan import make_plan, read_plan
from monai_infoaug.commands._step_time import seconds_of_step
from monai_infoaug.commands._survey import Survey

IMAGES = {Path(f"{i}.png"): str(i) for i in range(40)}
PLANE = Survey(IMAGES, {}, 2, 1, "xray", False, (193.5, 240.0), (0.3, 0.3))
VOLUME = Survey(IMAGES, {}, 3, 1, "mr", True, (35.0, 50.0, 36.0), (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def step(monkeypatch) -> None:
    """A step of training takes two seconds."""
    monkeypatch.setattr(_plan, "seconds_of_step", lambda *_: 2.0)


def test_a_plane():
    plan = make_plan(PLANE, ["landmarks"], ["a", "b"], minutes=60, pixdim=0.3)
    assert plan.working_pixdim == 0.625  # 384 pixels along the longest axis
    assert plan.stages["pretraining"]["settings"]["view_size"] == [160, 192]
    detection = plan.stages["round1"]["settings"]
    assert (detection["image_size"], detection["labels"]) == ([320, 384], ["a", "b"])
    assert sum(stage["minutes"] for stage in plan.stages.values()) == pytest.approx(60)
    steps = {"pretraining": 40 // 8, "round1": 100 // 4, "round2": 100 // 4}
    for name, an_epoch in steps.items():
        stage = plan.stages[name]
        assert stage["settings"]["max_epochs"] == int(60 * stage["minutes"] / 2 / an_epoch)
    assert "in all" not in [name for name, *_ in plan.rows(PLANE)]
    shared = plan.settings("round1")
    assert {k: shared[k] for k in ("modality", "in_channels", "pixdim", "working_pixdim", "seed")} == {
        "modality": "xray",
        "in_channels": 1,
        "pixdim": 0.3,
        "working_pixdim": 0.625,
        "seed": 0,
    }


def test_a_volume():
    plan = make_plan(VOLUME, ["landmarks"], ["a"])
    assert (plan.working_pixdim, list(plan.stages)) == (0.5, ["pretraining", "matching"])  # 35 voxels are few
    assert plan.stages["pretraining"]["settings"]["global_scale"] == 2
    assert plan.stages["pretraining"]["bundle"] == "landmark_matching_3d"
    large = make_plan(replace(VOLUME, extent=(240.0, 320.0, 320.0)), ["landmarks"], ["a"])
    assert large.stages["pretraining"]["settings"]["global_scale"] == 4
    assert large.working_pixdim == pytest.approx((240 * 320 * 320) ** (1 / 3) / 160, rel=1e-2)


def test_too_few_minutes_are_said():
    plan = make_plan(VOLUME, ["labels"], [], minutes=1)
    two_epochs = round(2 * 50 * 2 / 60, 1)
    assert [plan.stages[f"segmentation{n}"]["minutes"] for n in (1, 2)] == [two_epochs] * 2
    *_, (name, _, why) = plan.rows(VOLUME)
    assert (name, why) == ("in all", "more than the 1 that it may take: a training has 2 epochs at least")


def test_no_detector_where_it_would_learn_too_little():
    six_epochs = 6 * 25 * 2 / 60 / (_plan.SHARES["round1"] / 100)  # minutes of all stages
    long = make_plan(PLANE, ["landmarks"], ["a", "b"], minutes=six_epochs + 0.1)
    assert [long.stages[name]["settings"]["max_epochs"] for name in ("round1", "round2")] == [6, 6]
    assert "detector" not in [name for name, *_ in long.rows(PLANE)]
    plan = make_plan(PLANE, ["landmarks"], ["a", "b"], minutes=six_epochs - 0.1)
    assert list(plan.stages) == ["pretraining", "matching"]
    minutes = [stage["minutes"] for stage in plan.stages.values()]
    assert minutes == pytest.approx([(six_epochs - 0.1) * share / 75 for share in (60, 15)], abs=0.06)
    why = "in so few minutes, below 6 epochs, it finds less than the matches"
    assert list(plan.rows(PLANE))[-1] == ("detector", "none", why)


@pytest.mark.parametrize("minutes", [0, -1, "x", float("nan")])
def test_minutes(minutes):
    with pytest.raises(ValueError, match=r"`minutes` must be a number above 0"):
        make_plan(PLANE, ["landmarks"], ["a"], minutes)


@pytest.mark.slow
def test_the_step_is_measured_in_planes_and_volumes(monkeypatch):
    monkeypatch.undo()
    for survey, small in (
        (PLANE, {"view_size": [64, 64]}),
        (VOLUME, {"view_size": [16] * 3, "global_view_size": [16] * 3}),
    ):
        plan = make_plan(replace(survey, extent=(40.0,) * survey.dims), ["landmarks"], ["a"], minutes=1)
        seconds = seconds_of_step(plan.stages["pretraining"]["bundle"], plan.shared | small, "cpu")
        assert 0 < seconds < 100


def test_reading_it_again(tmp_path):
    plan = make_plan(PLANE, ["landmarks"], ["a", "b"], pixdim=0.3)
    file = tmp_path / "plan.json"
    file.write_text(plan.as_text())
    assert read_plan(file, PLANE) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 3}, r"`dims of '.*'` must be 2, as the images have, got 3"),
        ({"channels": 3}, r"`channels of '.*'` must be 1, as the images have, got 3"),
        ({"modality": "rgb"}, r"`modality of '.*'` must be rgb for three channels"),
        ({"pixdim": -1}, r"`pixdim of '.*'` must be millimetres above 0, or null, got -1"),
        ({"working_pixdim": 0}, r"`working_pixdim of '.*'` must be millimetres above 0"),
        ({"seed": 1.5}, r"`seed of '.*'` must be a whole number"),
        ({"stages": {}}, r"`stages of '.*'` must be with `pretraining`, as they were written"),
        ({"consensus": -1}, r"`consensus, pool of '.*'` must be whole numbers"),
        ({"colour": 1}, r"`plan` must be one with dims, .* got '.*' with \['colour'\] too many or missing"),
    ],
)
def test_what_does_not_fit(tmp_path, change, message):
    content = json.loads(make_plan(PLANE, ["landmarks"], ["a"]).as_text()) | change
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "plan.json", PLANE)


def test_no_plan_at_all(tmp_path):
    for text in ("{", "[]", "3"):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(ValueError, match=r"`plan` must be"):
            read_plan(tmp_path / "plan.json", PLANE)
    with pytest.raises(ValueError, match=r"`plan` must be a plan\.json that was written before, got '.*none.json'"):
        read_plan(tmp_path / "none.json", PLANE)
