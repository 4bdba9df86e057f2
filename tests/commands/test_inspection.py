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
from monai_infoaug.bundles import copy_bundle, find_bundle
from monai_infoaug.commands import inspection
from monai_infoaug.commands._page_pictures import for_screen
from monai_infoaug.commands.inspection import inspect_image
from monai_infoaug.handlers import CHANGE_COLOURS, INFORMATION_COLOURS, TIER_COLOURS
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
    assert url.startswith("data:image/png;base64,")  # small ones lose nothing
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
    np.testing.assert_allclose(page["tertiles"], np.quantile(item["information"], [1 / 3, 2 / 3]), atol=1e-3)
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
    assert (maps["plane"], [each["plane"] for each in page["crossing"]]) == ("coronal", ["sagittal", "axial"])
    for each, number, a, sides in zip(page["crossing"], (9, 7), (0, 2), ((16, 14), (18, 16)), strict=True):
        assert (each["slices"], each["start"], each["size"]) == ([number], 0, list(sides))
        assert each["pixel"] == [1, 2.5 if a == 0 else 1]
        shown = of_levels(picture(each["levels"], tmp_path)[0], page["bits"])
        information = np.take(item["information"][0].numpy(), number, a)
        turned = information[:, ::-1] if a == 0 else information  # head up
        np.testing.assert_allclose(shown, turned, atol=step / 2 + 1e-6)


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


def coloured(shares: np.ndarray) -> np.ndarray:
    """Shares (X, Y) of the strongest change in the colours of changes, (3, X, Y)."""
    stops = np.array([[*bytes.fromhex(colour[1:])] for colour in CHANGE_COLOURS])
    return np.stack([np.interp(shares, np.linspace(-1, 1, len(stops)), stops[:, c]) for c in range(3)])


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {"transforms": "rich"}),
        ({"intensity": "published"}, {"transforms": "published"}),
        ({"strengths": (0.0, 2.0, 0.3)}, {"transforms": "rich", "strengths": (0.0, 2.0, 0.3)}),
    ],
)
def test_samples_are_the_transforms_of_the_tiers_and_what_they_change(tmp_path, options, given):
    path = write(tmp_path / "image.png", channels=3 if options else 1)
    page = inspected(tmp_path, path, seed=4, **options)
    item = run_code(page, path)
    found = page["samples"]
    assert len(found["pictures"]) == len(found["changes"]) == 3
    changes = []
    for draw, shown in enumerate(found["pictures"]):
        for place, (mode, tier) in enumerate([("anchor", 0), ("anchor", 1), ("anchor", 2), ("blend", None)]):
            change = RandTierIntensity(mode=mode, **given).set_random_state(seed=4 + draw)
            expected = change(item["image"], tiers=item["tiers"], tier=tier)
            np.testing.assert_allclose(picture(shown[place], tmp_path) / 255, expected, atol=0.5 / 255 + 1e-6)
            difference = np.asarray(expected - item["image"])
            assert found["means"][draw][place] == pytest.approx(abs(difference).mean(), abs=1e-4)
            changes.append(difference.mean(0))
    assert found["most"] == pytest.approx(np.percentile(np.abs(changes), 99), abs=1e-3)
    urls = [url for row in found["changes"] for url in row]
    for url, change in zip(urls, changes, strict=True):
        np.testing.assert_allclose(picture(url, tmp_path), coloured(change / found["most"]), atol=1)
    assert found["pictures"][0] != found["pictures"][1]
    assert page["strengths"] == (
        list(options.get("strengths", (0.5, 1.0, 0.7))) if "intensity" not in options else None
    )


def test_colours_are_those_of_all_pictures(tmp_path):
    page = inspected(tmp_path, write(tmp_path / "image.png"))
    known = {"tiers": TIER_COLOURS, "information": [*INFORMATION_COLOURS], "change": [*CHANGE_COLOURS]}
    assert page["colours"] == known
    template = (tmp_path / "page.html").read_text().split('id="page"')[0]
    assert not set(re.findall("#[0-9a-f]{6}", template)) & set(TIER_COLOURS.values())


def calibration(folder: Path, **made_from) -> Path:
    content = {
        "version": 2,
        "information": {
            "window": 7,
            "window_mm": None,
            "num_bins": 16,
            "value_range": [0.1, 0.8],
            "reduction": "mean",
            "noise_factor": None,
        },
        "thresholds": [0.7, 2.1],
        "intensity": {"transforms": "rich", "strengths": {"low": 0.2, "medium": 0.9, "high": 0.4}},
        "made_from": {"modality": "xray", "working_pixdim": None} | made_from,
    }
    (folder / "found.json").write_text(json.dumps(content))
    return folder / "found.json"


def test_a_calibration_says_how_it_is_measured_split_and_changed(tmp_path):
    path, file = write(tmp_path / "image.png", channels=1), calibration(tmp_path, modality="mr")
    page = inspected(tmp_path, path, calibration=file)
    item = run_code(page, path)
    expected = transforms.InformationMap(file=file)(item["image"], item["foreground"])
    np.testing.assert_array_equal(item["information"], expected)
    assert page["thresholds"] == [0.7, 2.1]
    assert page["bits"] == 4
    assert (page["intensity"], page["strengths"]) == ("rich", [0.2, 0.9, 0.4])
    change = RandTierIntensity(file=file).set_random_state(seed=0)(item["image"], tiers=item["tiers"])
    shown = picture(page["samples"]["pictures"][0][3], tmp_path)
    np.testing.assert_allclose(shown / 255, change, atol=0.5 / 255 + 1e-6)
    assert {"modality": "mr (of the calibration)", "calibration": "found.json"}.items() <= dict(page["facts"]).items()


def test_a_calibration_at_a_resolution_resamples_to_it(tmp_path):
    path, file = write(tmp_path / "image.png"), calibration(tmp_path, working_pixdim=0.8)
    with pytest.raises(ValueError, match=r"^`pixdim` must be given"):
        inspect_image(path, tmp_path / "page.html", calibration=file)
    assert dict(inspected(tmp_path, path, calibration=file, pixdim=0.5)["facts"])["resampled to"].startswith("25 x 20")
    with pytest.raises(ValueError, match=r"^`working_pixdim` must be that of the calibration, 0.8, got 1"):
        inspect_image(path, tmp_path / "page.html", calibration=file, pixdim=0.5, working_pixdim=1)


@pytest.mark.parametrize(
    ("bundle", "settings", "strengths", "shares"),
    [
        ("landmark_pretraining", {}, [0.1, 0.3, 0.3], [0.1, 0.45, 0.45]),
        ("landmark_pretraining", {"strengths": [0.2, 0.4, 0.6]}, [0.2, 0.4, 0.6], [0.1, 0.45, 0.45]),
        ("landmark_detection", {}, [0.5, 1.0, 0.7], None),
        ("segmentation", {"window": 7}, [0.5, 1.0, 0.7], None),
        ("landmark_matching_3d", {}, [0.5, 1.0, 0.7], [0.1, 0.45, 0.45]),
        ("patch_contrast_adaptation", {"modality": "ct"}, [0.5, 1.0, 0.7], None),
    ],
)
def test_a_bundle_is_shown_as_its_training_does_it(tmp_path, bundle, settings, strengths, shares):
    is_volume = bundle in ("landmark_matching_3d", "patch_contrast_adaptation")
    path = write(
        tmp_path / ("a.nii.gz" if is_volume else "a.mha"), (44, 40, 38) if is_volume else (40, 32), kind=np.int16
    )
    if settings.get("modality") == "ct":
        image = sitk.ReadImage(path)
        sitk.WriteImage(image * 4 - 1000, path)
    page = inspected(tmp_path, path, bundle=bundle, **settings)
    config = ConfigParser()
    config.read_config(find_bundle(bundle) / "configs" / "train.json")
    config.update({"modality": "mr" if is_volume else "xray"} | settings)
    if "spatial_dims" in config:
        config.update({"spatial_dims": 3 if is_volume else 2})
    config.get_parsed_content("imports")
    parts = [config.get_parsed_content(f"{name}_transforms") for name in ("preprocessing", "information")]
    steps = [each for part in parts for each in part]
    expected, item = Compose(steps)({"image": str(path)}), run_code(page, path, tuple(page["tertiles"]))
    for key in ("image", "information", "tiers"):
        np.testing.assert_array_equal(item[key], expected[key])
    assert page["strengths"] == strengths
    assert page["draw"].get("shares") == shares
    assert dict(page["facts"])["bundle"].startswith(bundle)
    assert ("intensity by tier" in dict(page["facts"])) == (bundle == "segmentation")


@pytest.mark.parametrize(
    ("overlay", "settings", "strengths"),
    [("label_efficient", {"window": 7}, [0.5, 1, 0.7]), ("segmenter", {"strengths": [0.1, 0.2, 0.3]}, [0.1, 0.2, 0.3])],
)
def test_a_method_of_a_bundle_is_shown(tmp_path, overlay, settings, strengths):
    page = inspected(tmp_path, write(tmp_path / "a.mha"), bundle="segmentation", overlay=overlay, **settings)
    assert dict(page["facts"])["bundle"].startswith(f"segmentation, {overlay}, with ")
    assert ("intensity by tier" in dict(page["facts"])) == (overlay == "segmenter")  # whose contrast always changes
    assert page["strengths"] == strengths


def test_shares_of_the_pixels_that_a_method_compares_are_shown(tmp_path):
    folder = copy_bundle("segmentation", tmp_path / "mine")
    file = folder / "configs" / "label_efficient.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shares": [0.2, 0.3, 0.5]}))
    page = inspected(tmp_path, write(tmp_path / "a.mha"), bundle=folder, overlay="label_efficient")
    assert page["draw"] == {"shares": [0.2, 0.3, 0.5]}


def test_a_folder_of_a_bundle_and_a_calibration_for_it(tmp_path):
    path, folder = write(tmp_path / "image.png"), copy_bundle("landmark_pretraining", tmp_path / "mine")
    config = json.loads((folder / "configs" / "train.json").read_text()) | {"shares": None, "gamma": 0.5}
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    file = calibration(tmp_path, working_pixdim=1.0)
    page = inspected(tmp_path, path, bundle=folder, pixdim=0.5, calibration=file)
    assert page["draw"] == {"gamma": 0.5}
    assert page["strengths"] == [0.2, 0.9, 0.4]
    assert page["thresholds"] == [0.7, 2.1]
    assert "calibration" in dict(page["facts"])["bundle"]


@pytest.mark.parametrize(("size", "window"), [((40, 32), 9), ((20, 16, 12), 5)])
def test_the_window_is_smaller_in_a_volume(tmp_path, size, window):
    path = write(tmp_path / "image.nrrd", size=size, kind=np.float32)
    page = inspected(tmp_path, path)
    assert f"window={window}" in page["code"]["python"]
    assert dict(page["facts"])["information"] == f"window {window}, bins 32"


@pytest.mark.parametrize(("foreground", "added"), [("body", 0), (40, 0), (130, 100)])
def test_black_surrounds_do_not_count(tmp_path, foreground, added):
    """A bright disc in the dark."""
    x, y = np.meshgrid(np.arange(60), np.arange(50))
    disc = (x - 30) ** 2 + (y - 25) ** 2 < 20**2
    pixels = np.random.default_rng(0).integers(0, 20, (50, 60, 3)) + added
    pixels[disc] += np.random.default_rng(1).integers(60, 120, (disc.sum(), 3))
    sitk.WriteImage(sitk.GetImageFromArray(pixels.astype(np.uint8), isVector=True), tmp_path / "eye.png")
    page = inspected(tmp_path, tmp_path / "eye.png", foreground=foreground)
    item = run_code(page, tmp_path / "eye.png")
    np.testing.assert_array_equal(item["foreground"][0].T > 0, disc)
    assert sum(page["histogram"]) == disc.sum()
    assert not page["black"]


def test_a_black_surround_is_told_of(tmp_path):
    pixels = np.zeros((40, 40), np.uint8)
    pixels[:, 20:] = np.random.default_rng(0).integers(0, 255, (40, 20))
    sitk.WriteImage(sitk.GetImageFromArray(pixels), tmp_path / "half.png")
    page = inspected(tmp_path, tmp_path / "half.png")
    assert page["black"] == pytest.approx(16 / 40, abs=1e-6)  # as far as a window reaches, there is something
    assert inspected(tmp_path, write(tmp_path / "image.png"))["black"] == 0


@pytest.mark.parametrize(("window", "ends"), [("soft", (-160, 240)), ([-100, 900], (-100, 900)), (None, (-200, 1000))])
def test_window_of_ct(tmp_path, window, ends):
    units = np.random.default_rng(0).uniform(-1000, 1500, (8, 10, 12)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(units), tmp_path / "body.nrrd")
    page = inspected(tmp_path, tmp_path / "body.nrrd", window=3, ct_window=window)
    shown = run_code(page, tmp_path / "body.nrrd")["image"][0].numpy().T
    np.testing.assert_allclose(shown, ((units - ends[0]) / (ends[1] - ends[0])).clip(0, 1), atol=1e-5)
    assert ("CT window" in dict(page["facts"])) == (window is not None)


def test_modality_is_what_a_dicom_file_says(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 900, (32, 40)).astype(np.int16)
    image = sitk.GetImageFromArray(pixels)
    image.SetMetaData("0008|0060", "MR")
    sitk.WriteImage(image, tmp_path / "slice.dcm")
    assert dict(inspected(tmp_path, tmp_path / "slice.dcm")["facts"])["modality"] == "mr (as the file says)"
    page = inspected(tmp_path, tmp_path / "slice.dcm", modality="xray")
    assert dict(page["facts"])["modality"] == "xray"


@pytest.mark.parametrize(
    ("codes", "axis", "plane", "ends"),
    [
        ("RAS", 2, "axial", "RLAP"),
        ("RAS", 0, "sagittal", "APSI"),
        ("LPS", 1, "coronal", "RLSI"),
        ("SRA", 0, "axial", "RLAP"),
    ],
)
def test_slices_say_what_is_where(codes, axis, plane, ends):
    affine = torch.zeros(4, 4, dtype=torch.float64)
    for number, code in enumerate(codes):
        affine[next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair), number] = (
            1 if code in "RAS" else -1
        )
    affine[3, 3] = 1
    said = inspection._plane(MetaTensor(torch.zeros(1, 3, 3, 3), affine=affine), axis)
    assert said == {"plane": plane, "ends": list(ends)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(700, 560), (100, 90, 90)])
def test_pages_of_noise_are_small(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 255, size[::-1]).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(noise), tmp_path / "noise.nrrd")
    page = inspected(tmp_path, tmp_path / "noise.nrrd")
    assert (tmp_path / "page.html").stat().st_size < 3e6
    assert page["maps"]["slices"][page["maps"]["start"]] == (0 if len(size) == 2 else 45)


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
    assert page["tertiles"] == pytest.approx([0, 0], abs=1e-3)


def test_large_maps_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_infoaug.commands._page_pictures.MAX_VOXELS", 500)
    monkeypatch.setattr("monai_infoaug.commands._page_pictures.MAX_SLICE", 100)
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
        (["--strengths", "1", "-1", "1"], "`strengths` must be a number of at least 0"),
        (["--foreground", "black"], "`foreground` must be body, or a grey level of the file, got 'black'"),
        (["--ct-window", "soft"], "`ct_window` must be left out for modality 'xray'"),
        (["--ct-window", "tissue"], "`ct_window` must be soft, brain, lung, bone, or Hounsfield units [low, high]"),
        (["--ct-window", "[3, 3]"], "`ct_window` must be soft"),
        (["--calibration", "none.json"], "none.json"),
        (["--calibration", "image.png"], "image.png"),
        (["--calibration", "found.json", "--window", "9"], "`window` must be left out beside `calibration`"),
        (["--calibration", "found.json", "--strengths", "1", "1", "1"], "`strengths` must be left out beside"),
        (["--calibration", "found.json", "--thresholds", "1", "2"], "`thresholds` must be left out beside"),
        (["--calibration", "found.json", "--modality", "mr"], "`modality` must be that of the calibration, xray"),
        (["--bundle", "none"], "`bundle` must be one of"),
        (
            ["--bundle", "landmark_matching_3d"],
            "`bundle` must be one for images in 2D, as this one, got one for images in 3D",
        ),
        (["--overlay", "segmenter"], "`overlay` must be given with `bundle`"),
        (
            ["--bundle", "segmentation", "--overlay", "segment"],
            "`overlay` must be one of attention_guided, consistency, label_effi",
        ),
        (["--bundle", "landmark_detection", "--overlay", "a"], "`overlay` must be none, for the bundle landmark_det"),
        (["--bundle", "landmark_pretraining"], "`pixdim` must be given, 1 for pixels"),
        (["--bundle", "landmark_pretraining", "--bins", "16"], "among those of the bundle"),
        (["--bundle", "landmark_pretraining", "--foreground", "body"], "'foreground'"),
        (["--out", "nowhere/page.html"], "`out` must be a file in a folder that exists, got nowhere/page.html"),
        (["--out", "."], "`out` must be a file"),
    ],
)
def test_errors_are_one_line(arguments, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "image.png")
    calibration(tmp_path)
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


@pytest.mark.slow
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
    assert text.count("% on average") == 4
    assert "low, strength 0.5" in text
    assert re.findall(r"<text[^>]*>([^<]*)</text>", text) == ["view 1", "view 2"]
    assert set(re.findall(r'alt="([^"]*)"', text)) >= {"unchanged", "low", "low: where it got darker and brighter"}
    assert f"--high: {TIER_COLOURS['high']}" in text


@pytest.mark.slow
def test_three_planes_in_the_browser(tmp_path):
    inspected(tmp_path, write(tmp_path / "volume.nrrd", size=(20, 16, 12), kind=np.float32), axis=2)
    text = in_browser(tmp_path / "page.html", tmp_path)
    assert "Image, axial" in text
    assert re.findall(r"(\w+), slice (\d+)</figcaption>", text) == [("sagittal", "10"), ("coronal", "8")]
    assert text.count("<canvas") == 3 + 2 * 3 + 1


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
