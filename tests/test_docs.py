"""What README.md and the pages tell a user: Python blocks run, commands have the options they show, links lead on."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import monai.transforms
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import monai_infoaug
from monai_infoaug.__main__ import main
from monai_infoaug.commands._arguments import make_parser
from monai_infoaug.data import LandmarkTable, write_landmarks
from monai_infoaug.transforms import InformationTiersd
from tests.data.files import dicom, place

ROOT = Path(__file__).parents[1]
PACKAGE = Path(monai_infoaug.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[!_]*/*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BUNDLES = sorted((ROOT / "examples").glob("*/docs/README.md"))
MORE = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("[!_]*/*/*.md")), *BUNDLES]
NAMED = {"ids": lambda page: page.relative_to(ROOT).as_posix()}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def whole_lines(page: Path) -> list[str]:
    text = "".join(re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M))
    return text.replace("\\\n", " ").splitlines()


def commands(page: Path) -> list[list[str]]:
    """All lines of all blocks, of whatever language, that begin like a command, cut at each ``&&``."""
    lines = [line for line in whole_lines(page) if re.match(r"(pip|python|monai-infoaug) ", line)]
    return [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of a reader: three images with labels, two volumes with a table of landmarks."""
    generator = np.random.RandomState(0)
    for name in ("images", "labels", "volumes"):
        (tmp_path / name).mkdir()
    for name in ("001", "002", "003"):
        picture = generator.randint(0, 255, (80, 72)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(picture), tmp_path / "images" / f"{name}.png")
        sitk.WriteImage(sitk.GetImageFromArray((picture > 127).astype(np.uint8)), tmp_path / "labels" / f"{name}.png")
    for name in ("001", "002"):
        volume = nibabel.Nifti1Image(generator.rand(56, 60, 52).astype(np.float32), np.diag([2.0, 2, 2, 1]))
        nibabel.save(volume, tmp_path / "volumes" / f"{name}.nii.gz")
    points = {name: generator.rand(2, 3) * 60 for name in ("001", "002")}
    write_landmarks(tmp_path / "landmarks.csv", LandmarkTable(("a", "b"), points))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], **NAMED)
def test_python_blocks_run_in_order(page, folder):
    if "monai_infoaug.engines" in page.read_text(encoding="utf-8"):
        pytest.importorskip("ignite", reason="trainers need ignite")
    if "images" in page.read_text(encoding="utf-8"):
        pytest.importorskip("PIL", reason="MONAI's default reader of PNG is Pillow")
    if "GenerateHeatmapd" in page.read_text(encoding="utf-8") and not hasattr(monai.transforms, "GenerateHeatmapd"):
        pytest.skip("MONAI draws heat maps from 1.6 on")
    program = "\n".join(blocks(page, "python"))
    exec(compile(program, page.name, "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", [page for page in PAGES + MORE if commands(page)], **NAMED)
def test_commands_have_the_options_they_show(page, capsys):
    for command in commands(page):
        if "monai-infoaug" in command and "--help" not in command:
            make_parser().parse_args(command[command.index("monai-infoaug") + 1 :])
        elif command[:4] == ["python", "-m", "monai.bundle", "run"] and page not in BUNDLES:  # see test_conformance.py
            files = re.findall(r"configs/\w+\.json", " ".join(command))
            options = {word.removeprefix("--") for word in command if word.startswith("--")} - {"config_file"}
            assert any(options <= settings_of(bundle, files) for bundle in (ROOT / "examples").glob("*/"))
        elif command[1:2] == ["-m"] and command[2].startswith("benchmarks."):
            pytest.importorskip("ignite", reason="benchmarks train")
            with pytest.raises(SystemExit):
                importlib.import_module(command[2]).main(["--help"])
            assert {word for word in command if word.startswith("--")} <= set(capsys.readouterr().out.split())


@pytest.fixture
def more(folder):
    """What the short commands of the pages are given, too."""
    generator = np.random.RandomState(1)
    shutil.copy("images/001.png", "image.png")
    sitk.WriteImage(sitk.GetImageFromArray(generator.randint(0, 255, (40, 36, 3)).astype(np.uint8), True), "fundus.jpg")
    volume = nibabel.Nifti1Image(generator.rand(16, 12, 92).astype(np.float32), np.eye(4))
    nibabel.save(volume, "volume.nii.gz")
    for k in range(9):
        body = np.pad(generator.randint(0, 80, (20, 24)), 4, constant_values=-1000).astype(np.int16)
        dicom(Path("ct_series", f"{k}.dcm"), body, place((0, 0, k)))
        dicom(Path("xrays", f"{k:03}.dcm"), body, {0x00080060: ("CS", "DX"), 0x0020000E: ("UI", f"1.2.3.{k}")})
    write_landmarks(Path("005.mrk.json"), LandmarkTable(("sella",), {"005": np.array([[9.0, 9.0]])}, space="LPS"))
    measure = {"window": 9, "window_mm": None, "num_bins": 32, "value_range": None, "reduction": "mean"}
    changes = {"transforms": "rich", "strengths": {"low": 0.1, "medium": 0.3, "high": 0.3}}
    calibration = {"version": 2, "information": {**measure, "noise_factor": None}, "thresholds": [2, 4]}
    calibration |= {"intensity": changes, "made_from": {"modality": "xray", "working_pixdim": None}}
    Path("calibration.json").write_text(json.dumps(calibration))


def short_commands(page: Path) -> list[list[str]]:
    """Commands that take no training and no checkpoint, and the way to where they are typed."""
    found = [line for line in whole_lines(page) if re.match(r"cd \S|monai-infoaug (init|check|inspect)\b", line)]
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "cli.md" and any(len(c) > 2 for c in short_commands(page))], **NAMED
)
def test_commands_without_a_training_run(page, more, monkeypatch):
    if page.name == "inspect.md":
        main(["init", "landmark_pretraining", "my_bundle"])
    for command in short_commands(page):
        if command[0] == "cd":
            monkeypatch.chdir(command[1])
        else:
            assert main(command[1:]) in ((0, 1) if command[1] == "check" else (0,)), command


def settings_of(bundle: Path, files: Sequence[str]) -> set[str]:
    found = [json.loads((bundle / file).read_text(encoding="utf-8")) for file in files if (bundle / file).is_file()]
    return {name for each in found for name in each} if len(found) == len(files) else set()


@pytest.mark.parametrize("page", PAGES + MORE, **NAMED)
def test_commands_within_a_sentence_are_there(page):
    (choices,) = (action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for words in (quoted.split() for quoted in re.findall(r"`monai-infoaug ([^`]+)`", text)):
        if words[0].islower():
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= {option for action in choices[words[0]]._actions for option in action.option_strings}


def test_every_page_is_in_a_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{name}$", index, re.M), name


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and Sphinx make them; those of what it includes, too."""
    text = page.read_text(encoding="utf-8")
    for included in re.findall(r"^```\{include\} (\S+)", text, re.M):
        text += (page.parent / included).read_text(encoding="utf-8")
    headings = re.findall(r"^#{1,6} (.*)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def is_there(page: Path, link: str) -> bool:
    """Whether a link leads to a file, or to a page that Sphinx makes, and its anchor to a heading."""
    name, _, anchor = link.partition("#")
    if thing := re.search(r"monai_infoaug\.(\w+)\.(\w+)(\.rst)?$", link):  # of the reference, which Sphinx makes
        room = PACKAGE / thing[1] / "__init__.py"
        return room.is_file() and f'"{thing[2]}"' in room.read_text(encoding="utf-8")
    place = page if not name else page.parent / name
    made = {"index.rst": "GALLERY_HEADER.rst"}.get(place.name, place.with_suffix(".py").name)
    if place.name == "cli.md" or (
        place.parent.name == "tutorials_built" and (ROOT / "docs/tutorials" / made).is_file()
    ):
        return True
    return place.exists() and (not anchor or anchor in anchors(place))


def links(page: Path) -> list[str]:
    """Relative links, and pictures, outside of code."""
    text = re.sub(r"^```.*?^```|`[^`]+`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = re.findall(r"\]\(<?([^)\s>]+)>?\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [link for link in found if not re.match(r"\w+:", link)]


@pytest.mark.parametrize("page", PAGES + MORE, **NAMED)
def test_links_lead_on(page):
    assert [link for link in links(page) if not is_there(page, link)] == []


def test_links_of_included_pages_lead_on_where_they_are_shown():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for included, options in re.findall(r"^```\{include\} (\S+)\n(.*?)^```", text, re.S | re.M):
            moved = re.search(r":relative-docs: (\S+)", options)
            shown = [link.removeprefix(moved[1]) if moved else link for link in links(page.parent / included)]
            assert [link for link in shown if not is_there(page, link)] == [], page


def test_a_wrong_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "# A b, c\n[x](#a-b-c) [y](b.md) [z](#a) `[no](link.md)` [w](https://a.b) ![v](c.png)"
    )
    page = tmp_path / "a.md"
    assert [link for link in links(page) if not is_there(page, link)] == ["b.md", "#a", "c.png"]


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("sphinx_gallery", reason="the site needs the extra docs")
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


def test_lines_of_commands_break_before_an_option(site):
    context = {"body": '<p>a -b</p><pre>run --max-epochs 3 -n x-y</pre><code><span class="pre">a_b.c_0.5</span></code>'}
    site["break_at_options"](None, "", "", context, None)
    whole = '<span class="whole">{}</span>'.format
    assert context["body"] == (
        f"<p>a -b</p><pre>run {whole('--max-epochs')} 3 {whole('-n')} x-y</pre>"
        '<code><span class="pre">a_<wbr>b.<wbr>c_0.5</span></code>'
    )


def test_a_split_command_is_one_line(site):
    nodes = pytest.importorskip("docutils.nodes")
    page = nodes.section()
    page += [nodes.literal_block(text="run \\\n    --out DIR", language=name) for name in ("bash", "python")]
    site["join_lines"](None, page)
    assert [block.astext() for block in page] == ["run --out DIR", "run \\\n    --out DIR"]


def test_signatures_of_dictionary_transforms_are_those_of_their_arguments(site):
    of = partial(site["true_signature"], None, "class", "", options=None, returns="")
    found, _ = of(thing=InformationTiersd, signature="(*args, **kwargs)")
    assert found.startswith("(keys: ")
    assert "= 'information', tiers_key: " in found
    assert of(thing=LandmarkTable, signature="(labels)") == ("(labels)", "")
