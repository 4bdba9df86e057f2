from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn
from torch.nn.functional import normalize

from monai_infoaug.data import read_landmarks
from monai_infoaug.handlers import LandmarkReport, landmark_report, summarise_errors
from monai_infoaug.inferers import LandmarkMatcher

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
pytest.importorskip("ignite", reason="evaluators need ignite")


class Colours(nn.Module):
    strides = (1,)

    def forward(self, image):
        return [normalize(image, dim=1)]


def errors_in(folder):
    with (folder / "errors.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def report(folder, images=3, size=(9, 8), with_truth=True, names="{}.nii.gz", lacking=None, **kwargs):
    """Finds three landmarks in copies of the template; the truth is one voxel off along axis 0."""
    generator, dims = torch.Generator().manual_seed(0), len(size)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:2, :2] = torch.tensor([[0.0, -0.5], [2.0, 0.0]])  # quarter turn, pixels of 2.0 x 0.5 mm
    affine[:3, 3] = torch.tensor([5.0, -7, 3])
    scan = torch.rand(3, *size, generator=generator)
    points = torch.tensor([[2, 3, 1], [5, 4, 2], [7, 1, 3]])[:, :dims].float()
    truth = (points + torch.eye(dims)[0]) @ affine[:dims, :dims].T.float() + affine[:dims, 3].float()
    truth[1] = torch.nan  # never annotated
    if lacking is not None:
        points[lacking] = torch.nan
    items = []
    for i in range(images):
        meta = {"filename_or_obj": names.format(i)} if names else {}
        items.append(
            {"image": MetaTensor(scan.clone(), affine=affine, meta=meta)} | ({"label": truth} if with_truth else {})
        )
    evaluator = SupervisedEvaluator(
        "cpu", DataLoader(Dataset(items), batch_size=2), Colours(), inferer=LandmarkMatcher(scan, points)
    )
    handler = LandmarkReport(folder, **kwargs)
    handler.attach(evaluator)
    evaluator.run()
    return evaluator, handler, points, affine


@pytest.mark.parametrize("size", [(9, 8), (9, 8, 7)])
def test_table_summary_and_picture(tmp_path, capsys, size):
    _, handler, points, affine = report(tmp_path / "made", size=size)
    found = read_landmarks(tmp_path / "made" / "landmarks.csv").points
    dims = len(size)
    assert list(found) == ["0", "1", "2"]
    for item, (name, positions) in zip(handler.items, found.items(), strict=True):
        voxels = np.linalg.solve(affine[:dims, :dims].numpy(), (positions - affine[:dims, 3].numpy()).T).T
        np.testing.assert_allclose(voxels, points, atol=0.5)
        np.testing.assert_allclose(item.world, positions)
        markups = read_landmarks(tmp_path / "made" / f"{name}.mrk.json").to("RAS")
        np.testing.assert_allclose(markups.points[name][:, :dims], positions, atol=1e-4)
        assert (tmp_path / "made" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    header, first = (tmp_path / "made" / "landmarks.csv").read_text().splitlines()[:2]
    assert header.split(",")[-1] == "score"
    assert float(first.split(",")[-1]) == pytest.approx(1)

    rows = errors_in(tmp_path / "made")
    assert [(row["landmark"], row["count"]) for row in rows] == [("all", "6"), ("0", "3"), ("2", "3")]  # 1 has no truth
    errors = [item.errors[[0, 2]] for item in handler.items]
    assert float(rows[0]["mean_mm"]) == pytest.approx(np.mean(errors), abs=0.001)
    assert 1 < np.mean(errors) < 3  # one voxel of 2 mm, but for the parabola
    assert f"all{np.mean(errors):8.2f}" in capsys.readouterr().out


def test_pictures_show_the_truth_in_voxels(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(landmark_report, "png_bytes", lambda figure, dpi: figures.append(figure) or b"")
    _, handler, points, _ = report(tmp_path, num_pictures=2)
    assert len(figures) == len([*tmp_path.glob("*.png")]) == 2
    circles = next(line for line in figures[0].axes[0].lines if line.get_marker() == "o").get_xydata()
    np.testing.assert_allclose(circles[[0, 2]], points[[0, 2]] + torch.tensor([1, 0]), atol=1e-4)
    crosses = next(line for line in figures[0].axes[0].lines if line.get_marker() == "+").get_xydata()
    np.testing.assert_allclose(crosses, points, atol=0.5)
    titles = [figure.texts[-1].get_text() for figure in figures]
    assert titles == [f"{i}: {np.nanmean(handler.items[i].errors):.1f} mm" for i in range(2)]


def test_without_truth_there_are_no_errors(tmp_path):
    report(tmp_path, with_truth=False, names=None)
    tables = ["confident.csv", "landmarks.csv", "summary.csv"]
    images = [f"image_{i}{end}" for i in range(3) for end in (".mrk.json", ".png")]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(tables + images)
    assert len(read_landmarks(tmp_path / "landmarks.csv").points) == 3


def test_landmarks_below_the_least_score_are_low(tmp_path, monkeypatch):
    scores = iter(np.array([[0.9, 0.4, 0.6], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]]))
    monkeypatch.setattr(
        LandmarkMatcher,
        "__call__",
        lambda _, images, *args, **kwargs: {
            "landmarks": torch.ones(len(images), 3, 2),
            "world": torch.ones(len(images), 3, 2),
            "scores": torch.tensor(np.stack([next(scores) for _ in images])),
        },
    )
    report(tmp_path, labels=["a b", "c", "d"], min_score=0.5, num_pictures=0, with_truth=False)
    confident = read_landmarks(tmp_path / "confident.csv").points
    assert {name: np.isnan(points[:, 0]).tolist() for name, points in confident.items()} == {
        "0": [False, True, False],
        "1": [False] * 3,
        "2": [True] * 3,
    }
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row["low"] for row in csv.DictReader(file)] == ["c", "", "a b; c; d"]
    assert read_landmarks(tmp_path / "2.mrk.json").selected["2"].tolist() == [False] * 3


def test_a_second_run_starts_anew(tmp_path):
    evaluator, handler, _, _ = report(tmp_path)
    evaluator.run()
    assert len(handler.items) == len(read_landmarks(tmp_path / "landmarks.csv").points) == 3


def test_images_of_one_name_in_several_folders_are_all_kept(tmp_path):
    report(tmp_path, names="patient{}/scan.nii.gz")
    assert list(read_landmarks(tmp_path / "landmarks.csv").points) == [f"patient{i}_scan" for i in range(3)]
    assert len([*tmp_path.glob("patient*_scan.png")]) == 3


def test_a_landmark_that_was_not_found_is_no_success(tmp_path):
    """The same convention as that of `MeanRadialError`: a mean over the easy ones would flatter."""
    report(tmp_path, lacking=0)
    overall, first, third = errors_in(tmp_path)
    assert overall["mean_mm"] == first["mean_mm"] == "inf"
    assert third["mean_mm"] != "inf"
    assert float(first["within_4mm_percent"]) == 0
    assert float(overall["within_4mm_percent"]) == 50


def test_summary_by_hand():
    errors = np.array([[1.0, 2.0, np.nan], [3.0, 6.0, np.nan]])
    lines = [line.split() for line in summarise_errors(errors, radii=(2, 3.5)).splitlines()]
    assert lines[0][-8:] == ["SDR", "2", "mm", "%", "SDR", "3.5", "mm", "%"]
    # mean, median, standard deviation, below 2, below 3.5: 2.0 itself is not below 2
    assert lines[1] == ["all", "3.00", "2.50", f"{np.std([1, 2, 3, 6]):.2f}", "25.0", "75.0"]
    assert lines[2] == ["0", "2.00", "2.00", "1.00", "50.0", "100.0"]
    assert lines[3] == ["1", "4.00", "4.00", "2.00", "0.0", "50.0"]
    assert len(lines) == 4


def test_labels_of_the_landmarks(tmp_path):
    report(tmp_path, labels=["sella", "nasion", "a rather long name"])
    assert read_landmarks(tmp_path / "landmarks.csv").labels == ("sella", "nasion", "a rather long name")
    assert [row["landmark"] for row in errors_in(tmp_path)] == ["all", "sella", "a rather long name"]
    lines = summarise_errors(np.ones((1, 3)), labels=["sella", "nasion", "a rather long name"]).splitlines()
    assert [line[:18].strip() for line in lines] == ["landmark", "all", "sella", "nasion", "a rather long name"]
    assert len({len(line) for line in lines}) == 1
    with pytest.raises(ValueError, match="`labels` must be 3 names, one a landmark, got 1 of them"):
        report(tmp_path, labels=["sella"])


def test_a_landmark_may_be_called_all():
    lines = summarise_errors(np.array([[1.0, 3.0]]), labels=["all", "b"]).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["all", "2.00"], ["all", "1.00"], ["b", "3.00"]]


def test_the_table_says_the_frame_if_the_images_do(tmp_path):
    evaluator, handler, _, _ = report(tmp_path)
    assert read_landmarks(tmp_path / "landmarks.csv").space == "RAS"  # MONAI's default
    for item in evaluator.state.dataloader.dataset.data:
        item["image"].meta["space"] = "LPS"
    evaluator.run()
    assert read_landmarks(tmp_path / "landmarks.csv").space == "LPS"
    for item in handler.items:
        item.picture = None
    handler.items[0].space = "RAS"
    handler.write(evaluator)
    assert read_landmarks(tmp_path / "landmarks.csv").space is None


@pytest.mark.parametrize("number", [-1, 2.5, "2"])
def test_pictures_below_none(tmp_path, number):
    with pytest.raises(ValueError, match=f"`num_pictures` must be a whole number of at least 0, or None, got {number}"):
        LandmarkReport(tmp_path, num_pictures=number)


def test_a_least_score_that_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="`min_score` must be a number, got high"):
        LandmarkReport(tmp_path, min_score="high")
