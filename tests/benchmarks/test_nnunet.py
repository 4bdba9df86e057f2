"""The comparison with nnU-Net on small volumes: what nnU-Net is given, how long each trains, and its table."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")
from benchmarks import nnunet
from benchmarks.nnunet import epochs_within, main, write_dataset

SMALL = {"roi_size": [32] * 3, "features": [2] * 6, "samples_per_epoch": 2, "num_workers": 0}
with_nnunet = pytest.param("nnunet,ours", marks=pytest.mark.skipif(not find_spec("nnunetv2"), reason="no nnunetv2"))


@pytest.fixture
def folder(tmp_path):
    """Twelve volumes of two boxes, and their labels."""
    for name in ("images", "labels"):
        (tmp_path / "hippocampus" / name).mkdir(parents=True)
    for seed in range(12):
        generator, label = np.random.default_rng(seed), np.zeros((32, 34, 36), np.uint8)
        at = generator.integers(4, 8)
        label[at : at + 12, 6:24, 6:24], label[at + 12 : at + 20, 6:24, 6:24] = 1, 2
        image = 60.0 + 80 * label + generator.normal(0, 10, label.shape)
        for name, array in (("images", image.astype(np.float32)), ("labels", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "hippocampus" / name / f"case_{seed}.nii.gz")
    return tmp_path / "hippocampus"


def run(folder, rows, *more, **settings):
    changed = [f"{name}={json.dumps(value)}" for name, value in (SMALL | settings).items()]
    there = ["--data", str(folder), "--out", str(folder.parent / "out"), "--rows", rows, "--numbers", "2"]
    main([*there, "--minutes-of-training", "0.001", *more, "--set", *changed])


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["ours", with_nnunet])
def test_rows_learn_from_the_same_cases_and_are_tested_on_the_same(folder, capsys, monkeypatch, rows):
    run(folder, rows)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["row"], row["labelled"]) for row in last["table"]] == [(row, 2) for row in rows.split(",")]
    for row in last["table"]:
        assert row["steps"] >= (1 if row["row"] == "ours" else nnunet.STEPS)  # one epoch is the least
        result = json.loads((folder.parent / "out/hippocampus" / row["row"] / "2/0/result.json").read_text())
        assert np.shape(result["dice"]) == (3, 2)  # every fourth case is for testing
    monkeypatch.setattr(nnunet, "run_bundle", None)  # nothing is trained again
    run(folder, rows)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == last


def test_nnunet_gets_labelled_cases_by_its_own_names(folder, tmp_path):
    items = [{"image": f"{folder}/images/case_{i}.nii.gz", "label": f"{folder}/labels/case_{i}.nii.gz"} for i in (3, 5)]
    write_dataset(tmp_path / "raw", items, ["a", "b"])
    made = tmp_path / "raw" / "Dataset001_Cases"
    assert {str(path.relative_to(made)) for path in made.rglob("*.nii.gz")} == {
        f"{kind}/case_{i}{end}.nii.gz" for i in (3, 5) for kind, end in (("imagesTr", "_0000"), ("labelsTr", ""))
    }
    about = json.loads((made / "dataset.json").read_text())
    assert (about["labels"], about["numTraining"]) == ({"background": 0, "a": 1, "b": 2}, 2)


def test_epochs_are_as_many_as_the_seconds_allow(monkeypatch):
    """Ten seconds to start, and three an epoch."""
    now = [0.0]
    monkeypatch.setattr(nnunet.time, "perf_counter", lambda: now[0])

    def train(epochs: int) -> None:
        now[0] += 10 + 3 * epochs

    assert [epochs_within(seconds, train) for seconds in (60, 31, 1)] == [20, 10, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "`rows` must be among nnunet, nnunet_pretrained, ours, got 'best'"),
        (("ours", "--seeds", "0"), "`seeds` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(folder, *arguments)


def test_a_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`data` must be a folder of volumes"):
        main(["--data", str(tmp_path)])
