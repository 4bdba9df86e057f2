"""The benchmark of few points on small pictures and volumes: ways to draw them, what it keeps, and its numbers."""

import json
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")
pytest.importorskip("PIL", reason="the pictures are made with Pillow")
from benchmarks import annotate_labels, landmark_matching
from benchmarks._runs import bundle_config
from benchmarks.few_points import main, of_volumes
from monai_infoaug.handlers.checkpoint import read_checkpoint
from monai_infoaug.inferers import _patch_search, label_propagation

WAYS = ["shuffled", "by_tier"]  # the third is one setting
PICTURES = {
    "view_size": [64, 64],
    "features": [8] * 5,
    "batch_size": 2,
    "max_epochs": 1,
    "num_workers": 0,
}
VOLUMES = {
    "working_pixdim": 1.0,
    "view_size": [16, 16, 16],
    "global_view_size": [16, 16, 16],
    "local_features": [4, 4],
    "global_features": [4, 4, 4],
    "max_epochs": 1,
    "repeats": 1,
}


def run(folder, *more, **settings):
    changed = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    main(["--data", str(folder), "--out", str(folder.parent / "out"), "--seeds", "1", *more, "--set", *changed])


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    """Four volumes of two balls, and their labels."""
    z, y, x = np.mgrid[:24, :24, :24]
    folder = tmp_path / "hippocampus"
    for seed in range(4):
        generator = np.random.default_rng(seed)
        centre = 12 + generator.integers(-1, 2, 3)
        far = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        label = ((far < 60).astype(np.uint8)) + (far < 20)
        image = 40 + 70 * label + 20 * np.sin(x) * np.cos(y + z) + generator.normal(0, 4, label.shape)
        for name, array in (("images", image.clip(0, 255).astype(np.uint8)), ("labels", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name / f"{seed}.nii.gz"))
    monkeypatch.setattr(annotate_labels, "LabelCarrier", partial(annotate_labels.LabelCarrier, count=30))
    monkeypatch.setattr(label_propagation, "NODES", 2**8)
    monkeypatch.setattr(_patch_search, "SUPPORT", 200)
    monkeypatch.setattr(_patch_search, "REFINED", 40)
    return folder


def test_labels_are_carried_after_each_pretraining(volumes, capsys, monkeypatch):
    run(volumes, "--points", "4", "--ways", ",".join(WAYS), **VOLUMES)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["points"], row["way"]) for row in last["table"]] == [(4, way) for way in WAYS]
    kept, dice = volumes.parent / "out" / "hippocampus" / "test" / "4", {}
    for row in last["table"]:
        (file,) = (kept / row["way"]).glob("*/0/propagation/result.json")
        dice[row["way"]] = np.array(json.loads(file.read_text())["dice"])
        assert dice[row["way"]].shape == (1, 2)
        assert row["mean"] == pytest.approx(dice[row["way"]].mean())
    networks = [read_checkpoint(kept / way / "pretraining" / "0" / "checkpoint.pt")["network"] for way in WAYS]
    name = next(iter(networks[0]))
    assert not any(torch.equal(a[name], b[name]) for a, b in combinations(networks, 2))  # no way is another one
    gain = last["differences"]["4: by_tier - shuffled"][0]
    assert gain == pytest.approx((dice["by_tier"] - dice["shuffled"]).mean())
    monkeypatch.setattr(annotate_labels, "run_bundle", None)
    run(volumes, "--points", "4", "--ways", ",".join(WAYS), **VOLUMES)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == last


def test_volumes_are_guided_by_the_next_one_at_both_scales(volumes):
    files = sorted(str(path) for path in (volumes / "images").iterdir())
    settings = {"dataset_dir": str(volumes / "images"), "working_pixdim": 1.0, "num_workers": 0}
    items = []
    for way, file in (("shuffled", files[0]), ("by_tier", files[1])):
        config = bundle_config("landmark_matching_3d", settings | of_volumes(way))
        parts = [config.get_parsed_content(f"{name}_transforms") for name in ("preprocessing", "information")]
        item = {"image": file}
        for step in [step for part in parts for step in part]:
            item = step(item)
        items.append(item)
    for key, size in (("tiers", items[0]["image"].shape), ("small_tiers", items[0]["small"].shape)):
        assert items[0][key].shape == size
        shares = [torch.bincount(item[key].flatten().long(), minlength=3) / item[key].numel() for item in items]
        assert torch.allclose(*shares, atol=0.15)


def test_landmarks_are_matched_after_each_pretraining(data, capsys, monkeypatch):
    for name in (2, 3, 4):
        (data / "train" / f"{name}.png").unlink()  # two are enough
    more = ("--points", "16", "--ways", "by_tier,anywhere", "--template", "1", "--origin", "0", "--pixdim", "0.5")
    run(data, *more, "--working-pixdim", "0.5", **PICTURES)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["points"] for row in last["table"]] == [16, 16]
    assert all(0 < row["mean"] < 40 for row in last["table"])
    kept = data.parent / "out" / "landmarks" / "small" / "test1" / "16" / "tier_sampling" / "0" / "settings.json"
    assert json.loads(kept.read_text())["num_points"] == 16
    monkeypatch.setattr(landmark_matching, "run_bundle", None)
    run(data, *more, "--working-pixdim", "0.5", "--seeds", "2", "--minutes", "0", **PICTURES)
    assert "16 points, complete: 1 of 2 seeds." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ways", "all"], "`ways` must be among anywhere, by_tier, shuffled, got 'all'"),
        (["--points", "0"], "`points` must be numbers of at least 1, got"),
        (["--template", "x"], "`template` must be a training case, such as 0, 1, 2, got 'x'"),
    ],
)
def test_bad_arguments(volumes, more, message):
    with pytest.raises(ValueError, match=message):
        run(volumes, *more)
