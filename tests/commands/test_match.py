"""Landmarks from one template in many images: what is written, what is refused, and what goes on."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

pytest.importorskip("tqdm", reason="matching needs the extra train")
pytest.importorskip("matplotlib", reason="matching draws with matplotlib")

from monai_infoaug.__main__ import main
from monai_infoaug.bundles import copy_bundle, find_bundle
from monai_infoaug.commands._match_pictures import draw_match
from monai_infoaug.commands.match import match_images
from monai_infoaug.commands.template_matcher import Match, TemplateMatcher
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.data._landmark_files import distinct_names
from monai_infoaug.inferers import to_voxels
from tests.commands.scenes import save_checkpoint, smooth

SETTINGS = {
    "bundle": "landmark_pretraining",
    "modality": "xray",
    "features": [32] * 5,
    "working_pixdim": 0.5,
}
LABELS, POINTS = ("sella", "nasion", "chin"), np.array([[10.0, 8.0], [20.5, 30.25], [28.0, 15.0]])
LIKE_PNG = {"pixdim": 0.5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return save_checkpoint(folder / "checkpoint.pt", find_bundle("landmark_pretraining"), SETTINGS)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pictures of 40 x 36 mm, the second one with the same content as the first, and the first one's landmarks."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        sitk.WriteImage(sitk.GetImageFromArray(smooth(0, (72, 80))), tmp_path / "images" / f"{name}.png")
    write_landmarks(tmp_path / "table.csv", LandmarkTable(LABELS, {"a": POINTS}))
    return tmp_path


def run(checkpoint: Path, folder: Path, images=("images",), table="table.csv", **options) -> dict[str, str]:
    options = {"out": folder / "out", "settings": LIKE_PNG, **options}
    return match_images(
        checkpoint, folder / "images" / "a.png", folder / table, [folder / i for i in images], **options
    )


def test_what_is_written(checkpoint, folder, capsys):
    assert run(checkpoint, folder) == {}
    out = folder / "out"
    files = {
        ".monai_infoaug.jsonl",
        "a.mrk.json",
        "a.png",
        "b.mrk.json",
        "b.png",
        "confident.csv",
        "landmarks.csv",
        "summary.csv",
    }
    assert {f.name for f in out.iterdir()} == files
    table = read_landmarks(out / "landmarks.csv")
    assert table.labels == LABELS
    assert table.space == "LPS"
    assert list(table.points) == ["a", "b"]
    for name in table.points:
        np.testing.assert_allclose(table.points[name], POINTS, atol=0.6)
        assert (table.scores[name] > 0.7).all()
        slicer = read_landmarks(out / f"{name}.mrk.json")
        np.testing.assert_array_equal(slicer.points[name][:, :2], table.points[name])
        np.testing.assert_array_equal(slicer.points[name][:, 2], 0)
        np.testing.assert_array_equal(slicer.scores[name], table.scores[name])
        picture = sitk.GetArrayFromImage(sitk.ReadImage(out / f"{name}.png"))
        assert (picture[..., :3] == (0, 255, 0)).all(-1).any()  # green crosses
    with open(out / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["low"], row["failure"]) for row in rows] == [("a", "", ""), ("b", "", "")]
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"]
    assert float(rows[0]["mean_score"]) == pytest.approx(table.scores["a"].mean(), abs=6e-4)
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["a", rows[0]["mean_score"]]
    assert "Wrote 2 of 2 images" in said


@pytest.mark.slow
def test_low_landmarks_are_flagged_everywhere(checkpoint, folder, capsys):
    sitk.WriteImage(sitk.GetImageFromArray(smooth(7, (72, 80))), folder / "images" / "other.png")
    matcher = TemplateMatcher(checkpoint, folder / "images" / "a.png", folder / "table.csv", settings=LIKE_PNG)
    match = matcher(matcher.read(folder / "images" / "other.png"))
    np.testing.assert_array_equal(match.low, match.round_trips > 3)
    assert match.low.any(), "nothing of another picture should match well"
    run(checkpoint, folder)
    points = json.loads((folder / "out" / "other.mrk.json").read_text())["markups"][0]["controlPoints"]
    assert [not point["selected"] for point in points] == match.low.tolist()
    assert [point["description"].endswith("; low") for point in points] == match.low.tolist()
    low = [label for label, is_low in zip(LABELS, match.low, strict=True) if is_low]
    assert capsys.readouterr().out.splitlines()[3].split(maxsplit=2)[2].split("; ") == low
    everything, confident = (read_landmarks(folder / "out" / f"{name}.csv") for name in ("landmarks", "confident"))
    for name, points in everything.points.items():
        kept = points.copy()
        kept[match.low if name == "other" else []] = np.nan
        np.testing.assert_array_equal(confident.points[name], kept)
        np.testing.assert_array_equal(confident.scores[name], everything.scores[name])
    picture = sitk.GetArrayFromImage(sitk.ReadImage(folder / "out" / "other.png"))
    assert (picture[..., :3] == (255, 255, 0)).all(-1).any()  # yellow crosses

    run(checkpoint, folder, ["images/other.png"], min_score=0.999, max_round_trip=1000)
    points = json.loads((folder / "out" / "other.mrk.json").read_text())["markups"][0]["controlPoints"]
    assert not any(point["selected"] for point in points)


def test_one_bad_file_does_not_stop_the_rest(checkpoint, folder, capsys):
    (folder / "images" / "aa_corrupt.png").write_text("no picture")
    colour = sitk.JoinSeries([sitk.GetImageFromArray(smooth(i, (72, 80))) for i in range(3)])
    sitk.WriteImage(
        sitk.GetImageFromArray(np.moveaxis(sitk.GetArrayFromImage(colour), 0, -1), isVector=True),
        folder / "images" / "colour.png",
    )
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkUInt8), folder / "images" / "volume.nii.gz")
    failures = run(checkpoint, folder)
    assert sorted(Path(path).name for path in failures) == ["aa_corrupt.png", "colour.png", "volume.nii.gz"]
    assert "SimpleITK can read" in failures[str(folder / "images" / "aa_corrupt.png")]
    assert "(B, 1, *S)" in failures[str(folder / "images" / "colour.png")]
    assert list(read_landmarks(folder / "out" / "landmarks.csv").points) == ["a", "b"]
    captured = capsys.readouterr()
    ahead = [line for line in captured.err.splitlines() if line.startswith("Of the images ahead: ")]
    assert len(ahead) == 3  # those that cannot be read, and those of other channels or axes than the template
    assert "aa_corrupt.png" in ahead[0]
    assert "must be of 1 channels" in ahead[1]
    assert "must be of 2 axes" in ahead[2]
    for path, why in failures.items():
        assert f"{path}: {why}" in captured.err
        assert "\n" not in why
        assert why in captured.out
    assert "Wrote 2 of 5 images" in captured.out


def test_a_format_without_millimetres_needs_pixdim(checkpoint, folder):
    with pytest.raises(ValueError, match="`pixdim` must be given, 1 for pixels"):
        run(checkpoint, folder, settings={})
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "none.pt"}, r"none.pt` must be a readable checkpoint"),
        ({"checkpoint": "table.csv"}, r"table.csv` must be a readable checkpoint"),
        ({"checkpoint": "other.pt"}, r"other.pt` must be a checkpoint of this GlobalLocalEmbeddingNet"),
        ({"checkpoint": "evil.pt"}, r"`settings of .*evil.pt` must be .*, got modality='\$print\(1\)'"),
        ({"checkpoint": "odd.pt"}, r"`settings of .*odd.pt` must be among those of the bundle: .*, got 'colour'"),
        ({"template": "none.png"}, r"`template` must be an image file, got .*none.png"),
        ({"template": "table.csv"}, r"template .*table.csv: "),
        ({"landmarks": "none.csv"}, r"`path` must be a readable landmark file .*none.csv"),
        (
            {"landmarks": "outside.csv"},
            r"`landmarks` must be inside of the template of 80 x 72 voxels of 0.5 x 0.5 mm, got 'out' at \[10",
        ),
        ({"landmarks": "flat.csv"}, r"flat.csv` must be 2 a landmark, got 3 coordinates"),
        ({"landmarks": "others.csv"}, r"`image` must be in the table .*others.csv.*, got 'a'"),
        ({"images": ["nothing"]}, r"`images` must be files and folders, got .*nothing"),
        ({"images": []}, r"`images` must be files and folders, got none"),
        ({"bundle": "landmarks"}, r"`bundle` must be one of .*landmark_pretraining"),
        ({"settings": {"colour": 1}}, r"`settings` must be among those of the bundle: .*modality.*, got 'colour'"),
        ({"settings": {"network_def": 1}}, r"`settings` must be among those of the bundle"),
        ({"settings": {"modality": "@seed"}}, r"`settings` must be .*, got modality='@seed'"),
        ({"settings": {"pixdim": [1, "%x"]}}, r"`settings` must be"),
        (
            {"settings": {"workingpixdim": 1}},
            r"`settings` must be .*, got 'workingpixdim': working_pixdim may be meant",
        ),
        *(
            ({"settings": {"working_pixdim": s, **LIKE_PNG}}, "`working_pixdim` must be a number")
            for s in (0, -2, np.nan)
        ),
        ({"settings": {"working_pixdim": [1, 1], **LIKE_PNG}}, r"`working_pixdim` must be a number above 0, in mm"),
        ({"settings": {"patch_radius": -1, **LIKE_PNG}}, r"configuration: `patch_radius` must be"),
        ({"settings": {"level_weights": [1], **LIKE_PNG}}, r"configuration: `level_weights` must be"),
        ({"settings": {"modality": "sonar"}}, r"configuration: `modality` must be one of"),
        ({"settings": {"pixdim": -1}}, r"configuration: `pixdim` must be"),
        ({"settings": {"in_channels": 3, **LIKE_PNG}}, r"must be a checkpoint of this GlobalLocalEmbeddingNet"),
        ({"out": "table.csv"}, r"table.csv"),
        ({"min_score": 2}, r"`min_score` must be a cosine, from -1 to 1, got 2"),
        ({"max_round_trip": 0}, r"`max_round_trip` must be above 0, in voxels, got 0"),
        ({"device": "abacus"}, r"`device` must be one that PyTorch finds here"),
    ],
)
def test_faults_in_what_all_images_share(checkpoint, folder, change, message):
    state = torch.load(checkpoint, weights_only=True)
    torch.save({"network": {}}, folder / "other.pt")
    torch.save(state | {"settings": {"modality": "$print(1)"}}, folder / "evil.pt")
    torch.save(state | {"settings": {"colour": 1}}, folder / "odd.pt")
    write_landmarks(folder / "outside.csv", LandmarkTable(["in", "out"], {"a": [[10.0, 8.0], [10.0, 80.0]]}))
    write_landmarks(folder / "flat.csv", LandmarkTable(["in"], {"a": [[10.0, 8.0, 0.0]]}))
    write_landmarks(folder / "others.csv", LandmarkTable(["in"], {"b": [[10.0, 8.0]]}))
    given = {"template": "images/a.png", "landmarks": "table.csv", "images": ["images"], "out": "out", **change}
    places = {key: folder / given.pop(key) for key in ("template", "landmarks", "out")}
    given["images"] = [folder / image for image in given["images"]]
    given |= {"checkpoint": folder / given["checkpoint"] if "checkpoint" in given else checkpoint}
    with pytest.raises((ValueError, OSError), match=message):
        match_images(**{"settings": LIKE_PNG, **places, **given})
    assert not (folder / "out").exists()


def test_a_checkpoint_without_settings(checkpoint, folder):
    bare = folder / "bare.pt"
    torch.save(torch.load(checkpoint, weights_only=True)["network"], bare)
    settings = {key: value for key, value in SETTINGS.items() if key != "bundle"}
    assert run(bare, folder, settings={**settings, **LIKE_PNG}) == {}


def test_only_what_the_template_shows(checkpoint, folder):
    write_landmarks(folder / "table.csv", LandmarkTable(LABELS, {"a": [POINTS[0], [np.nan] * 2, POINTS[2]]}))
    run(checkpoint, folder)
    assert read_landmarks(folder / "out" / "landmarks.csv").labels == ("sella", "chin")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/1.png", "y/2.nii.gz"], ["1", "2"]),
        (["x/1.png", "y/1.png", "y/2.png"], ["x_1", "y_1", "y_2"]),
        (["x/1.png", "x/1.jpg"], ["1.png", "1.jpg"]),
        (["a_b/1.png", "a/b_1.png", "a/b_1.jpg", "1.png"], ["0_1.png", "1_b_1.png", "2_b_1.jpg", "3_1.png"]),
    ],
)
def test_names_are_distinct(paths, names):
    assert list(distinct_names([Path(path) for path in paths]).values()) == names


def test_an_image_given_twice_is_matched_once_and_namesakes_are_kept(checkpoint, folder):
    (folder / "more").mkdir()
    shutil.copy(folder / "images" / "a.png", folder / "more" / "a.png")
    run(checkpoint, folder, ["images/a.png", "images", "more"])
    assert list(read_landmarks(folder / "out" / "landmarks.csv").points) == ["images_a", "images_b", "more_a"]
    assert (folder / "out" / "more_a.mrk.json").exists()


@pytest.mark.slow
def test_volumes_in_a_turned_anisotropic_frame(tmp_path, capsys):
    """Slicer's table in LPS, volumes in RAS: what is written comes back at the same place of the volume."""
    bundle = copy_bundle("landmark_pretraining", tmp_path / "bundle")
    config = (bundle / "configs" / "train.json").read_text()
    config = config.replace('"spatial_dims": 2', '"spatial_dims": 3').replace(
        "[@working_pixdim] * 2", "[2.0, 1.0, 1.5]"
    )
    (bundle / "configs" / "train.json").write_text(config)
    checkpoint = save_checkpoint(tmp_path / "c.pt", bundle, SETTINGS | {"modality": "mr"})

    volume = sitk.GetImageFromArray(smooth(0, (28, 32, 72)))
    volume.SetSpacing([2.0, 1.0, 1.5])
    turn = sitk.Euler3DTransform([0.0] * 3, 0.2, -0.1, 0.3)
    volume.SetDirection(turn.GetMatrix())
    volume.SetOrigin([-20.0, 5.0, 11.0])
    (tmp_path / "images").mkdir()
    for name in ("t.nii.gz", "u.mha"):
        sitk.WriteImage(volume, tmp_path / "images" / name)
    lps = [volume.TransformContinuousIndexToPhysicalPoint(index) for index in ((20.0, 12, 9), (50, 20.0, 17))]
    write_landmarks(tmp_path / "t.mrk.json", LandmarkTable(["AC", "PC"], {"t": lps}, space="LPS"))

    failures = match_images(
        checkpoint,
        tmp_path / "images" / "t.nii.gz",
        tmp_path / "t.mrk.json",
        [tmp_path / "images"],
        tmp_path / "out",
        bundle,
    )
    assert failures == {}
    for name in "tu":
        found = read_landmarks(tmp_path / "out" / f"{name}.mrk.json")
        assert found.labels == ("AC", "PC")
        assert found.space == "RAS"
        np.testing.assert_allclose(found.to("LPS").points[name], lps, atol=1.5)
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 1000
    assert "low" not in capsys.readouterr().out.splitlines()[1]


def test_exit_status(checkpoint, folder, capsys):
    template = ["--template", str(folder / "images" / "a.png"), "--landmarks", str(folder / "table.csv")]
    common = ["match", "--checkpoint", str(checkpoint), *template, "--out", str(folder / "out"), str(folder / "images")]
    assert main([*common, "--pixdim", "0.5", "--origin", "0.0", "--set", "num_points=5"]) == 0
    (folder / "images" / "c.png").write_text("no picture")
    assert main([*common, "--pixdim", "[0.5, 0.5]"]) == 1
    capsys.readouterr()
    assert main([*common, "--pixdim", "0.5", "--set", "modality=$evil"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("monai-infoaug match: `settings` must be")
    assert said.count("\n") == 1


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the images that were really matched."""
    seen = []
    usual = TemplateMatcher.read
    monkeypatch.setattr(TemplateMatcher, "read", lambda self, path: seen.append(Path(path).name) or usual(self, path))
    return seen


@pytest.mark.parametrize(
    ("theirs", "options", "message"),
    [
        ([], {"out": "images"}, r"`out` must be another folder than that of the images"),
        ([], {"out": "link"}, r"`out` must be another folder than that of the images"),
        (["b.png"], {}, r"`out` must be new, or a file as .* written it, got '.*b.png', which is somebody else's"),
        (["a.mrk.json"], {}, r"got '.*a.mrk.json', which is somebody else's"),
        (["summary.csv"], {}, r"got '.*summary.csv', which is somebody else's"),
        (
            ["landmarks.csv"],
            {"table": "out/landmarks.csv"},
            r"`out` must be apart from what is read, got '.*s.csv",
        ),
    ],
)
def test_nothing_of_others_is_written_over(checkpoint, folder, theirs, options, message):
    (folder / "link").symlink_to("images")
    (folder / "out").mkdir()
    for name in theirs:
        shutil.copy(folder / "table.csv", folder / "out" / name)
    before = contents(folder)
    given = {**options, "out": folder / options.get("out", "out")}
    with pytest.raises(ValueError, match=message):
        run(checkpoint, folder, **given)
    assert contents(folder) == before


@pytest.mark.slow
def test_a_second_run_goes_on_and_keeps_what_was_corrected(checkpoint, folder, calls, capsys):
    run(checkpoint, folder)
    first, out = contents(folder / "out"), folder / "out"
    assert calls == ["a.png", "a.png", "b.png"]  # the template, then the images
    assert run(checkpoint, folder) == {}
    assert calls[3:] == ["a.png"]
    again = contents(out)
    assert {name: again[name] for name in first if "jsonl" not in name} == {
        name: first[name] for name in first if "jsonl" not in name
    }
    assert "Wrote 2 of 2 images, 2 of them before, to" in capsys.readouterr().out

    (out / "a.mrk.json").write_bytes(first["a.mrk.json"].replace(b"chin", b"jaw"))
    corrected = (out / "a.mrk.json").read_bytes()
    shutil.copy(folder / "images" / "b.png", folder / "images" / "c.png")
    run(checkpoint, folder)
    assert calls[4:] == ["a.png", "c.png"]
    assert (out / "a.mrk.json").read_bytes() == corrected
    assert "a.mrk.json was changed since it was written: it stays so" in capsys.readouterr().err
    assert list(read_landmarks(out / "landmarks.csv").points) == ["a", "b", "c"]

    with pytest.raises(ValueError, match=r"a.mrk.json', which is somebody else's, or was changed since"):
        run(checkpoint, folder, min_score=0.5)
    assert (out / "a.mrk.json").read_bytes() == corrected


@pytest.mark.slow
@pytest.mark.parametrize("change", ["checkpoint", "landmarks", "settings", "limit", "image", "missing"])
def test_what_has_changed_is_done_again(checkpoint, folder, calls, change):
    run(checkpoint, folder)
    calls.clear()
    options = {}
    if change == "checkpoint":
        state = torch.load(checkpoint, weights_only=True)
        checkpoint = folder / "other.pt"
        torch.save(state | {"trainer": {"epoch": 2}}, checkpoint)
    elif change == "landmarks":
        write_landmarks(folder / "table.csv", LandmarkTable(LABELS, {"a": POINTS + 0.5}))
    elif change == "settings":
        options = {"settings": {"pixdim": 0.5, "patch_radius": 8}}
    elif change == "limit":
        options = {"max_round_trip": 2.0}
    elif change == "image":
        os.utime(folder / "images" / "b.png", (1, 1))
    else:
        (folder / "out" / "b.png").unlink()
    run(checkpoint, folder, **options)
    assert calls[1:] == (["b.png"] if change in ("image", "missing") else ["a.png", "b.png"])


def test_tables_follow_while_the_work_goes_on(checkpoint, folder, monkeypatch):
    def stop(self, path):
        if Path(path).name == "b.png":
            raise KeyboardInterrupt
        return usual(self, path)

    usual = TemplateMatcher.read
    monkeypatch.setattr(TemplateMatcher, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, folder)
    assert list(read_landmarks(folder / "out" / "landmarks.csv").points) == ["a"]
    assert list(read_landmarks(folder / "out" / "confident.csv").points) == ["a"]
    with open(folder / "out" / "summary.csv") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a"]


def test_a_full_disk_ends_the_run_in_one_line_and_the_next_one_goes_on(checkpoint, folder, calls, monkeypatch, capsys):
    command = ["match", "--checkpoint", checkpoint, "--template", folder / "images" / "a.png", "--pixdim", "0.5"]
    command = [*map(str, [*command, "--landmarks", folder / "table.csv", "--out", folder / "out", folder / "images"])]
    usual = os.replace

    def full(source, target):
        if Path(target).name == "b.png":
            raise OSError(errno.ENOSPC, "No space left on device", source)
        usual(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"monai-infoaug match: [Errno 28] No space left on device: '{folder / 'out' / 'b.png'}'"
    names = {
        ".monai_infoaug.jsonl",
        "a.mrk.json",
        "a.png",
        "b.mrk.json",
        "confident.csv",
        "landmarks.csv",
        "summary.csv",
    }
    assert set(contents(folder / "out")) == names
    calls.clear()
    assert main(command) == 0
    assert calls == ["a.png", "b.png"]
    assert list(read_landmarks(folder / "out" / "landmarks.csv").points) == ["a", "b"]


def test_names_that_are_no_unicode_are_escaped_in_the_tables(checkpoint, folder, monkeypatch, capsys):
    monkeypatch.setattr("monai_infoaug.commands._images.image_datalist", lambda path: [{"image": str(path)}])
    odd = folder / "images" / "R\udcf6ntgen.png"
    shutil.copy(folder / "images" / "a.png", odd)
    usual = TemplateMatcher.read
    monkeypatch.setattr(TemplateMatcher, "read", lambda self, path: usual(self, folder / "images" / "a.png"))
    assert run(checkpoint, folder, ["images/b.png", odd]) == {}
    name = "R\\udcf6ntgen"
    assert {f"{name}.png", f"{name}.mrk.json"} <= set(contents(folder / "out"))
    assert list(read_landmarks(folder / "out" / "landmarks.csv").points) == ["b", name]
    assert name in capsys.readouterr().out


def test_names_that_differ_in_case_alone_are_made_different():
    assert list(distinct_names([Path("x/A.png"), Path("y/a.png")]).values()) == ["x_A", "y_a"]


@pytest.mark.slow
def test_names_of_any_kind_come_into_pictures(checkpoint, folder):
    for name in ("a$\\x$.png", "页.png"):
        shutil.copy(folder / "images" / "a.png", folder / "images" / name)
    write_landmarks(folder / "table.csv", LandmarkTable(["$\\x$", "页", "chin"], {"a": POINTS}))
    assert run(checkpoint, folder) == {}
    assert {"a$\\x$.png", "页.mrk.json"} <= set(contents(folder / "out"))


@pytest.mark.parametrize("count", [1, 6])
def test_landmarks_of_volumes_are_in_the_middle_of_three_planes(count):
    """Of the template and of the image, whose axes run otherwise and whose voxels are no cubes."""
    generator = np.random.default_rng(0)
    world = generator.uniform(8, 20, (count, 3)).round()
    volumes = []
    for sides, order in (((1.0, 1.0, 1.0), (0, 1, 2)), ((2.0, 1.0, 0.5), (2, 0, 1))):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, list(order)] * np.multiply(sides, (1, -1, 1))
        affine[order[1], 3] = 28  # that axis runs down from there
        shape = [round(28 / side) + 1 for side in sides]
        grid = np.einsum("ij,jklm->iklm", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
        distances = [np.abs(grid - place[:, None, None, None]).max(0) for place in world]
        volumes.append(MetaTensor(torch.tensor((np.min(distances, axis=0) <= 1)[None] * 1.0), affine=affine))
    template, image = volumes
    points = to_voxels(torch.tensor(world)[None], template)
    labels = [f"p{i}" for i in range(count)]
    match = Match(world, "RAS", np.ones(count), np.ones(count), np.arange(count) % 2 == 1)
    matcher = SimpleNamespace(labels=labels, templates=[SimpleNamespace(image=template, points=points)])
    axes = draw_match(image, match, matcher, "scan").axes[0]
    marks = np.concatenate([line.get_xydata() for line in axes.lines])
    assert len(marks) == 6 * count
    assert len(np.unique(marks, axis=0)) == 6 * count
    pixels = axes.images[0].get_array()
    for x, y in marks.round().astype(int):
        assert pixels[y, x] > 0.9
        assert pixels[y, x - 4 : x + 5].min() < 0.1  # the landmark alone is bright
    assert [text.get_text() for text in axes.texts] == labels
