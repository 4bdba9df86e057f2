"""Settings from a folder: each is what its definition gives, and the transforms take them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("tqdm", reason="the command shows its progress with tqdm")
pytest.importorskip("matplotlib", reason="the command draws with matplotlib")

from monai_infoaug.__main__ import main
from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands import _registration, _strengths, calibration
from monai_infoaug.commands.calibration import calibrate
from monai_infoaug.information import assign_tiers, local_entropy
from monai_infoaug.transforms import InformationMap, InformationTiers, RandTierIntensity, intensity_preset
from tests.commands.scenes import anatomy, folder_of, save_checkpoint

TIERS = ("low", "medium", "high")


@pytest.fixture(scope="module", autouse=True)
def one_draw():
    """Of each change: what is shown here needs no more, and takes an eighth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_strengths, "DRAWS", 1)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    arrays = [anatomy((72, 64), shift, 0.02, seed) for seed, shift in enumerate((0, 2, -1))]
    return folder_of(tmp_path_factory.mktemp("data") / "images", arrays)


@pytest.fixture(scope="module")
def calibrated(images, tmp_path_factory):
    """The file of a calibration, and what was returned."""
    out = tmp_path_factory.mktemp("out") / "found.json"
    return out, calibrate(images, out, window=5, num_bins=32)


def test_file_holds_what_is_returned_and_there_is_a_picture(calibrated):
    out, found = calibrated
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    picture = sitk.ReadImage(out.with_suffix(".png"))
    assert min(picture.GetSize()) > 300
    assert found["made_from"]["pixdim"] == [1.0, 1.0]  # that of the files, which a bundle compares with its own


def test_range_and_thresholds_are_quantiles_of_all_images(images, calibrated):
    scaled = []
    for path in sorted(images.iterdir()):
        array = sitk.GetArrayFromImage(sitk.ReadImage(path)).T.astype(float)
        low, high = np.percentile(array, (0.5, 99.5))
        scaled.append(((array - low) / (high - low)).clip(0, 1))
    value_range = calibrated[1]["information"]["value_range"]
    np.testing.assert_allclose(value_range, np.percentile(scaled, (0.5, 99.5)), atol=0.01)
    bits = np.array([local_entropy(image[None], 5, 32, value_range) for image in scaled])
    bits = bits[bits > 1e-3]  # what tells something
    np.testing.assert_allclose(calibrated[1]["thresholds"], np.quantile(bits, (1 / 3, 2 / 3)), atol=0.03)


def test_strengths_are_where_the_curves_cross_the_stop(calibrated):
    found = calibrated[1]["mutual_information"]
    strengths = calibrated[1]["intensity"]["strengths"]
    assert found["strength"][0] == 0
    assert tuple(strengths) == TIERS
    for name in TIERS:
        bits = found["changed"][name]
        assert len(bits) == len(found["strength"])
        assert bits[0] > found["stop"][name] > found["unrelated"][name]
        at = np.interp(strengths[name], found["strength"], bits)
        assert at == pytest.approx(found["stop"][name], abs=0.01) or strengths[name] == found["strength"][-1]
    assert any(strengths[name] < 4 for name in TIERS)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file(images, calibrated, tmp_path):
    calibrate(images, tmp_path / "again.json", window=5, num_bins=32)
    assert (tmp_path / "again.json").read_text() == calibrated[0].read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "keep"), [(1.0, 0.0), (1.5, 0.0), (1.0, 0.9)])
def test_stop_is_on_the_way_from_the_image_itself_to_what_corresponds(images, calibrated, tmp_path, alpha, keep):
    found = calibrate(images, tmp_path / "found.json", window=5, num_bins=32, alpha=alpha, keep=keep)
    bits, strengths = found["mutual_information"], found["intensity"]["strengths"]
    for name in TIERS:
        first, last = bits["changed"][name][0], alpha * bits["corresponding"][name]
        assert bits["stop"][name] == pytest.approx(last + keep * (first - last))
        milder = bits["stop"][name] > calibrated[1]["mutual_information"]["stop"][name]
        assert milder == (strengths[name] < calibrated[1]["intensity"]["strengths"][name])


def test_images_that_are_all_the_same_want_no_change(tmp_path):
    data = folder_of(tmp_path / "same", [anatomy((72, 64))] * 2)
    found = calibrate(data, tmp_path / "found.json", window=5, num_bins=32)
    for name in TIERS:
        changed, stop = (found["mutual_information"][key][name] for key in ("changed", "stop"))
        assert stop > 0.9 * changed[0]
        assert 0 < found["intensity"]["strengths"][name] < 0.25


def test_transforms_take_the_file(calibrated):
    out, found = calibrated
    image = torch.rand(1, 40, 40)
    information = InformationMap(file=out)(image)
    assert torch.equal(information, InformationMap(5, value_range=found["information"]["value_range"])(image))
    tiers = InformationTiers(file=out)(information)
    assert torch.equal(tiers, assign_tiers(information, found["thresholds"]))
    by_hand = {tier: intensity_preset("rich", strength) for tier, strength in found["intensity"]["strengths"].items()}
    changed = RandTierIntensity(file=out).set_random_state(0)(image, tiers=tiers)
    assert torch.equal(changed, RandTierIntensity(by_hand).set_random_state(0)(image, tiers=tiers).clamp(0, 1))


@pytest.mark.slow
def test_window_and_bins_are_chosen_where_they_are_not_given(images, calibrated, tmp_path):
    found = calibrate(images, tmp_path / "found.json")
    settings, compared = found["information"], found["compared_maps"]
    tried = [(each["window"], each["num_bins"]) for each in compared]
    assert tried[:4] == [(9, 32), (5, 32), (17, 32), (((5,), (9,), (17,)), 32)]
    window = settings["window"]
    assert tried[4:] == [(window, 16), (window, 64)]
    shared = {(str(each["window"]), each["num_bins"]): each["shared"] for each in compared}
    for first, chosen, others in (
        (("9", 32), (str(window), 32), compared[:4]),
        ((str(window), 32), (str(window), settings["num_bins"]), compared[4:]),
    ):
        most = max(each["shared"] for each in others)
        assert shared[chosen] == (most if most > 1.05 * shared[first] else shared[first])
    image = torch.rand(1, 40, 40)
    expected = InformationMap(window, None, settings["num_bins"], settings["value_range"])(image)
    assert torch.equal(InformationMap(file=tmp_path / "found.json")(image), expected)
    assert calibrated[1]["compared_maps"] == []


def test_a_window_that_does_not_fit_is_refused_before_the_work(images, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "to_next", None)
    with pytest.raises(ValueError, match=r"`window` must be .* no larger than the image's axes"):
        calibrate(images, tmp_path / "found.json", window=101)


@pytest.mark.slow
def test_what_tells_nothing_is_low_under_the_thresholds_of_images_that_are_mostly_empty(tmp_path):
    """Half of each image is black: tertiles of all voxels would be 0."""
    arrays = [np.pad(anatomy((60, 56), shift, 0.02, seed), ((60, 60), (0, 0))) for seed, shift in enumerate((0, 1))]
    found = calibrate(folder_of(tmp_path / "data", arrays), tmp_path / "found.json", "xray", window=5, num_bins=32)
    assert 0 < found["thresholds"][0] < found["thresholds"][1]
    image = torch.from_numpy(arrays[0])[None] / 255
    bits = InformationMap(file=tmp_path / "found.json")(image)
    tiers = InformationTiers(file=tmp_path / "found.json")(bits)
    assert (bits == 0).float().mean() > 0.5
    assert tiers[bits == 0].unique().tolist() == [0]
    shares = tiers[bits > 0].long().bincount(minlength=3) / (bits > 0).sum()
    np.testing.assert_allclose(shares, 1 / 3, atol=0.1)


@pytest.mark.slow
def test_volumes(tmp_path, monkeypatch):
    monkeypatch.setattr(_registration, "REGISTERED", 500)
    arrays = [anatomy((26, 28, 24), shift, 0.02, seed) for seed, shift in enumerate((0, 1))]
    data = folder_of(tmp_path / "volumes", arrays, ".nii.gz")
    found = calibrate(data, tmp_path / "found.json", "mr", window=3, num_bins=32, intensity="cross_contrast")
    bits = found["mutual_information"]
    for name in TIERS:
        assert bits["changed"][name][0] > bits["stop"][name] > bits["unrelated"][name]
    assert found["intensity"]["transforms"] == "cross_contrast"


@pytest.mark.slow
def test_colours(tmp_path):
    arrays = [np.stack([anatomy((48, 50), place) for place in (shift, -shift, 2)], -1) for shift in (0, 1)]
    data = folder_of(tmp_path / "rgb", arrays, channels=True)
    found = calibrate(data, tmp_path / "found.json", window=9, num_bins=32, intensity="published")
    assert found["made_from"]["modality"] == "rgb"
    assert RandTierIntensity(file=tmp_path / "found.json").clip


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--alpha", "0"], "`alpha` must be a number above 0, got 0.0"),
        (["--keep", "1"], "`keep` must be in [0, 1), got 1.0"),
        (["--images", "1"], "`images` must be at least 2, got 1"),
        (["--seed", "-1"], "`seed` must be at least 0"),
        (["--window", "8"], "`window` must be odd"),
        (["--bins", "1"], "`num_bins`"),
        (["--modality", "pet"], "`modality` must be one of"),
        (["--modality", "rgb"], "3 channels"),
        (["--intensity", "loud"], "`intensity` must be one of"),
        (["--working-pixdim", "0"], "`working_pixdim` must be positive"),
        (["--working-pixdim", "nan"], "`working_pixdim` must be positive"),
        (
            ["--pixdim", "1", "--working-pixdim", "1e-5"],
            "`working_pixdim` must be for at most 2.1e+09 voxels, got 1e-05 mm for an image",
        ),
        (["--seed", "4294967296"], "`seed` must be at least 0 and below 2 ** 32, got 4294967296"),
        (["--pixdim", "1", "--working-pixdim", "9"], "`data` must be at least 33 voxels a side"),
        (["--pixdim", "0"], "`pixdim`"),
        (["--out", "nowhere/found.json"], "`out` must be a file in a folder that exists"),
        (["--out", "picture.png"], "`out` must be"),
        (["--data", "nowhere"], "`dataset_dir` must be a folder"),
    ],
)
def test_errors_are_one_line(arguments, named, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "--data", str(images), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("monai-infoaug calibrate: ")
    assert named in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ([anatomy((40, 40))], "with 1"),
        ([np.zeros((40, 40), np.uint8)] * 2, "constant images"),
        ([anatomy((40, 40)), anatomy((30, 40))], "1.nrrd"),
        ([anatomy((40, 40)), anatomy((20, 20, 20))], "1.nrrd"),
    ],
)
def test_images_that_do_not_do(arrays, named, tmp_path):
    data = folder_of(tmp_path / "data", arrays, ".nrrd")
    with pytest.raises(ValueError, match=f"`data` must be .*{named}"):
        calibrate(data, tmp_path / "found.json")


@pytest.mark.parametrize(
    "given", [{"alpha": "1"}, {"keep": None}, {"num_images": 2.5}, {"seed": 1.5}, {"working_pixdim": [1, "1"]}]
)
def test_settings_of_a_wrong_type_are_named(given, images, tmp_path):
    named = "images" if "num_images" in given else next(iter(given))
    with pytest.raises(ValueError, match=f"^`{named}` must be"):
        calibrate(images, tmp_path / "found.json", **given)


def test_unreadable_image_is_named_before_others_are_read(images, tmp_path, monkeypatch):
    data = folder_of(tmp_path / "data", [anatomy((40, 40))])
    (data / "9.png").write_text("no image")
    monkeypatch.setattr(calibration, "read_image", None)
    with pytest.raises(ValueError, match=r"9\.png"):
        calibrate(data, tmp_path / "found.json")


@pytest.mark.slow
def test_command_passes_everything_on(images, tmp_path, capsys):
    options = "--pixdim 0.5 --working-pixdim 0.6 --window-mm 3 --bins 16 --modality xray --intensity published"
    options += " --alpha 1.2 --keep 0.3 --images 2 --seed 2"
    out = tmp_path / "a.json"
    assert main(["calibrate", "--data", str(images), "--out", str(out), *options.split()]) == 0
    said = capsys.readouterr().out
    expected = calibrate(
        images,
        tmp_path / "b.json",
        modality="xray",
        pixdim=0.5,
        working_pixdim=0.6,
        window_mm=3.0,
        num_bins=16,
        intensity="published",
        alpha=1.2,
        keep=0.3,
        num_images=2,
        seed=2,
    )
    assert json.loads(out.read_text()) == json.loads(json.dumps(expected))
    assert "high: published at strength" in said
    assert str(out) in said


SETTINGS = {"bundle": "landmark_pretraining", "modality": "xray", "features": [8] * 5, "working_pixdim": 0.8}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of an untrained network."""
    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "trained.pt", find_bundle("landmark_pretraining"), SETTINGS
    )


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [None, (1.0, 1.5)])
def test_checkpoint_gives_thresholds_and_settings(images, checkpoint, cuts, tmp_path, monkeypatch):
    given = []

    def loss_cuts(bits, losses):
        given.append((bits, losses))
        return cuts

    monkeypatch.setattr(_strengths, "STRENGTHS", (4.0,))
    plain = calibrate(images, tmp_path / "plain.json", window=9, num_bins=32, pixdim=1, working_pixdim=0.8)
    monkeypatch.setattr(calibration, "loss_cuts", loss_cuts)
    load, loaded = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: loaded.append(args) or load(*args, **kwargs))
    found = calibrate(images, tmp_path / "found.json", window=9, num_bins=32, pixdim=1, checkpoint=checkpoint)
    assert len(loaded) == 1
    made_from = found["made_from"]
    assert (made_from["modality"], made_from["working_pixdim"], made_from["checkpoint"]) == ("xray", 0.8, "trained.pt")
    assert found["thresholds"] == (cuts or plain["thresholds"])
    bits, losses = given[0]
    assert len(bits) == len(losses) > 500
    assert np.isfinite(losses).all()
    assert (tmp_path / "found.png").stat().st_size > (tmp_path / "plain.png").stat().st_size  # one curve more


def test_millimetres_are_asked_for_where_they_count(images, checkpoint, tmp_path, monkeypatch):
    given, say = [], r"`pixdim` must be given, 1 for pixels: .*, got none for '.*0.png' and 2 more"
    out = tmp_path / "found.json"
    for settings in ({"working_pixdim": 0.8}, {"window_mm": 3.0}, {"checkpoint": checkpoint}):
        with pytest.raises(ValueError, match=say):
            calibrate(images, out, **settings)
    sized = save_checkpoint(tmp_path / "c.pt", find_bundle("landmark_pretraining"), SETTINGS | {"pixdim": 0.5})

    def read(paths, pixdim, working_pixdim):
        given.append((pixdim, working_pixdim))
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "_read", read)
    for settings in ({"checkpoint": sized}, {"checkpoint": sized, "pixdim": 0.4}, {}):
        with pytest.raises(KeyboardInterrupt):
            calibrate(images, out, **settings)
    assert given == [(0.5, 0.8), (0.4, 0.8), (None, None)]


def test_checkpoint_of_another_network_is_refused(checkpoint, tmp_path):
    data = folder_of(
        tmp_path / "rgb", [np.stack([anatomy((90, 80), shift) for shift in (0, 1, 2)], -1)] * 2, channels=True
    )
    with pytest.raises(ValueError, match=r"`checkpoint` must be of a network for images of shape \(3, "):
        calibrate(data, tmp_path / "found.json", "rgb", 1.0, working_pixdim=1.0, checkpoint=checkpoint)


def test_checkpoint_that_is_none_is_named(images, tmp_path, capsys):
    (tmp_path / "bad.pt").write_text("no checkpoint")
    assert main(["calibrate", "--data", str(images), "--checkpoint", str(tmp_path / "bad.pt")]) == 2
    said = capsys.readouterr().err
    assert "bad.pt" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_nothing_of_others_is_written_over(images, calibrated, tmp_path):
    out, _ = calibrated
    calibrate(images, out, window=5, num_bins=32)  # its own files
    for name in ("found.json", "found.png"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("theirs")
        with pytest.raises(ValueError, match=rf"`out` must be new, or a file as .* got '.*{name}', which is somebody"):
            calibrate(images, folder / "found.json", window=5, num_bins=32)
        assert {file.name: file.read_text() for file in folder.iterdir()} == {name: "theirs"}
    with pytest.raises(ValueError, match="`out` must be in another folder than the images"):
        calibrate(images, images / "found.json", window=5, num_bins=32)
    assert sorted(file.name for file in images.iterdir()) == ["0.png", "1.png", "2.png"]
