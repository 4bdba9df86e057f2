"""The benchmark of unseen sites on small pictures: its sites, rows, what it keeps, and its numbers."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")
from benchmarks import generalisation
from benchmarks.generalisation import OWN, Generalisation, main

SMALL = {
    "working_pixdim": 1.0,
    "pixdim": 1.0,
    "roi_size": [48, 48],
    "features": [4, 4, 4, 4, 8, 4],
    "samples_per_epoch": 4,
    "max_epochs": 1,
}
CALIBRATION = {
    "version": 2,
    "information": {
        "window": 5,
        "window_mm": None,
        "num_bins": 16,
        "value_range": [0, 1],
        "reduction": None,
        "noise_factor": None,
    },
    "thresholds": [1.0, 2.0],
    "intensity": {"transforms": "rich", "strengths": {"low": 0.2, "medium": 1.5, "high": 0.1}},
}


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 3 and array.shape[-1] == 3), str(path))


@pytest.fixture
def folder(tmp_path):
    """Eight photographs and two of another site; cine volumes of patients 58 to 62."""
    _, y, x = np.mgrid[:3, :48, :48]
    for seed in range(10):
        generator = np.random.default_rng(seed)
        far = (y - generator.integers(20, 28)) ** 2 + (x - generator.integers(20, 28)) ** 2
        label = ((far < 180).astype(np.uint8) + (far < 60))[0]
        image = (60 + 60 * label[..., None] + generator.normal(0, 10, (48, 48, 3))).clip(0, 255).astype(np.uint8)
        site = tmp_path / "data" / "fundus" / ("refuge" if seed < 8 else "drishti_train")
        write(site / "image" / f"g{seed}.png", image)
        write(site / "mask" / f"g{seed}.png", label)
    for patient in (57, 58, 59, 60, 61, 62):
        generator = np.random.default_rng(patient)
        far = (y - 24) ** 2 + (x - generator.integers(20, 28)) ** 2
        label = (far < 200).astype(np.uint8) + (far < 120) + (far < 50)
        image = (60 * label + generator.normal(30, 5, label.shape)).clip(0, 255).astype(np.uint8)
        for part, array in (("images", image), ("labels", label)):
            write(tmp_path / "data" / "acdc" / part / f"patient{patient:03}_frame01.nii.gz", array)
    return tmp_path


def run(folder, *more, **settings):
    changed = [f"{name}={json.dumps(value)}" for name, value in (SMALL | settings).items()]
    there = ["--data", str(folder / "data"), "--out", str(folder / "out"), "--seeds", "1", "--jobs", "1"]
    main([*there, *more, "--set", *changed])


def test_every_row_is_trained_once_and_tested_at_every_site(folder, capsys, monkeypatch):
    monkeypatch.setattr(generalisation, "calibrate", lambda _, out, **__: out.write_text(json.dumps(CALIBRATION)))
    rows = "usual,randconv,uniform,shuffled,tiers,calibrated,tiers_curves"
    run(folder, "--sets", "fundus", "--rows", rows)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["row"] for row in last["fundus"]["table"]] == rows.split(",")
    kept, dice = folder / "out" / "fundus" / "test", {}
    for row in last["fundus"]["table"]:
        dice[row["row"]] = json.loads((kept / row["row"] / "0" / "result.json").read_text())["dice"]
        assert {site: np.shape(values) for site, values in dice[row["row"]].items()} == {
            OWN: (2, 2),
            "other site": (2, 2),
        }
        assert row["own"] == pytest.approx(np.mean(dice[row["row"]][OWN]), abs=1e-4)
        assert row["unseen"] == pytest.approx(np.mean(dice[row["row"]]["other site"]), abs=1e-4)
    assert len({json.dumps(each) for each in dice.values()}) == len(dice)  # no row is another one
    for part, site in (("own", OWN), ("unseen", "other site")):
        for row, other in (("tiers", "usual"), ("tiers", "uniform"), ("tiers", "shuffled")):
            gain = np.mean(dice[row][site]) - np.mean(dice[other][site])
            assert last["fundus"]["differences"][f"{part}: {row} - {other}"][0] == pytest.approx(gain)
    strengths = json.loads((kept / "uniform" / "0" / "settings.json").read_text())["random_transforms"][-1]["strengths"]
    assert strengths == pytest.approx([(0.5 + 1 + 0.7) / 3] * 3, abs=0.05)  # tiers are thirds

    monkeypatch.setattr(generalisation, "run_bundle", None)  # nothing is trained again
    run(folder, "--sets", "fundus", "--rows", rows)
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again == last
    run(folder, "--sets", "fundus", "--rows", "usual,none", "--minutes", "0")
    assert "fundus, complete: 0 of 1 seeds. Run the same command again" in capsys.readouterr().out


def test_tuning_reads_no_test_case_and_has_sites_of_its_own(folder):
    sites = []
    for tune, train, test in ((False, (57, 58, 59, 60), (61, 62)), (True, (57, 58, 59), (60,))):
        made = Generalisation(folder / "data", "acdc", SMALL, tune, folder / "out" / "acdc" / str(tune))
        assert {path.name[:10] for path in made.train.iterdir()} == {f"patient{number:03}" for number in train}
        assert {case for _, case, _ in made.where.values()} == {f"patient{number:03}" for number in test}
        assert {path.name.partition(".")[0] for path in made.test.iterdir()} == set(made.where)
        sites.append({site for site, _, _ in made.where.values()})
        assert len(made.where) == 2 * len(test) * len(sites[-1])  # slices
    assert [len(each) for each in sites] == [5, 5]
    assert sites[0] & sites[1] == {OWN}


def test_dice_is_of_all_slices_of_a_patient(folder):
    made = Generalisation(folder / "data", "acdc", SMALL, False, folder / "out" / "acdc" / "test")
    found = {name: made.label_of[label] for name, (_, _, label) in made.where.items()}
    assert made._dice(found) == {site: [[1.0] * 3] * 2 for site in {site for site, _, _ in made.where.values()}}
    name = "own_site_patient061_frame01_02"
    write(folder / "empty.png", np.zeros((48, 48), np.uint8))
    right, wrong = made._dice(found | {name: folder / "empty.png"})[OWN][::-1]
    sizes = [sitk.GetArrayFromImage(sitk.ReadImage(str(made.label_of[name[9:-1] + f"{k}"]))) for k in (0, 2)]
    assert right == [1.0] * 3
    for value, dice in zip((1, 2, 3), wrong, strict=True):
        whole, lost = sum((size == value).sum() for size in sizes), (sizes[1] == value).sum()
        assert dice == pytest.approx(2 * (whole - lost) / (2 * whole - lost))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "all"], "`rows` must be among none, usual, .*, got 'all'"),
        (["--sets", "afids"], "`sets` must be among hippocampus, .*, got 'afids'"),
        (["--sets", "jsrt"], "`data` must be a folder with jsrt/images"),
        (["--seeds", "0"], "`seeds` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(folder, more, message):
    with pytest.raises(ValueError, match=message):
        run(folder, *more)
