"""Tables of an evaluation have the names of the classes."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch

from monai_infoaug.handlers import ClassMetricsSaver

pytest.importorskip("ignite", reason="handlers need the extra train")


def test_classes_have_their_names(tmp_path):
    saver = ClassMetricsSaver(
        ["left lung", "heart, whole"],
        save_dir=str(tmp_path),
        metric_details="dice",
        summary_ops="mean",
    )
    saver._filenames = ["class1,a.png", "b.png"]
    saver(SimpleNamespace(state=SimpleNamespace(metrics={}, metric_details={"dice": torch.tensor([[1, 0.5], [0, 1]])})))
    lines = (tmp_path / "dice_raw.csv").read_text().splitlines()
    assert next(csv.reader(lines[:1])) == ["filename", "left lung", "heart, whole", "mean"]
    assert lines[1].startswith("class1,a.png,")  # a file's name stays
    summary = list(csv.reader((tmp_path / "dice_summary.csv").read_text().splitlines()))
    assert summary[1:] == [["left lung", "0.5000"], ["heart, whole", "0.7500"], ["mean", "0.6250"]]


@pytest.mark.parametrize("classes", ["heart", [], [1, 2], None])
def test_what_is_no_list_of_names(classes):
    with pytest.raises(ValueError, match="`classes` must be names, one a class, got"):
        ClassMetricsSaver(classes, save_dir=".")
