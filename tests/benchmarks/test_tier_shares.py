"""Shares of tiers and points on real data, and on images of which most tells nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import tier_shares
from benchmarks.tier_shares import PIPELINES, SHARES, SOURCES, Source, images, main, measured, share_of_each, spread
from tests.examples.bundle_runs import DATA

R = np.random.RandomState(0)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", SOURCES)
def test_shares_hold_on_real_data(name, pipeline):
    source, worst = SOURCES[name], 0.0
    if not source.files(DATA):
        pytest.skip("the data set is not at hand")
    for image in images(source, DATA, 1 if name.startswith("afids T") else 2):
        part = image[:, :80, 60:140, 40:120] if name.startswith("afids T") else image  # air and a part of the brain
        found = measured(part, pipeline, source)
        worst = max(worst, np.abs(np.subtract(found["points"], SHARES)).max())
        assert found["tiers_of_nothing"] in ([0], [])
        assert found["tiers"][0] > 0.3
        assert min(found["tiers"]) > 0.05
        assert found["points_on_nothing"] < 0.1
    assert worst < 0.02


def ball(shape):
    """Texture in a ball, nothing around it."""
    axes = np.meshgrid(*(np.linspace(-1.4, 1.4, n) for n in shape), indexing="ij")
    texture = np.kron(R.uniform(80, 200, [n // 4 for n in shape]), np.ones([4] * len(shape)))
    return np.where(sum(axis**2 for axis in axes) < 1, texture + R.uniform(0, 40, shape), 0)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shape", [(120, 160), (40, 44, 48)])
@pytest.mark.parametrize("modality", ["mr", "rgb"])
def test_what_is_around_a_stripped_brain_or_a_fundus_is_low(shape, pipeline, modality):
    channels = 3 if modality == "rgb" else 1
    image = torch.tensor(ball(shape)[None].repeat(channels, 0), dtype=torch.float32)
    found = measured(image, pipeline, Source("", modality, window=5))
    assert found["tiers_of_nothing"] == [0]
    np.testing.assert_allclose(found["points"], SHARES, atol=0.02)
    telling = 1 - found["nothing"]
    np.testing.assert_allclose(found["tiers"], [1 - 2 * telling / 3, telling / 3, telling / 3], atol=0.03)
    assert found["points_on_nothing"] < 0.1


@pytest.mark.parametrize("shape", [(30, 40), (20, 16, 18)])
def test_a_constant_image_is_low_and_points_come_from_it(shape):
    for pipeline in PIPELINES:
        found = measured(torch.full((1, *shape), 7.0), pipeline, Source("", "mr", window=5))
        assert (found["nothing"], found["tiers"], found["points"]) == (1, [1, 0, 0], [1, 0, 0])


def test_an_image_of_two_levels_has_all_tiers():
    image = torch.zeros(1, 240, 240)
    image[:, 60:180, 60:180] = 1
    found = measured(image, "README", Source("", "mr", window=5))
    assert min(found["tiers"]) > 0
    np.testing.assert_allclose(found["points"], SHARES, atol=0.02)


def test_items_are_spread_evenly():
    assert spread(range(5), 3) == [0, 2, 4]
    assert spread(range(2), 9) == [0, 1]
    assert spread([], 3) == []
    assert share_of_each(torch.tensor([0, 0, 2, 1])) == [0.5, 0.25, 0.25]


def test_a_table(tmp_path, capsys, monkeypatch):
    from PIL import Image

    for number in range(3):
        Image.fromarray(ball((80, 100)).astype(np.uint8)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(tier_shares, "SOURCES", {"balls": Source("*.png", "xray"), "missing": Source("no/*", "xray")})
    main(["--data", str(tmp_path), "--images", "2"])
    *rows, _, _, first, second = capsys.readouterr().out.splitlines()
    rows = [json.loads(row) for row in rows if row]
    assert [(row["data"], row["pipeline"], row["images"]) for row in rows] == [("balls", name, 2) for name in PIPELINES]
    assert rows[0]["worst"] < 0.02
    assert first.startswith("| balls | README | 2 |")
    assert second.startswith("| balls | modality | 2 |")


def test_bad_arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(tier_shares, "SOURCES", {"ceph": SOURCES["ceph"]})
    with pytest.raises(ValueError, match="`images` must be at least 1, got 0"):
        main(["--images", "0"])
    with pytest.raises(ValueError, match="`data` must be a folder with one of ceph"):
        main(["--data", str(tmp_path)])
