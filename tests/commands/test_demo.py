"""The demonstration: its truth is true, its rival is fair, and it runs."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from monai.transforms import Identity

pytest.importorskip("nilearn", reason="the brain of the demo comes with nilearn")
pytest.importorskip("ignite", reason="the demo trains with ignite")

from monai_infoaug._grid import sample_at
from monai_infoaug.commands import demo
from monai_infoaug.inferers import match_points


@pytest.fixture(scope="module")
def pairs():
    return demo.perturbed_pairs((60, 92), seed=7)


def test_slices_are_a_brain_and_training_never_sees_the_test_slices():
    items = demo.load_slices((44, 92))
    for item in items:
        assert item["image"].shape == item["brain"].shape == (1, 192, 160)
        assert item["image"].min() == 0
        assert 0.5 < item["image"].max() <= 1
        assert 0.2 < item["brain"].float().mean() < 0.8
        assert not item["brain"][:, [0, -1]].any()
        assert not item["brain"][:, :, -1].any()
    assert not torch.equal(items[0]["image"], items[1]["image"])
    assert min(abs(train - test) for train in demo.TRAIN_SLICES for test in demo.TEST_SLICES) >= 3
    assert max(demo.TRAIN_SLICES) <= 98  # the mirror plane


def test_pairs_do_not_depend_on_training_or_global_seeds(pairs):
    torch.manual_seed(99)
    np.random.seed(99)
    demo.training_pairs((50,), seed=3)[0]
    again, other = demo.perturbed_pairs((60, 92), seed=7), demo.perturbed_pairs((60, 92), seed=8)
    assert len(pairs) == len(again) == 2 * demo.CHANGES
    for name in ("image_view1", "image_view2", "points_view1", "points_view2"):
        assert all(torch.equal(a[name], b[name]) for a, b in zip(pairs, again, strict=True))
    copies = [pair["image_view2"] for pair in (*pairs, *other)]
    assert all(not torch.equal(a, b) for i, a in enumerate(copies) for b in copies[:i])


def test_points_are_of_the_brain_and_of_medium_and_high_information(pairs):
    for pair in pairs:
        points = pair["points_view1"][0].long()
        assert pair["points_valid"].all()
        assert len(points.unique(dim=0)) == demo.POINTS
        assert pair["brain"][0, 0, points[:, 0], points[:, 1]].all()
        assert set(pair["tiers"][0, 0, points[:, 0], points[:, 1]].tolist()) == {1, 2}
        torch.testing.assert_close(pair["image_view1"], pair["image"])  # the template is the slice itself


def test_truth_follows_the_deformation(monkeypatch):
    """Each voxel of a copy of a coordinate ramp says where it came from: search all of them for the points."""
    size = (192, 160)
    ramps = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).float()
    (item,) = demo.load_slices((60,))
    monkeypatch.setattr(demo, "load_slices", lambda indices: [item | {"image": ramps}])
    for name in ("RandAdjustContrast", "RandBiasField", "RandGaussianNoise"):
        monkeypatch.setattr(demo, name, lambda **kwargs: Identity())
    for pair in demo.perturbed_pairs((60,), seed=7):
        source, starts, ends = pair["image_view2"][0], pair["points_view1"][0], pair["points_view2"][0]
        for start, end in zip(starts, ends, strict=True):
            nearest = (source - start[:, None, None]).square().sum(0).argmin()
            assert (torch.tensor(np.unravel_index(int(nearest), size)) - end).abs().max() < 1
        torch.testing.assert_close(sample_at(source[None], ends.T[None])[0].T, starts, atol=0.05, rtol=0)
        assert 3 < (ends - starts).norm(dim=-1).max() < 80


def ncc_brute(template, point, query, size):
    """Correlation of the patch with each patch of the query, patch by patch."""
    half, scores = size // 2, np.zeros(query.shape)
    template, padded = np.pad(template, half), np.pad(query, half)
    a = template[point[0] : point[0] + size, point[1] : point[1] + size].ravel()
    for i, j in np.ndindex(query.shape):
        scores[i, j] = np.corrcoef(a, padded[i : i + size, j : j + size].ravel())[0, 1]
    return scores


@pytest.mark.parametrize("size", [3, 7])
def test_patch_embedding_is_normalised_cross_correlation(size):
    generator = torch.Generator().manual_seed(0)
    template, query = torch.rand(2, 1, 1, 14, 11, generator=generator)
    query[..., 3:, 2:] += 3 * template[..., :-3, :-2] + 5  # shifted by (3, 2), brighter, noisy
    network = demo.PatchEmbedding(size)
    (a,), (b,) = network(template), network(query)
    for point in [(0, 0), (5, 4), (8, 7)]:
        scores = torch.einsum("f,fhw->hw", a[0, :, point[0], point[1]], b[0])
        expected = ncc_brute(template[0, 0].numpy(), point, query[0, 0].numpy(), size)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        found, score = match_points([a], torch.tensor([[point]]).float(), [b], (1,), (14, 11))
        best = np.unravel_index(expected.argmax(), expected.shape)
        assert (found[0, 0] - torch.tensor(best)).abs().max() <= 0.5
        assert float(score) == pytest.approx(expected.max(), abs=1e-4)


def test_cross_correlation_of_a_flat_patch_is_zero_not_nan():
    (level,) = demo.PatchEmbedding(3)(torch.zeros(1, 1, 6, 6))
    assert (level == 0).all()


def test_match_finds_everything_in_an_unchanged_image(pairs):
    same = [pair | {"image_view2": pair["image_view1"]} for pair in pairs[:2]]
    found = demo.match(demo.PatchEmbedding(9), same)
    truth = torch.cat([pair["points_view1"] for pair in same])
    assert found.shape == (2, demo.POINTS, 2)
    assert (found - truth).norm(dim=-1).max() < 0.71


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {"TEST_SLICES": (60,), "TRAIN_SLICES": (50, 51), "CHANGES": 1, "PATCHES": (3, 5, 7)}.items():
        monkeypatch.setattr(demo, name, value)


@pytest.mark.slow
def test_the_whole_demo_in_small(tiny, tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "folder"
    errors = demo.run_demo(out, seed=1, epochs=1)
    names = ["untrained network", *(f"cross-correlation, {s} x {s}" for s in (3, 5, 7)), "trained network"]
    assert list(errors) == names
    assert all(len(e) == demo.POINTS for e in errors.values())
    assert not torch.equal(errors["untrained network"], errors["trained network"])
    with open(out / "demo.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == names
    for row in rows:
        error = errors[row["method"]].numpy()
        assert float(row["mean_mm"]) == pytest.approx(error.mean(), abs=1e-3)
        assert float(row["within_2mm_percent"]) == pytest.approx(100 * (error < 2).mean(), abs=1e-3)
        assert float(row["median_mm"]) == pytest.approx(np.median(error), abs=1e-3)
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert all(name in captured.out for name in (*names, "seed 1", str(demo.CHANGE_SEED), "demo.csv", "demo.png"))
    assert "pre-training: epoch 1/1, loss" in captured.out
    assert "Warning" not in captured.err

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    again = demo.run_demo(out, seed=1, epochs=1)  # same seed, same numbers; a terminal gets a bar
    assert all(torch.equal(errors[name], again[name]) for name in names)
    assert "pre-training: " in capsys.readouterr().err


def test_missing_brain_is_named(monkeypatch):
    def gone(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(demo, "files", gone)
    with pytest.raises(ImportError, match=r"pip install monai_infoaug\[demo\]"):
        demo.load_slices((50,))


def test_another_nilearn_is_named(monkeypatch):
    monkeypatch.setattr(demo, "BRAIN", "datasets/data/moon.nii.gz")
    with pytest.raises(ValueError, match=r"nilearn.*moon\.nii\.gz"):
        demo.load_slices((50,))


@pytest.mark.parametrize("given", [{"seed": 0.5}, {"epochs": "3"}])
def test_settings_of_a_wrong_type_are_named(given, tmp_path):
    with pytest.raises(ValueError, match=f"^`{next(iter(given))}` must be at least"):
        demo.run_demo(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_files_of_others_stop_it_before_it_trains(tmp_path):
    (tmp_path / "demo.png").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be new, or a file as .* got '.*demo.png'"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "demo.png").read_text() == "mine"
