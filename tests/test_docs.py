"""What README.md and the pages of docs/ tell a user to type: Python blocks run, commands have the options they show."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import monai.transforms
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from monai_infoaug.commands._arguments import make_parser
from monai_infoaug.data import LandmarkTable, write_landmarks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[!_]*/*.md")), *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"GPU pipelines": (), "Your own network": ("ignite",)}  # title of a page to optional packages


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands(page: Path) -> list[list[str]]:
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(part) for line in lines for part in line.split("&&")]


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


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks_run_in_order(page, folder):
    if "monai_infoaug.engines" in page.read_text(encoding="utf-8"):
        pytest.importorskip("ignite", reason="trainers need ignite")
    if "images" in page.read_text(encoding="utf-8"):
        pytest.importorskip("PIL", reason="MONAI's default reader of PNG is Pillow")
    if "GenerateHeatmapd" in page.read_text(encoding="utf-8") and not hasattr(monai.transforms, "GenerateHeatmapd"):
        pytest.skip("MONAI draws heat maps from 1.6 on")
    program = "\n".join(blocks(page, "python"))
    exec(compile(program, page.name, "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_have_the_options_they_show(page):
    for command in commands(page):
        if command[0] == "monai-infoaug" and "--help" not in command:
            make_parser().parse_args(command[1:])
        elif command[:4] == ["python", "-m", "monai.bundle", "run"]:
            files = re.findall(r"configs/\w+\.json", " ".join(command))
            bundle = ROOT / "examples/landmark_pretraining"
            settings = {name for file in files for name in json.loads((bundle / file).read_text())}
            options = {word.removeprefix("--") for word in command if word.startswith("--")}
            assert options - {"config_file"} <= settings


def test_every_page_is_in_a_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{name}$", index, re.M), name
