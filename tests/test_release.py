"""What names the version of the package says the same, so that a release is one change and not a search."""

from __future__ import annotations

import json
import re
from pathlib import Path
from pydoc import locate

import pytest
import torch

import monai_infoaug
from monai_infoaug.bundles import bundle_overlays, describe_bundles, find_bundle, read_config

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "CHANGELOG.md").exists(), reason="not in a checkout")


def test_the_newest_section_of_the_changelog_and_the_citation_are_of_this_version():
    sections = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert sections[0] == ("Unreleased", "")
    assert sections[1][0] == monai_infoaug.__version__
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in sections[1:])
    assert sections[1:] == sorted(sections[1:], key=lambda section: section[1], reverse=True)
    citation = dict(re.findall(r'^(version|date-released): "?([\w.-]+)"?$', (ROOT / "CITATION.cff").read_text(), re.M))
    assert citation == {"version": sections[1][0], "date-released": sections[1][1]}


def test_bundles_are_not_of_a_later_version():
    for file in sorted((ROOT / "examples").glob("*/configs/metadata.json")):
        meta = json.loads(file.read_text(encoding="utf-8"))
        number, own = (tuple(map(int, each.split("."))) for each in (meta["version"], monai_infoaug.__version__))
        assert number <= own, file
        assert next(iter(meta["changelog"])) == meta["version"], file


def rows(title: str) -> list[list[str]]:
    """The cells of a table on the page of migration."""
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", page, re.M | re.S)[1]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]


def test_old_settings_are_gone_and_new_ones_are_there():
    found = rows("Settings of bundles")
    assert len(found) > 5
    for old, new, where in found:
        for folder in map(find_bundle, re.findall(r"`(\w+)`", where)):
            files = [folder / "configs" / f"{name}.json" for name in ("train", *bundle_overlays(folder))]
            known = {key for file in files for key in json.loads(file.read_text(encoding="utf-8"))}
            assert new.strip("`") in known
            assert old.strip("`") not in known
    for old, new in rows("Bundles"):
        assert old.strip("`") not in describe_bundles()
        assert re.findall(r"configs/(\w+)\.json", new)[-1] in bundle_overlays(find_bundle("segmentation"))


def test_new_names_are_there():
    pytest.importorskip("ignite", reason="engines, handlers and commands need the extra train")
    names = [
        name for row in rows("Classes, functions, arguments") for name in re.findall(r"`([a-z_]+\.[\w.]+)", row[1])
    ]
    assert len(names) > 8
    assert [name for name in names if locate(f"monai_infoaug.{name}") is None] == []


@pytest.mark.parametrize(
    ("bundle", "settings", "overlay", "kept"),
    [
        ("landmark_pretraining", {"neighbourhood": 12}, None, {"patch_radius": 12}),
        ("label_efficient_segmentation", {"classes": ["a"]}, "label_efficient", {"classes": ["a"]}),
    ],
)
def test_checkpoints_of_0_1_0_are_renewed(tmp_path, bundle, settings, overlay, kept):
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    scope: dict = {}
    exec(re.search(r"^```python\n(.*?)^```", page, re.M | re.S)[1], scope)
    old, new = str(tmp_path / "old.pt"), str(tmp_path / "new.pt")
    torch.save({"network": {}, "optimizer": {}, "settings": {"bundle": bundle, **settings}}, old)
    with pytest.raises(ValueError, match="must be"):
        read_config(old)
    scope["renew"](old, new)
    config = read_config(new)
    assert {name: config[name] for name in kept} == kept
    assert config["settings"].get("overlay") == overlay
