"""The benchmark of augmentation policies on small pictures: what it may read, what it keeps, and its own parts."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("PIL", reason="the pictures are made with Pillow")
from benchmarks import landmark_matching
from benchmarks._landmarks import summary
from benchmarks._mixing import HardNegativeMixingLoss, MixedCollate, MixedInferer
from benchmarks._runs import paired_interval
from benchmarks.landmark_matching import BorrowedInformationd, main
from monai_infoaug.losses import PixelInfoNCELoss
from monai_infoaug.transforms import InformationMapd, InformationTiersd, ModalityPresetd

SMALL = {
    "view_size": [64, 64],
    "features": [8] * 5,
    "batch_size": 2,
    "num_points": 50,
    "max_epochs": 1,
    "num_workers": 0,
}
POLICIES = [
    "none",
    "strong",
    "uniform_0.5",
    "entropy_sampling",
    "shuffled_sampling",
    "tier_intensity",
    "full_anchor",
    "shuffled",
    "calibrated",
    "mochi",
    "unmix",
    "daisy",
    "registration",
    "full",
]


def run(data, *more, out="out"):
    small = [f"{name}={json.dumps(value)}" for name, value in SMALL.items()]
    spacing = ["--pixdim", "0.5", "--origin", "0", "--working-pixdim", "0.5"]
    main(["--data", str(data), "--template", "1", "--out", str(data.parent / out), *spacing, *more, "--set", *small])


def printed_tables(capsys):
    printed = capsys.readouterr().out
    return json.loads(printed.splitlines()[-1]) | {
        "text": printed[printed.index("by neigh") : printed.index(" seeds x")]
    }


def found(data, name, out="out", tested="test1", seed=0):
    return json.loads((data.parent / out / "small" / tested / name / str(seed) / "result.json").read_text())


def test_every_policy_runs_and_the_table_is_printed(data, capsys):
    for seed in (2, 3, 4):
        (data / "train" / f"{seed}.png").unlink()  # two are enough
    run(data, "--policies", ",".join(POLICIES), "--seeds", "1")
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert [row["row"] for row in last["tables"]["found"]] == POLICIES
    assert all(0 < row["mre"] < 40 and len(row["sdr"]) == 4 for row in last["tables"]["alone"])
    assert set(last["differences"]["found"]) == set(POLICIES[:-1])
    outcomes = {name: json.dumps(found(data, name)["alone"]) for name in POLICIES}
    assert len(set(outcomes.values())) == len(POLICIES)  # no policy is another one


def test_a_second_run_reads_the_results_of_the_first(data, capsys, monkeypatch):
    run(data, "--policies", "full", "--seeds", "2", "--jobs", "2")
    tables = printed_tables(capsys)
    run(data, "--policies", "full", "--seeds", "1", out="alone")
    assert found(data, "full", "alone")["found"] == found(data, "full")["found"]  # jobs change no result
    capsys.readouterr()
    monkeypatch.setattr(landmark_matching, "run_bundle", None)
    run(data, "--policies", "full", "--seeds", "2")
    assert printed_tables(capsys) == tables
    with pytest.raises(ValueError, match="of other settings"):
        run(data, "--policies", "full", "--seeds", "1", "--pixdim", "0.6")


def test_only_the_template_is_read_of_the_training_labels_and_no_test_label_before_the_end(data, write_table):
    run(data, "--policies", "full", "--seeds", "1")
    write_table(data, "train", ["1"], [[10.0, 8.0], [20.0, 30.0]])  # no other training image has a label
    (data / "test1_landmarks_mm.csv").unlink()
    with pytest.raises((OSError, ValueError), match="test1_landmarks"):
        run(data, "--policies", "full", "--seeds", "1", out="again")
    for row in ("found", "alone"):
        assert found(data, "full", "again")[row] == found(data, "full")[row]
    write_table(data, "train", ["1"], [[12.0, 9.0], [20.0, 30.0]])
    with pytest.raises((OSError, ValueError), match="test1_landmarks"):
        run(data, "--policies", "full", "--seeds", "1", out="moved")
    assert found(data, "full", "moved") != found(data, "full")  # the template's own label matters


def test_tuning_reads_no_test_image(data, capsys):
    for path in (data / "test1").iterdir():
        path.unlink()
    (data / "test1_landmarks_mm.csv").unlink()
    run(data, "--policies", "weak", "--seeds", "1", "--tune")
    assert "1 seeds x 1 images" in capsys.readouterr().out
    settings = json.loads((data.parent / "out/small/tune/weak/0/settings.json").read_text())
    assert settings["val_interval"] > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policies", "better"), "`policies` must be"),
        (("--policies", "uniform_x"), "uniform_x"),
        (("--template", "9"), "`template` must be the name of an image"),
        (("--seeds", "0"), "`seeds` must be at least 1"),
        (("--jobs", "0"), "`jobs` must be at least 1"),
    ],
)
def test_bad_arguments_are_named(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(data, *arguments)


def test_borrowed_information_is_that_of_the_next_image(data):
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    images = [str(data / "train" / f"{i}.png") for i in range(3)]
    preprocessing = [LoadImaged("image"), EnsureChannelFirstd("image"), ModalityPresetd("image", modality="xray")]
    information = [InformationMapd("image", window=5), InformationTiersd("information")]
    usual = Compose([*preprocessing, *information])
    for here, there in ((0, 1), (1, 2), (2, 0)):
        item = Compose(preprocessing)({"image": images[here]})
        out = BorrowedInformationd("image", images, preprocessing, information)(item)
        expected = usual({"image": images[there]})
        assert torch.equal(out["tiers"].as_tensor(), expected["tiers"].as_tensor())
        assert out["tiers"].dtype == torch.uint8
        torch.testing.assert_close(out["information"].as_tensor(), expected["information"].as_tensor())
        assert torch.equal(out["image"], item["image"])


def test_interval_is_that_of_resampled_images():
    random = np.random.default_rng(0)
    base = random.gamma(2, 1, (2, 40, 3))
    worse = base + 0.3 + 0.1 * random.standard_normal(base.shape)
    difference, low, high = paired_interval(worse, base)
    assert difference == pytest.approx((worse - base).mean())
    assert low < difference < high
    per_image = [(worse[:, i] - base[:, i]).mean() for i in range(40)]
    drawn = sorted(np.mean([per_image[random.integers(40)] for _ in range(40)]) for _ in range(2000))
    assert low == pytest.approx(drawn[50], abs=0.01)
    assert high == pytest.approx(drawn[1949], abs=0.01)
    back = paired_interval(base, worse)
    assert back[0] == -difference
    assert back[1] < back[0] < back[2] < 0


def test_summary():
    errors = np.array([[[1.0, 3.0], [2.0, 2.5]], [[5.0, 1.0], [1.0, 1.0]]])
    row = summary("full", errors, 61.4)
    assert row["mre"] == pytest.approx(errors.mean(), abs=1e-3)
    assert row["seconds"] == 61
    assert row["sd_of_seeds"] == pytest.approx(abs(8.5 - 8) / 4 / math.sqrt(2), abs=1e-3)
    assert row["sdr"] == [50.0, 62.5, 75.0, 87.5]  # strictly below 2, 2.5, 3 and 4 mm


def test_hard_negatives_of_one_are_counted_again():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 6, 4, generator=generator) for _ in range(2))
    points = torch.rand(2, 6, 2, generator=generator) * 50
    loss = HardNegativeMixingLoss(hardest=1, of_two=3, with_anchor=0, temperature=0.2)
    got, used = loss.of_points(first, second, points)
    assert used.all()
    cosines = normalize(first, dim=-1) @ normalize(second, dim=-1).mT / 0.2
    for b in range(2):
        for i in range(6):
            hardest = max(cosines[b, i, j] for j in range(6) if j != i)
            terms = torch.stack([*cosines[b, i], *[hardest] * 3])
            assert got[b, i].item() == pytest.approx(float(terms.logsumexp(0) - cosines[b, i, i]), abs=1e-4)


def test_mixed_negatives_lie_between_and_make_it_harder():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 9, 4, generator=generator, requires_grad=True) for _ in range(2))
    points = torch.rand(1, 9, 2, generator=generator) * 50
    loss = HardNegativeMixingLoss(temperature=0.2)
    value = loss(first, second, points, torch.ones(1, 9, dtype=torch.bool))
    assert value > PixelInfoNCELoss(0.2, symmetric=False)(first, second, points)
    value.backward()
    assert first.grad.isfinite().all()
    assert first.grad.any()
    others, hard = torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[0, 1]]])
    mixed = loss._with_anchor(torch.tensor([[[-1.0, 0]]]), others, hard)
    assert ((mixed - torch.tensor([-1.0, 0])).norm(dim=-1) >= 0.5 * 2**0.5 - 1e-6).all()  # nearer to the negative


def test_mixed_images_are_contrasted_with_both_of_theirs():
    items = [
        {
            "image_view1": torch.full((1, 4, 4), float(i)),
            "image_view2": torch.full((1, 4, 4), 10.0 + i),
            "points_view1": torch.full((200, 2), float(i)),
            "points_view2": torch.full((200, 2), 10.0 + i),
            "points_valid": torch.ones(200, dtype=torch.bool),
        }
        for i in range(3)
    ]
    torch.manual_seed(0)
    batch = MixedCollate([""])(items)
    share = 1 - batch["image_view1"][0, 0, 0, 0].item() / 2  # of 0 beside 2
    assert 0 < share < 1
    assert batch["image_view1"][:, 0, 0, 0].tolist() == pytest.approx([2 - 2 * share, 1, 2 * share])
    assert batch["points_view1"][:, 0, 0].tolist() == [0, 1, 2, 2, 1, 0]
    kept = batch["points_valid"].float().mean(1)
    assert kept[:3].tolist() == pytest.approx([share] * 3, abs=0.1)
    assert (kept[:3] + kept[3:] == 1).all()

    levels = MixedInferer()([(batch["image_view1"], batch["image_view2"])], lambda image: [image])
    ((mixed, second),) = levels
    assert torch.equal(mixed, batch["image_view1"].repeat(2, 1, 1, 1))
    assert second[:, 0, 0, 0].tolist() == [10, 11, 12, 12, 11, 10]
    assert (second[:, 0, 0, 0] == batch["points_view2"][:, 0, 0]).all()
