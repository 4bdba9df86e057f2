"""The benchmark of adaptation on small pictures: folds, rows, what it keeps, its numbers, and its picture."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("matplotlib", reason="it draws")
from benchmarks import adaptation
from benchmarks.adaptation import change_acquisition, main, reliability
from monai_infoaug.handlers.checkpoint import read_checkpoint

SMALL = {
    "working_pixdim": 1.0,
    "roi_size": [32, 32],
    "features": [4] * 6,
    "widths": [8, 8],
    "samples_per_epoch": 4,
    "num_workers": 0,
}


@pytest.fixture
def folder(tmp_path):
    """Coloured pictures of a disc with a cup in it, and the same in other colours, darker; their labels."""
    for site, number in (("refuge", 4), ("drishti_train", 5)):
        for name in ("image", "mask"):
            (tmp_path / "fundus" / site / name).mkdir(parents=True)
        for seed in range(number):
            generator = np.random.default_rng([seed, number])
            y, x = np.mgrid[:32, :32] - generator.integers(13, 19, 2)[:, None, None]
            label = (np.hypot(y, x) < 11).astype(np.uint8) + (np.hypot(y, x) < 5)
            image = np.stack([60 + 40 * label, 30 + 50 * label, 20 + 20 * label], -1) / (1 + (number == 5))
            image = (image + generator.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
            path = tmp_path / "fundus" / site
            sitk.WriteImage(sitk.GetImageFromArray(image, isVector=True), path / "image" / f"{seed}.png")
            sitk.WriteImage(sitk.GetImageFromArray(label), path / "mask" / f"{seed}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def two_folds(monkeypatch):
    monkeypatch.setattr(adaptation, "FOLDS", 2)


def run(folder, *more, **settings):
    changed = [f"{name}={json.dumps(value)}" for name, value in (SMALL | settings).items()]
    there = ["--data", str(folder / "fundus"), "--out", str(folder / "out"), "--jobs", "1", "--epochs", "1", "1"]
    main([*there, *more, "--set", *changed])


def test_every_row_is_made_once_and_reported_on_each_image_once(folder, capsys):
    rows = "source,source_tiers,confidence,source_free_tiers,patches_tiers,patches_clicks,oracle"
    run(folder, "--rows", rows)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["row"] for row in last["table"]] == rows.split(",")
    kept = folder / "out" / "fundus" / "small"
    values = {}
    for row in last["table"]:
        folds = [json.loads((kept / row["row"] / "0" / f"{fold}" / "result.json").read_text()) for fold in range(2)]
        dice = {name: value for each in folds for name, value in each["dice"].items()}
        assert sorted(dice) == [f"{n}" for n in range(5)]
        assert [len(each["dice"]) for each in folds] == [3, 2]
        values[row["row"]] = np.array([dice[name] for name in sorted(dice)])
        assert row["dice"] == pytest.approx(values[row["row"]].mean(), abs=1e-4)
        assert list(row["by_region"].values()) == pytest.approx(values[row["row"]].mean(0), abs=1e-4)
    gap = values["oracle"].mean() - values["source"].mean()
    for row in last["table"]:
        assert row["gap_closed"] == pytest.approx((values[row["row"]].mean() - values["source"].mean()) / gap)
    assert last["differences"]["oracle - source"][0] == pytest.approx(gap)
    gain = values["source_free_tiers"].mean() - values["source_tiers"].mean()
    assert last["differences"]["source_free_tiers - source_tiers"][0] == pytest.approx(gain, abs=1e-6)

    source, with_tiers = (
        read_checkpoint(kept / part / "0" / "checkpoint.pt")["network"] for part in ("trained", "trained_tiers")
    )
    assert not all(torch.equal(source[name], with_tiers[name]) for name in source)

    clicks = (kept / "patches_clicks" / "0" / "0" / "clicks.csv").read_text().splitlines()
    learnt = {path.stem for path in (kept / "images" / "fold0_learn").iterdir()}
    classes = ("background", "rim", "cup")
    for line in clicks[1:]:
        name, kind, x, y = line.split(",")
        label = sitk.ReadImage(folder / "fundus" / "drishti_train" / "mask" / f"{name}.png")
        assert name in learnt
        assert label[int(float(x)), int(float(y))] == classes.index(kind)
    assert len(clicks) == 1 + 3 * len(learnt)

    # the region "disc" is both classes, "cup" the second one
    found = sitk.GetArrayFromImage(sitk.ReadImage(kept / "oracle" / "0" / "1" / "inference" / "3.png"))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(folder / "fundus" / "drishti_train" / "mask" / "3.png"))
    by_hand = [
        2 * ((found >= k) & (truth >= k)).sum() / max(1, (found >= k).sum() + (truth >= k).sum()) for k in (1, 2)
    ]
    assert values["oracle"][3] == pytest.approx(by_hand)

    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.pt")}
    run(folder, "--rows", rows)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == last
    assert before == {path: path.stat().st_mtime_ns for path in kept.rglob("*.pt")}


def test_no_row_but_the_oracle_sees_the_fold_it_reports_on_or_a_label_of_the_target(folder):
    run(folder, "--rows", "source")
    images = folder / "out" / "fundus" / "small" / "images"
    for fold in range(2):
        learn, test = ({path.name for path in (images / f"fold{fold}_{part}").iterdir()} for part in ("learn", "test"))
        assert not learn & test
        assert len(learn | test) == 5
    masks = list((folder / "fundus" / "drishti_train" / "mask").iterdir())
    for path in masks:
        path.write_bytes(b"not an image")
    with pytest.raises(Exception, match="mask"):  # reporting needs them, after the training
        run(folder, "--rows", "source_free")
    assert (folder / "out" / "fundus" / "small" / "source_free" / "0" / "0" / "checkpoint.pt").exists()


def test_no_training_is_begun_when_time_is_over(folder, capsys):
    run(folder, "--rows", "source,oracle", "--minutes", "0")
    assert "Complete: 0 of 2 folds. Run the same command again" in capsys.readouterr().out
    assert not list(folder.rglob("oracle/**/checkpoint.pt"))


def test_the_source_and_the_oracle_stay_when_adaptation_gets_other_epochs(folder):
    run(folder, "--rows", "source,oracle")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoint.pt")}
    run(folder, "--rows", "source,oracle,source_free", "--epochs", "1", "2")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    with pytest.raises(ValueError, match="`out`"):
        run(folder, "--rows", "source_free", "--epochs", "1", "1")


def test_reliability_counts(folder, capsys):
    run(folder, "--reliability", str(folder / "tiers.png"))
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["reliability"]
    assert [(row["chosen"], row["tier"]) for row in rows] == [
        (chosen, tier) for chosen in ("by class", "by class and tier") for tier in ("low", "medium", "high")
    ]
    assert (folder / "tiers.png").stat().st_size > 5000
    for part in (rows[:3], rows[3:]):
        assert sum(row["pixels"] for row in part) == pytest.approx(1)
        assert sum(row["of_the_chosen"] for row in part) == pytest.approx(1)


def test_reliability_by_hand():
    """One class, four confident pixels of ten in one tier, right where they are even."""
    confidence = torch.tensor([0.99, 0.98, 0.97, 0.96] + [0.6] * 6)
    probabilities = torch.stack([1 - confidence, confidence])[None, :, None]
    tiers = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])[None, None, None]
    label = torch.tensor([1, 0] * 5)[None, None, None]
    low, medium, high = reliability([(probabilities, tiers, label)], by_tier=False)
    assert (low["pixels"], medium["pixels"], high["pixels"]) == (0.4, 0.4, 0.2)
    assert [row["of_the_chosen"] for row in (low, medium, high)] == [1, 0, 0]
    assert low["chosen_right"] == 1
    by_tier = reliability([(probabilities, tiers, label)], by_tier=True)
    assert [row["of_the_chosen"] for row in by_tier] == pytest.approx([1 / 7, 4 / 7, 2 / 7])  # equal ones together
    assert [row["right"] for row in by_tier] == [0.5] * 3


def test_another_scanner_keeps_the_place_and_changes_the_look(tmp_path):
    _, y, x = np.mgrid[:10, :24, :20] / 4
    picture = (100 + 40 * np.sin(x) * np.cos(y)).astype(np.float32)
    picture[5, 5, 5] = 5000  # as real volumes have some
    image = sitk.GetImageFromArray(picture)
    image.SetOrigin((5, 6, 7))
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    change_acquisition([str(tmp_path / "a.nii.gz")], tmp_path / "changed")
    changed = sitk.ReadImage(tmp_path / "changed" / "a.nii.gz")
    assert changed.GetSpacing() == pytest.approx((1, 1, 3))
    assert changed.GetOrigin() == pytest.approx((5, 6, 7))
    assert changed.GetSize()[:2] == (20, 24)
    assert changed.GetSize()[2] in (3, 4)
    alike = [np.corrcoef(picture[0].ravel(), plane.ravel())[0, 1] for plane in sitk.GetArrayFromImage(changed)]
    assert min(alike) > 0.6
    assert max(alike) < 0.95


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "all"], "`rows` must be among source, source_tiers"),
        (["--seeds", "0"], "`seeds` must be at least 1, got 0"),
        (["--data", "/nowhere"], "`data` must be a folder named fundus or hippocampus, got '/nowhere'"),
    ],
)
def test_bad_arguments(folder, more, message):
    with pytest.raises(ValueError, match=message):
        run(folder, *more)
