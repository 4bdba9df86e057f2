"""The page about one image: what it shows is what the transforms give."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Rand2DElastic

from monai_infoaug import transforms
from monai_infoaug.__main__ import main
from monai_infoaug.commands._page_pictures import for_screen
from monai_infoaug.commands.inspection import inspect_image
from monai_infoaug.transforms import RandTierIntensity

LEVELS = 254
DATA = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, size=(40, 32), channels=1, seed=0, spacing=None, kind=np.uint8) -> Path:
    """A ramp of growing noise, so that there is little and much information; ``size`` counts x first."""
    noise = np.random.default_rng(seed).random((*size[::-1], channels))
    pixels = 60 + 150 * np.linspace(0, 1, size[0])[:, None] * noise
    image = sitk.GetImageFromArray((pixels if channels > 1 else pixels[..., 0]).astype(kind), isVector=channels > 1)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, path)
    return path


def page_of(path: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="page">(.*?)</script>', path.read_text(), re.S)[1])


def picture(url: str, folder: Path) -> np.ndarray:
    """(C, X, Y) of a data URL."""
    assert url.startswith("data:image/png;base64,")
    (folder / "picture.png").write_bytes(b64decode(url.split(",", 1)[1], validate=True))
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(folder / "picture.png"))
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 1, 0)


def inspected(folder: Path, path: Path, **options) -> dict:
    inspect_image(path, folder / "page.html", **options)
    return page_of(folder / "page.html")


def run_code(page: dict, path: Path, thresholds=None) -> dict:
    """The item that the code on the page makes."""
    scope: dict = {}
    exec(page["code"]["python"].replace('"@thresholds"', repr(thresholds or page["thresholds"])), scope)
    return scope["preprocessing"]({"image": str(path)})


def of_levels(levels: np.ndarray, bits: float) -> np.ndarray:
    return np.where(levels > 0, (levels.astype(float) - 1) / LEVELS * bits, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_an_image_are_its_maps(tmp_path, channels):
    path = write(tmp_path / "image.png", channels=channels)
    page = inspected(tmp_path, path, num_bins=16)
    item = run_code(page, path)
    maps = page["maps"]
    assert maps["size"] == [40, 32]
    assert maps["columns"] == 1
    assert maps["slices"] == [0]
    assert not page["volume"]
    np.testing.assert_allclose(picture(maps["image"], tmp_path) / 255, item["image"], atol=0.5 / 255 + 1e-6)
    information = of_levels(picture(maps["levels"], tmp_path), page["bits"])
    assert page["bits"] == 4
    np.testing.assert_allclose(information, item["information"], atol=0.5 * 4 / LEVELS + 1e-6)
    assert float(item["information"].max()) > 2  # there is something to compare
    np.testing.assert_array_equal(picture(page["unchanged"], tmp_path), picture(maps["image"], tmp_path))


@pytest.mark.parametrize("thresholds", [None, (0.8, 2.5)])
def test_histogram_gives_the_shares(tmp_path, thresholds):
    path = write(tmp_path / "image.png", size=(80, 64))
    page = inspected(tmp_path, path, thresholds=thresholds)
    item = run_code(page, path)
    assert page["thresholds"] == list(thresholds or page["tertiles"])
    np.testing.assert_allclose(page["tertiles"], np.quantile(item["information"], [1 / 3, 2 / 3]), rtol=1e-6)
    assert sum(page["histogram"]) == 80 * 64
    bits, step = np.linspace(0, page["bits"], len(page["histogram"]), retstep=True)
    assert step < 0.003
    for cut in page["thresholds"]:
        exact = [(np.asarray(item["information"]) < cut + off).mean() for off in (-step, step)]
        below = np.array(page["histogram"])[bits < cut].sum() / (80 * 64)
        assert exact[0] <= below <= exact[1]


def test_volume_has_all_slices_and_the_foreground(tmp_path):
    head = np.zeros((14, 16, 18), np.float32)  # z, y, x
    head[2:12, 3:13, 3:15] = np.random.default_rng(0).uniform(100, 200, (10, 10, 12))
    path = tmp_path / "head.nii.gz"
    image = sitk.GetImageFromArray(head)
    image.SetSpacing((1, 1, 2.5))
    sitk.WriteImage(image, path)
    page = inspected(tmp_path, path, window=3, axis=1, index=5)
    item = run_code(page, path)
    assert 0 < item["foreground"].float().mean() < 1
    maps = page["maps"]
    width, height = maps["size"]
    assert (width, height) == (18, 14)
    assert page["pixel"] == [1, 2.5]
    assert maps["slices"] == list(range(16))
    assert maps["slices"][maps["start"]] == 5
    mosaic = picture(maps["levels"], tmp_path)[0]
    step = page["bits"] / LEVELS
    for number, y in enumerate(maps["slices"]):
        row, column = divmod(number, maps["columns"])
        levels = mosaic[column * width : (column + 1) * width, row * height : (row + 1) * height][:, ::-1]  # head up
        np.testing.assert_array_equal(levels > 0, item["foreground"][0, :, y] > 0)
        np.testing.assert_allclose(of_levels(levels, page["bits"]), item["information"][0, :, y], atol=step / 2 + 1e-6)
    assert sum(page["histogram"]) == int(item["foreground"].sum())


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIR"])
def test_volumes_are_drawn_as_radiologists_look_at_them(plane, codes):
    """A bright voxel at the patient's left, back and feet is at the lower right, however the file is turned."""
    affine, pairs = torch.zeros(4, 4, dtype=torch.float64), ("RL", "AP", "SI")
    affine[3, 3] = 1
    world = [next(i for i, pair in enumerate(pairs) if code in pair) for code in codes]
    for a, code in enumerate(codes):
        affine[world[a], a] = 1 if code in "RAS" else -1
    image = torch.zeros(1, 4, 4, 4)
    image[(0, *(3 if code in "LPI" else 0 for code in codes))] = 1
    image = MetaTensor(image, affine=affine)
    volumes, _ = for_screen(dict.fromkeys(("image", "information", "foreground", "tiers"), image), world.index(plane))
    assert volumes["image"].nonzero()[0, 2:].tolist() == [3, 3]


def test_samples_are_the_transforms_of_the_tiers(tmp_path):
    path = write(tmp_path / "image.png")
    page = inspected(tmp_path, path, intensity="published", seed=4)
    item = run_code(page, path)
    assert len(page["samples"]) == 3
    for draw, shown in enumerate(page["samples"]):
        modes = [("anchor", 0), ("anchor", 1), ("anchor", 2), ("blend", None)]
        for url, (mode, tier) in zip(shown, modes, strict=True):
            change = RandTierIntensity("published", mode=mode).set_random_state(seed=4 + draw)
            expected = change(item["image"], tiers=item["tiers"], tier=tier)
            np.testing.assert_allclose(picture(url, tmp_path) / 255, expected, atol=0.5 / 255 + 1e-6)
    assert page["samples"][0] != page["samples"][1]


def test_points_are_those_of_the_code_and_correspond(tmp_path):
    path = write(tmp_path / "image.png", size=(60, 50))
    page = inspected(tmp_path, path, seed=3)
    item = run_code(page, path)
    scope = vars(transforms) | {"Rand2DElastic": Rand2DElastic}
    views = eval(page["pair_code"], scope)(item)
    points, valid = np.array(page["pair"]["points"]), views["points_valid"]
    assert len(points) == int(valid.sum()) > 30
    np.testing.assert_allclose(points[:, :2], views["points_view1"][valid], atol=0.006)
    np.testing.assert_allclose(points[:, 2:4], views["points_view2"][valid], atol=0.006)
    np.testing.assert_array_equal(points[:, 4], views["points_tier"][valid])
    sources = []
    for k in (1, 2):  # where in the source each end lies, by the views' maps of coordinates
        at = points[:, 2 * k - 2 : 2 * k]
        low = np.floor(at).astype(int)
        share, coords = at - low, np.asarray(views[f"coords_view{k}"])
        source = 0
        for corner in np.ndindex(2, 2):
            weight = np.prod(np.where(corner, share, 1 - share), axis=1)
            x, y = np.minimum(low + corner, np.array(coords.shape[1:]) - 1).T
            source = source + weight * coords[:, x, y]
        sources.append(source)
    np.testing.assert_allclose(*sources, atol=0.1)
    for view, k in zip(page["pair"]["views"], (1, 2), strict=True):
        np.testing.assert_allclose(
            picture(view, tmp_path) / 255, np.clip(views[f"image_view{k}"], 0, 1), atol=0.5 / 255 + 1e-6
        )
    density = picture(page["pair"]["sampling"], tmp_path)
    np.testing.assert_allclose(
        density / 255, views["sampling_view1"] / views["sampling_view1"].max(), atol=0.5 / 255 + 1e-6
    )


def test_code_in_json_is_the_same_code(tmp_path):
    path = write(tmp_path / "image.png")
    page = inspected(
        tmp_path, path, pixdim=0.5, origin=0.1, working_pixdim=0.8, window_mm=4.0, modality="xray", thresholds=(1, 2)
    )
    item = run_code(page, path, (1.5, 2.0))
    steps = ConfigParser({"steps": json.loads(page["code"]["json"].replace('"@thresholds"', "[1.5, 2.0]"))})
    again = Compose(steps.get_parsed_content("steps"))({"image": str(path)})
    assert again["image"].shape == (1, 25, 20)
    assert item["tiers"].unique().tolist() == [0, 1, 2]
    for key in ("image", "information", "tiers"):
        np.testing.assert_array_equal(item[key], again[key])
    assert ["resampled to", "25 x 20, 0.8 x 0.8 mm"] in page["facts"]


@pytest.mark.parametrize(
    ("name", "options", "facts"),
    [
        ("a.png", {}, {"spacing": "1 x 1 mm (assumed)", "modality": "xray (assumed)", "size": "40 x 32"}),
        ("a.png", {"pixdim": 0.3}, {"spacing": "0.3 x 0.3 mm"}),
        ("a.mha", {"modality": "mr"}, {"spacing": "0.5 x 2 mm", "modality": "mr"}),
    ],
)
def test_what_was_assumed_is_said(tmp_path, name, options, facts):
    path = write(tmp_path / name, spacing=(0.5, 2.0) if name.endswith("mha") else None)
    page = inspected(tmp_path, path, **options)
    assert facts.items() <= dict(page["facts"]).items()
    assert page["name"] == name


@pytest.mark.parametrize(("lowest", "modality"), [(-1000, "ct (assumed)"), (-3, "mr (assumed)")])
def test_a_volume_that_goes_down_to_air_is_a_ct(tmp_path, lowest, modality):
    body = np.full((10, 12, 14), lowest, np.float32)
    body[2:8, 2:10, 2:12] = np.random.default_rng(0).uniform(0, 100, (6, 8, 10))
    sitk.WriteImage(sitk.GetImageFromArray(body), tmp_path / "body.nrrd")
    assert dict(inspected(tmp_path, tmp_path / "body.nrrd", window=3)["facts"])["modality"] == modality


def test_volume_of_one_slice_is_an_image(tmp_path):
    path = write(tmp_path / "radiograph.dcm", size=(40, 32, 1))
    page = inspected(tmp_path, path)
    item = run_code(page, path)
    assert not page["volume"]
    assert item["tiers"].shape == (1, 40, 32)


def test_constant_image_has_one_tier(tmp_path):
    sitk.WriteImage(sitk.Image(20, 20, sitk.sitkUInt8), tmp_path / "black.png")
    page = inspected(tmp_path, tmp_path / "black.png")
    assert page["histogram"][0] == sum(page["histogram"]) == 400
    assert page["tertiles"] == pytest.approx([0, 0], abs=1e-30)


def test_large_maps_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_infoaug.commands._page_pictures.MAX_VOXELS", 500)
    monkeypatch.setattr("monai_infoaug.commands._page_pictures.MAX_PIXELS", 100)
    path = write(tmp_path / "volume.nrrd", size=(20, 16, 11), kind=np.float32)
    page = inspected(tmp_path, path, window=3)
    maps = page["maps"]
    assert maps["thin"] == 2
    assert maps["size"] == [10, 8]
    assert maps["slices"] == [1, 3, 5, 7, 9]
    assert maps["start"] == 2
    assert picture(maps["levels"], tmp_path).size == 3 * 2 * 10 * 8
    assert sum(page["histogram"]) == int(run_code(page, path)["foreground"].sum())


class Checker(HTMLParser):
    """Collects what is opened and not closed, and every address."""

    VOID = {"meta", "link", "input", "br", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_sound_and_asks_for_nothing_outside(tmp_path):
    path = write(tmp_path / "a<b>&c.png")
    page = inspected(tmp_path, path)
    text = (tmp_path / "page.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    assert all(address.startswith("data:") for address in checker.addresses)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\(", text)
    assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= set(checker.ids)
    assert page["name"] == "a<b>&c.png"
    assert "a<b>" not in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--thresholds", "3", "2"], "`thresholds` must be two finite numbers (t1, t2) with t1 <= t2"),
        (["--window", "8"], "`window` must be odd"),
        (["--window", "41"], "`window` must be one side or one an axis, no larger than the image's axes (40, 32)"),
        (["--window-mm", "-1"], "`window_mm`"),
        (["--bins", "1"], "`num_bins`"),
        (["--modality", "pet"], "`modality` must be one of"),
        (["--modality", "rgb"], "3 channels"),
        (["--slice", "1"], "`axis and slice` must be left out for a 2D image"),
        (["--axis", "0"], "`axis and slice` must be left out for a 2D image"),
        (["--origin", "2"], "`origin`"),
        (["--pixdim", "0"], "`pixdim`"),
        (["--working-pixdim", "0"], "`working_pixdim` must be positive"),
        (["--working-pixdim", "0.5"], "`pixdim` must be given, 1 for pixels"),
        (["--window-mm", "3"], "`pixdim` must be given, 1 for pixels"),
        (["--intensity", "loud"], "`intensity` must be one of ('published', 'rich', 'cross_contrast')"),
        (["--seed", "-1"], "`seed` must be at least 0"),
        (["--out", "nowhere/page.html"], "`out` must be a file in a folder that exists, got nowhere/page.html"),
        (["--out", "."], "`out` must be a file"),
    ],
)
def test_errors_are_one_line(arguments, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "image.png")
    assert main(["inspect", "image.png", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("monai-infoaug inspect: ")
    assert said.count("\n") == 1
    assert named in said
    assert not (tmp_path / "inspect.html").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--slice", "9"], "`slice` must be from 0 to 8 along axis 2, got 9"),
        (["--axis", "0", "--slice", "-1"], "`slice` must be from 0 to 10 along axis 0, got -1"),
        (["--axis", "3"], "`axis` must be 0, 1 or 2, got 3"),
    ],
)
def test_slices_that_a_volume_lacks(arguments, named, tmp_path, capsys):
    write(tmp_path / "volume.nrrd", size=(11, 10, 9))
    assert main(["inspect", str(tmp_path / "volume.nrrd"), "--out", str(tmp_path / "page.html"), *arguments]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("seed", {"seed": "1"}),
        ("axis", {"axis": "z"}),
        ("slice", {"index": 0.5}),
        ("working_pixdim", {"working_pixdim": True}),
    ],
)
def test_settings_of_a_wrong_type_are_named(named, given, tmp_path):
    path = write(tmp_path / "volume.nrrd", size=(11, 10, 9))
    with pytest.raises(ValueError, match=f"^`{named}` must be"):
        inspect_image(path, tmp_path / "page.html", **given)


@pytest.mark.parametrize("name", ["missing.png", "broken.png", "broken.nii.gz", "four.nrrd"])
def test_unreadable_files_are_named(name, tmp_path, capsys):
    path = tmp_path / name
    if name.startswith("broken"):
        path.write_text("no image")
    if name == "four.nrrd":
        write(path, channels=4)
    assert main(["inspect", str(path), "--out", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert said.count("\n") == 1


def test_command_passes_everything_on(tmp_path, monkeypatch, capsys):
    write(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    options = "--pixdim 0.5 --origin 0.1 --working-pixdim 0.8 --window-mm 4 --bins 16 --modality xray --seed 2"
    assert main(["inspect", "image.png", "--thresholds", "1", "2", "--intensity", "published", *options.split()]) == 0
    assert "inspect.html" in capsys.readouterr().out
    expected = inspected(
        tmp_path,
        tmp_path / "image.png",
        pixdim=0.5,
        origin=0.1,
        working_pixdim=0.8,
        window_mm=4.0,
        num_bins=16,
        modality="xray",
        seed=2,
        thresholds=(1, 2),
        intensity="published",
    )
    assert page_of(tmp_path / "inspect.html") == expected


def in_browser(page: Path, folder: Path, fragment: str = "") -> str:
    """The page's elements after its script has run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command = [browser, *options, f"{page.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


def test_thresholds_in_the_browser(tmp_path):
    path = write(tmp_path / "image.png", size=(80, 64))
    page = inspected(tmp_path, path)
    text = in_browser(tmp_path / "page.html", tmp_path, "#thresholds=0.9,2.6")
    item = run_code(page, path, (0.9, 2.6))
    shares = [float(re.search(rf'id="share-{name}">([\d.]+) %', text)[1]) / 100 for name in ("low", "medium", "high")]
    exact = [float((item["tiers"] == tier).float().mean()) for tier in range(3)]
    assert sum(shares) == pytest.approx(1, abs=0.002)
    np.testing.assert_allclose(shares, exact, atol=0.003)
    assert "thresholds=(0.900, 2.600)" in text
    assert '{"thresholds": [0.900, 2.600]}' in text
    assert text.count('class="pair"') == len(page["pair"]["points"])


@pytest.mark.skipif(not (DATA / "ceph").is_dir(), reason="needs the cephalometric images")
def test_radiograph_makes_a_small_page(tmp_path):
    path = sorted((DATA / "ceph" / "train").glob("*.jpg"))[0]
    page = inspected(tmp_path, path, pixdim=0.3)
    assert (tmp_path / "page.html").stat().st_size < 3e6
    assert page["maps"]["thin"] == 1
    assert page["maps"]["size"] == [645, 800]
    assert sum(page["histogram"]) == 645 * 800


@pytest.mark.parametrize("out", ["a.nrrd", "link.html", "hard.html", "theirs.html"])
def test_nothing_but_its_own_page_is_written_over(tmp_path, out):
    path = write(tmp_path / "a.nrrd", size=(20, 16))
    (tmp_path / "link.html").symlink_to("a.nrrd")
    (tmp_path / "hard.html").hardlink_to(path)
    (tmp_path / "theirs.html").write_text("theirs")
    before = (tmp_path / out).read_bytes()
    with pytest.raises(ValueError, match="`out` must be"):
        inspect_image(path, tmp_path / out, window=3)
    assert (tmp_path / out).read_bytes() == before


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, full_disk):
    path = write(tmp_path / "a.nrrd", size=(20, 16))
    (tmp_path / "out").mkdir()
    with full_disk(), pytest.raises(OSError, match=r"File too large: '.*page.html'"):
        inspect_image(path, tmp_path / "out" / "page.html", window=3)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".monai_infoaug.jsonl"]


def test_a_page_is_written_again_until_somebody_changes_it(tmp_path):
    path, page = write(tmp_path / "a.nrrd", size=(20, 16)), tmp_path / "page.html"
    for window in (3, 5):
        inspect_image(path, page, window=window)
    page.write_text("changed")
    with pytest.raises(ValueError, match=r"page.html', which is somebody else's, or was changed since"):
        inspect_image(path, page, window=3)
    assert page.read_text() == "changed"
