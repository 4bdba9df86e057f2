"""The page on an annotated data set: what it shows is where it says, and what needs a look comes first."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_infoaug.commands._review import MAX_BYTES, Reviewed, draw_reviewed, review_card, review_page
from monai_infoaug.commands._review_pictures import COLOURS, picture_of

ORGANS = {2: "liver", 7: "spleen"}


def rotated(
    spacing: tuple[float, float, float], angles=(0.3, -0.2, 0.4), order=(2, 0, 1), signs=(-1, 1, -1)
) -> np.ndarray:
    """Affine of a volume that lies askew, with its axes in another order."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (i for i in range(3) if i != axis)
        part = np.eye(3)
        part[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ part
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.eye(3)[:, list(order)]) * np.multiply(spacing, signs)
    affine[:3, 3] = (31, -17, 55)
    return affine


def grid_of(shape, affine: np.ndarray) -> np.ndarray:
    """World millimetres (D, *S) of all voxels."""
    dims = len(shape)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return np.einsum("ij,j...->i...", affine[:dims, :dims], voxels) + affine[:dims, -1].reshape(-1, *[1] * dims)


def picture(url: str, folder: Path) -> np.ndarray:
    """(C, X, Y) of a data URL."""
    kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", url).groups()
    (folder / f"picture.{kind}").write_bytes(b64decode(content, validate=True))
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(folder / f"picture.{kind}"))
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 1, 0)


def seen(image: MetaTensor, points, errors=None, **more) -> Reviewed:
    points = np.array(points, float)
    errors = np.ones(len(points)) if errors is None else np.array(errors, float)
    return Reviewed("001", "scans/001.png", image, points, errors, np.isnan(points).any(1), **more)


def names(count: int) -> list[str]:
    return [f"L{i}" for i in range(count)]


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_bright_pixel_is_at_its_dot(order, signs, tmp_path):
    affine = np.eye(3)
    affine[:2, :2] = np.eye(2)[:, list(order)] * np.multiply((0.5, 0.8), signs)
    affine[:2, 2] = (9, -4)
    points = [[5, 60], [33, 12], [49, 79]]
    values = torch.zeros(1, 50, 80)
    for x, y in points:
        values[0, x, y] = 1
    card = review_card(seen(MetaTensor(values, affine=torch.tensor(affine)), points), names(3), {})
    pixels = picture(card["picture"], tmp_path)[0].astype(float)
    assert list(pixels.shape) == card["size"]
    for point in card["points"]:
        assert point["mm"] == 0.5
        (mark,) = point["at"]
        nearest = np.argwhere(pixels > 0.8 * pixels.max())
        assert np.linalg.norm(nearest - mark, axis=1).min() < 1
        x, y = np.rint(mark).astype(int)
        pixels[max(0, x - 8) : x + 9, max(0, y - 8) : y + 9] = 0
    assert pixels.max() < 40  # nothing else is bright


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 2.5, 1.2), (4, 0.5, 0.5)])
def test_slices_show_the_places_that_they_should(spacing):
    """An image whose grey level is a linear function of the patient's millimetres, of which each pixel is known."""
    shape, affine = (40, 24, 36), rotated(spacing)
    slope = np.array([1.0, 2.7, -1.9])
    values = np.einsum("i,i...->...", slope, grid_of(shape, affine))
    points = [[21.3, 11.6, 17.2], [12, 14, 25]]
    reviewed = seen(MetaTensor(torch.tensor(values)[None].float(), affine=torch.tensor(affine)), points)
    found = picture_of(reviewed, {})
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # the axis of the volume that runs most along the patient's right, front and head, and the way to left, back, feet
    axes = [int(np.abs(directions[i]).argmax()) for i in range(3)]
    towards = [-np.sign(directions[i, a]) * directions[:, a] for i, a in enumerate(axes)]
    for point, marks, mm, view in zip(points, found.marks, found.scale, found.views, strict=True):
        world = affine[:3, :3] @ point + affine[:3, 3]
        side = int(view[3])
        for (right, down), (x, y) in zip([(0, 1), (0, 2), (1, 2)], marks, strict=True):
            i, j = np.meshgrid(
                np.arange(side) + round(x - side / 2 + 0.5), np.arange(side) + int(view[1]), indexing="ij"
            )
            there = world + mm * ((i - x)[..., None] * towards[right] + (j - y)[..., None] * towards[down])
            voxels = (there - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
            inside = ((voxels >= 0) & (voxels <= np.array(shape) - 1)).all(-1)
            got, expected = found.pixels[0].numpy()[i, j], there @ slope
            sound = inside & (got > 0.02) & (got < 0.98)
            assert sound.sum() > 300
            low, high = np.quantile(values, [0.002, 0.998])
            np.testing.assert_allclose(got[sound], (expected[sound] - low) / (high - low), atol=2e-3)


def test_a_bright_voxel_is_in_the_middle_of_its_slices(tmp_path):
    affine, points = rotated((1, 0.8, 3)), [[8, 20, 5], [25, 9, 11], [15, 30, 8]]
    values = torch.zeros(1, 32, 40, 16)
    for x, y, z in points:
        values[0, x, y, z] = 1
    card = review_card(seen(MetaTensor(values, affine=torch.tensor(affine)), points), names(3), {})
    pixels = picture(card["picture"], tmp_path)[0].astype(float)
    assert card["slices"]
    for point in card["points"]:
        assert len(point["at"]) == 3
        left, top, width, height = point["view"]
        for n, (x, y) in enumerate(point["at"]):
            assert left + n * width / 3 < x < left + (n + 1) * width / 3
            assert top < y < top + height
            i, j = round(x), round(y)
            near = pixels[i - 3 : i + 4, j - 3 : j + 4]
            assert near.max() > 200
            bright = np.argwhere(pixels[i - 12 : i + 13, j - 12 : j + 13] > 128) + np.array([i - 12, j - 12])
            np.testing.assert_allclose(bright.mean(0), (x, y), atol=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_labels_lie_where_they_are_whatever_their_grid(dims):
    spheres = {2: (np.array([40, 24, 36])[:dims] * 0.4, 6), 7: (np.array([40, 24, 36])[:dims] * 0.7, 4)}
    if dims == 3:
        affine, other = rotated((1, 1.5, 2)), rotated((0.6, 0.6, 0.6), (0.1, 0.5, -0.2), (0, 1, 2), (1, 1, 1))
    else:
        affine, other = np.diag([-1.0, 1.5, 1]), np.diag([0.6, -0.6, 1])
    shape = (40, 24, 36)[:dims]
    world = grid_of(shape, affine)
    middle = {value: affine[:dims, :dims] @ c + affine[:dims, -1] for value, (c, _) in spheres.items()}
    size = (120,) * dims
    other[:dims, -1] = world.reshape(dims, -1).mean(1) - other[:dims, :dims] @ (np.array(size) / 2)
    places = grid_of(size, other)
    labels, confidence = np.zeros(size, np.uint8), np.full(size, 0.9, np.float32)
    for value, (_, radius) in spheres.items():
        inside = np.linalg.norm(places - middle[value].reshape(-1, *[1] * dims), axis=0) < radius
        labels[inside] = value
        confidence[inside] = value / 10
    reviewed = Reviewed(
        "001",
        "1.png",
        MetaTensor(torch.rand(1, *shape), affine=torch.tensor(affine)),
        labels=MetaTensor(torch.tensor(labels)[None], affine=torch.tensor(other)),
        confidence=torch.tensor(confidence)[None],
    )
    found = picture_of(reviewed, ORGANS | {9: "kidney"})
    np.testing.assert_allclose(found.confidence[:2], [0.2, 0.7], rtol=1e-5)
    assert found.confidence[2] is None
    assert found.views[2] is None
    for i, value in enumerate(ORGANS):
        colour = torch.tensor([*bytes.fromhex(COLOURS[i])])
        mine = (found.overlay[:3] == colour[:, None, None]).all(0) & (found.overlay[3] > 0)
        hatched = (mine & (found.overlay[3] == 170)).any()
        assert hatched == (value == 2)  # whose confidence is 0.2
        radius, (left, top, width, height) = spheres[value][1], found.views[i]
        part = mine[round(left) : round(left + width), round(top) : round(top + height)]
        if dims == 3:
            tiles = [part[round(n * width / 3) : round((n + 1) * width / 3)] for n in range(3)]
            step = min(1.5 * (2 * radius), 72) / height
        else:
            tiles, step = [part], 1
        for tile in tiles:  # the discs through the middle of a sphere, each in the middle of its slice
            area = float(tile.sum()) * step**2
            assert area == pytest.approx(np.pi * radius**2, rel=0.1)
            if dims == 3:
                np.testing.assert_allclose(np.argwhere(tile.numpy()).mean(0), (height / 2,) * 2, atol=1.5 / step)


def test_masks_may_overlap():
    masks = torch.zeros(2, 30, 30, dtype=torch.uint8)
    masks[0, 5:20, 5:20] = 1
    masks[1, 10:25, 10:25] = 1
    sure = torch.stack([torch.full((30, 30), 0.8), torch.linspace(0, 1, 30).expand(30, 30)])
    image = MetaTensor(torch.rand(1, 30, 30))
    reviewed = Reviewed("001", "1.png", image, labels=MetaTensor(masks), confidence=sure)
    card = review_card(reviewed, [], {1: "lung", 2: "heart"})
    expected = float(sure[1, 10:25, 10:25].mean())
    assert [each["confidence"] for each in card["classes"]] == [0.8, pytest.approx(expected, abs=1e-3)]


def test_a_label_in_two_places_is_shown_where_it_is():
    """The middle between two equal parts is in neither of them."""
    labels = torch.zeros(1, 40, 40, 40, dtype=torch.uint8)
    labels[0, 4:10, 4:10, 4:10] = labels[0, 30:36, 30:36, 30:36] = 1
    reviewed = Reviewed("001", "1.nii", MetaTensor(torch.rand(1, 40, 40, 40)), labels=MetaTensor(labels))
    found = picture_of(reviewed, {1: "kidney"})
    side = int(found.views[0][3])
    for n in range(3):
        assert (found.overlay[3, n * (side + 2) : n * (side + 2) + side] == 255).any()


def cards_of(errors: dict[str, list[float]], sure=()) -> list[dict]:
    image = MetaTensor(torch.rand(1, 20, 16))
    cards = []
    for name, each in errors.items():
        points = np.where(np.isnan(each)[:, None], np.nan, [[3.0, 4.0], [9.0, 5.0]])
        reviewed = replace(seen(image, points, each), name=name, sure=name in sure)
        cards.append(review_card(reviewed, ["sella", "nasion"], {}))
    return cards


def page_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="page">(.*?)</script>', html, re.S)[1])


def test_what_needs_a_look_comes_first():
    errors = {"fine": [1, 2], "bad": [1, 9], "absent": [1, np.nan], "template": [50, 60], "worse": [20, 1]}
    cards = [
        *cards_of(errors, sure=["template"]),
        review_card(Reviewed("broken", "b.png", note="no image"), ["a", "b"], {}),
    ]
    page = page_of(review_page(cards, ["sella", "nasion"], {}, "Review", limit=4))
    assert [card["name"] for card in page["cards"]] == ["broken", "worse", "bad", "absent", "fine", "template"]
    assert page["limit"] == 4
    absent = page["cards"][3]
    assert absent["absent"] == [1]
    assert [point["i"] for point in absent["points"]] == [0]
    shown = [1, 2, 1, 9, 1, 20, 1]  # of a template nobody has to expect an error
    assert page_of(review_page(cards, ["a", "b"], {}, ""))["limit"] == pytest.approx(np.quantile(shown, 0.9), abs=0.05)
    assert page_of(review_page([], ["a", "b"], {}, ""))["cards"] == []


def test_least_sure_labels_come_first():
    labels = MetaTensor(torch.ones(1, 20, 16, dtype=torch.uint8))
    cards = []
    for name, sure in (("a", 0.9), ("b", 0.3), ("c", 0.6)):
        confidence = torch.full((1, 20, 16), sure)
        reviewed = Reviewed(name, name, MetaTensor(torch.rand(1, 20, 16)), labels=labels, confidence=confidence)
        cards.append(review_card(reviewed, [], {1: "lung"}))
    page = page_of(review_page(cards, [], {1: "lung"}, "Review"))
    assert [card["name"] for card in page["cards"]] == ["b", "c", "a"]
    assert page["least"] == pytest.approx(np.quantile([0.3, 0.6, 0.9], 0.1), abs=0.005)


class Checker(HTMLParser):
    """Nesting, identifiers and addresses of a page."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.addresses += [attrs[name] for name in ("href", "src") if name in attrs]
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


ODD = '</script><b a="1">\'&amp; Röntgen 胸 \udcf6'


def test_names_cannot_break_the_page():
    cards = cards_of({ODD: [1, 2], "javascript:alert(1)": [2, 3]})
    html = review_page(cards, [ODD, "nasion"], {3: ODD}, ODD, [ODD])
    assert html.encode()
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    assert all(address.startswith("data:") for address in checker.addresses)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|import\(|src=|https?:(?!//www.w3.org/2000/svg)", html)
    assert set(re.findall(r'\$\("([\w-]+)"\)', html)) <= set(checker.ids)
    assert "<b a=" not in html
    page = page_of(html)
    assert page["title"] == page["notes"][0] == page["labels"][0] == page["classes"][0] == ODD
    assert page["cards"][0]["files"] == ["./javascript%3Aalert%281%29.mrk.json"]
    assert page["cards"][1]["name"] == ODD


@pytest.mark.parametrize("shape", [(1, 900, 1100), (3, 700, 640), (1, 60, 70, 50)])
def test_a_card_is_small_whatever_is_in_it(shape, tmp_path):
    """Noise, which no format makes small, and labels of a pixel each."""
    generator = np.random.default_rng(0)
    image = MetaTensor(torch.tensor(generator.random(shape, np.float32)))
    points = generator.random((40, len(shape) - 1)) * np.array(shape[1:])
    labels = MetaTensor(torch.tensor(generator.integers(0, 4, (1, *shape[1:])), dtype=torch.uint8))
    classes = {1: "a", 2: "b", 3: "c"}
    card = review_card(seen(image, points, labels=labels, confidence=torch.rand(1, *shape[1:])), names(40), classes)
    assert len(card["picture"]) <= MAX_BYTES
    assert len(card["overlay"]) <= MAX_BYTES
    assert len(json.dumps(card)) < 2 * MAX_BYTES + 15_000
    width, height = card["size"]
    drawn = picture(card["picture"], tmp_path)
    assert len(drawn) == (3 if shape[0] == 3 else 1)
    assert drawn.shape[1] / drawn.shape[2] == pytest.approx(width / height, rel=0.02)


def test_cards_are_the_same_from_json():
    cards = cards_of({"a": [1, np.nan], "b": [3, 2]})
    assert json.loads(json.dumps(cards)) == cards


@pytest.mark.parametrize("shape", [(1, 30, 20), (3, 30, 20), (1, 12, 13, 14)])
def test_nothing_to_mark_is_a_picture_too(shape):
    image = MetaTensor(torch.zeros(shape))  # constant, in addition
    nowhere = np.full((2, len(shape) - 1), np.nan)
    card = review_card(seen(image, nowhere), ["a", "b"], {})
    assert card["points"] == []
    assert card["absent"] == [0, 1]
    assert card["picture"].startswith("data:image/jpeg")
    assert review_card(Reviewed("a", "a", image), [], {})["absent"] == []


def test_a_picture_is_drawn_beside_each_image(tmp_path):
    pytest.importorskip("matplotlib")
    values = torch.zeros(1, 60, 40)
    values[0, 22, 30] = 1
    labels = MetaTensor(torch.zeros(1, 60, 40, dtype=torch.uint8))
    labels[0, 40:50, 5:15] = 7
    points = [[22, 30], [10, 10], [np.nan, np.nan]]
    sure = torch.full((1, 60, 40), 0.66)
    image = MetaTensor(values, affine=torch.diag(torch.tensor([-1.0, -1, 1])))
    reviewed = seen(image, points, [1, 9, np.nan], labels=labels, confidence=sure)
    figure = draw_reviewed(reviewed, ["$a_1$", "b", "c"], ORGANS)
    (axes,) = figure.axes
    shown, overlay = (image.get_array() for image in axes.images)
    assert np.unravel_index(shown.argmax(), shown.shape) == (30, 22)
    assert overlay.shape == (40, 60, 4)
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        "$a_1$: 1.0": "lime",
        "b: 9.0": "yellow",
        "spleen 0.66": "#" + COLOURS[1],
    }
    title = figure._suptitle.get_text()
    assert title == "001; expected errors in mm, yellow above 4; absent: c"
    figure.savefig(tmp_path / "a.png")


def test_a_volume_is_drawn_through_each_landmark(tmp_path):
    pytest.importorskip("matplotlib")
    values = torch.zeros(1, 32, 40, 16)
    points = [[8, 20, 5], [25, 9, 11]]
    for x, y, z in points:
        values[0, x, y, z] = 1
    reviewed = seen(MetaTensor(values, affine=torch.tensor(rotated((1, 1, 2)))), points, sure=True)
    figure = draw_reviewed(reviewed, names(2), {})
    (axes,) = figure.axes
    marks = np.concatenate([line.get_xydata() for line in axes.lines])
    shown = axes.images[0].get_array()
    assert len(marks) == 6
    for x, y in np.rint(marks).astype(int):
        assert shown[y, x] > 0.9
    title = "001; annotated by hand; axial, coronal, sagittal, the patient's right or the front on the left"
    assert figure._suptitle.get_text() == f"{title}; expected errors in mm"
    assert [text.get_text() for text in axes.texts] == ["L0: 1.0", "L1: 1.0"]
    figure.savefig(tmp_path / "a.png")


def in_browser(html: str, folder: Path, fragment: str = "") -> str:
    """The page's elements after its script has run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    (folder / "page.html").write_text(html, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [
        "--virtual-time-budget=10000",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
    ]
    command = [browser, *options, f"{(folder / 'page.html').as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False).stdout


def test_in_the_browser(tmp_path):
    errors = {"fine": [1, 2], "bad": [1, 9], "template": [50, 60], "<i>worse": [20, np.nan]}
    html = review_page(cards_of(errors, sure=["template"]), ["sella", "nasion"], {}, "Review")
    text = in_browser(html, tmp_path, "#limit=5&sort=name&show=look")
    order = re.findall(r'<h2 id="name-\d">(.*?)</h2>', text)
    assert order == ["&lt;i&gt;worse", "bad", "fine", "template"]
    cards = re.findall(r"<article (.*?)>(.*?)</article>", text, re.S)
    assert ["hidden" in attributes for attributes, _ in cards] == [False, False, True, True]
    assert "<b>4</b> images" in text
    assert "<b>2</b> need a look" in text
    assert "Absent: nasion" in cards[0][1]
    assert re.findall(r'class="number">(.*?)<', cards[1][1]) == ["9.0 mm", "1.0 mm"]
    assert cards[1][1].count('class="mark"') == 2
    assert cards[1][1].count('class="ring"') == 1
