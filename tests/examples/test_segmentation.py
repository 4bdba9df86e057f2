"""The bundle that segments, with each overlay, on small pictures: learning, what is read, rounds, resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow

from tests.examples.bundle_runs import DATA, complete, fault, workflow

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("tensorboard", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")
pytest.importorskip("einops", reason="bundles need the extra train")

SMALL = {
    "spatial_dims": 2,
    "modality": "xray",
    "pixdim": 1.0,
    "classes": ["square", "bar"],
    "roi_size": [48, 64],
    "features": [8, 8, 8, 8, 16, 8],
    "samples_per_epoch": 4,
    "batch_size": 2,
    "max_epochs": 1,
    "val_interval": 1,
    "test_every": 4,
    "val_every": 7,
    "num_workers": 0,
}
STAGES = {  # of each overlay
    "label_efficient": {"widths": [16, 16], "pretrain_epochs": 1, "pixels_per_image": 100},
    "local_contrast": {"widths": [16, 16], "global_epochs": 1, "local_epochs": 1, "global_batch_size": 2},
    "attention_guided": {
        "widths": [16, 16],
        "coarse_features": [8, 8, 8, 8, 16, 8],
        "coarse_epochs": 1,
        "contrast_epochs": 1,
        "contrast_batch_size": 2,
    },
    "consistency": {"threshold": 0.6},
    "segmenter": {"decoder": "mask", "patch_size": 4, "hidden_size": 48, "num_layers": 2},
}
every = pytest.mark.parametrize("overlay", STAGES)
every_network = pytest.mark.parametrize("overlay", [None, "attention_guided", "segmenter"])


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture (64, 48) of a square and a bar, which may cross, and its bits; nothing in it is symmetric."""
    generator = np.random.default_rng(seed)
    bits = np.zeros((64, 48), np.uint8)
    row, column = generator.integers(4, 14, 2)
    bits[row : row + 16, column : column + 16] |= 1
    row, column = generator.integers(28, 40), generator.integers(14, 20)
    bits[row : row + 20, column : column + 8] |= 2
    image = 60 + 80 * (bits & 1) + 60 * (bits & 2)
    return (image + generator.normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8), bits


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures and their labels."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for seed in range(12):
        for name, array in zip(("images", "labels"), picture(seed), strict=True):
            sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / name / f"{seed:02}.png")
    return tmp_path


def run(folder: Path, overlay: str | None, *then: str, **settings) -> ConfigWorkflow:
    """Train, or what another file says, with an overlay or none."""
    names_of = {"dataset_dir": "images", "labels_dir": "labels", "output_dir": "out"}
    places = {key: str(folder / name) for key, name in names_of.items()}
    names, own = ("train", overlay, *then) if overlay else ("train", *then), STAGES.get(overlay, {})
    return complete(workflow("segmentation", *names, **{**places, **SMALL, **own, **settings}))


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.slow
@every
def test_learns_overlapping_classes_from_a_few_pictures(folder, overlay):
    settings = {"labelled": 4, "label_bits": [1, 2], "samples_per_epoch": 16, "max_epochs": 8, "learning_rate": 0.01}
    if overlay == "segmenter":  # the mask decoder learns more slowly
        settings |= {"decoder": "linear", "max_epochs": 16, "learning_rate": 0.004}
    settings["val_interval"] = settings["max_epochs"]
    run(folder, overlay, **settings)
    run(folder, overlay, "evaluate", **settings)
    run(folder, overlay, "inference", **settings)
    header, *rows = (folder / "out" / "evaluation" / "mean_dice_raw.csv").read_text().splitlines()
    assert header == "filename,square,bar,mean"
    assert [Path(row.split(",")[0]).stem for row in rows] == [
        "03",
        "07",
        "11",
    ]
    for row in rows:
        name, *values = row.split(",")
        found = sitk.GetArrayFromImage(sitk.ReadImage(folder / "out" / "inference" / Path(name).name))
        truth = sitk.GetArrayFromImage(sitk.ReadImage(folder / "labels" / Path(name).name))
        by_hand = [dice(found & bit > 0, truth & bit > 0) for bit in (1, 2)]
        assert [float(value) for value in values] == pytest.approx([*by_hand, np.mean(by_hand)], abs=1e-4)
        assert min(by_hand) > 0.8


@pytest.mark.slow
@every
def test_no_label_but_those_allowed_is_read(folder, overlay):
    """Pre-training and fine-tuning run where the other labels are no images at all."""
    chosen = ["01", "05"]
    for path in (folder / "labels").iterdir():
        if path.stem not in [*chosen, "08"]:  # "08" is of validation
            path.write_bytes(b"not an image")
    flow = run(folder, overlay, labelled=chosen, label_bits=[1, 2])
    assert [item["name"] for item in flow.parser.get_parsed_content("labelled_datalist")] == chosen
    assert torch.load(folder / "out" / "checkpoint.pt", weights_only=True)["trainer"]["epoch"] == 1


@pytest.mark.slow
@every
def test_every_stage_goes_on_where_it_was_stopped(folder, overlay):
    settings = {"labelled": 2, "label_bits": [1, 2], "max_epochs": 2}
    stages = [name.removesuffix("_epochs") for name in STAGES[overlay] if name.endswith("_epochs")]
    longer = {f"{stage}_epochs": 2 for stage in stages}
    stages.append("train")
    whole = run(folder, overlay, **settings, **longer, output_dir=str(folder / "whole"))
    for last in stages[-2:]:  # stopped within the last pre-training, and within fine-tuning
        begun = ["@train#trainer"] + [f"$@{stage}#trainer.run()" for stage in stages[: stages.index(last) + 1]]
        run(folder, overlay, **settings, **longer, **{f"{last}#trainer#max_epochs": 1, "run": begun})
    parts = run(folder, overlay, **settings, **longer)
    states = [flow.parser.get_parsed_content("network_def").state_dict() for flow in (whole, parts)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


@pytest.mark.slow
@every_network
def test_a_round_learns_from_segmentations_of_unlabelled_training_cases_alone(folder, overlay):
    settings = {"labelled": ["01", "05"], "label_bits": [1, 2]}
    run(folder, overlay, **settings)
    run(folder, overlay, "inference", **settings, suffix=".png")
    pseudo, first = folder / "out" / "inference", folder / "out" / "checkpoint.pt"
    assert len(list(pseudo.iterdir())) == 12
    settings |= {"pseudo_labels": str(pseudo), "init_checkpoint": str(first), "output_dir": str(folder / "round")}
    flow = run(folder, overlay, **settings, learning_rate=1e-9)
    states = [torch.load(path, weights_only=True)["network"] for path in (first, folder / "round" / "checkpoint.pt")]
    weights = [{k: v for k, v in state.items() if k.endswith("weight")} for state in states]
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)  # goes on from the first round
    used = {item["name"]: Path(item["label"]).parent for item in flow.parser.get_parsed_content("labelled_datalist")}
    names = ["00", "01", "02", "04", "05", "06", "09", "10"]
    assert used == {name: folder / "labels" if name in ("01", "05") else pseudo for name in names}


@pytest.mark.slow
def test_segmentations_of_several_trainings_are_averaged(folder):
    """The mean of the logits decides, and it is neither training's own segmentation."""
    overlay, settings = "label_efficient", {"labelled": 4, "label_bits": [1, 2]}
    settings["amp"] = False  # as the logits that it is compared with
    outs, logits = [str(folder / f"{seed}") for seed in range(2)], []
    for seed, out in enumerate(outs):
        run(folder, overlay, **settings, seed=seed, output_dir=out)
        flow = run(folder, overlay, "inference", **settings, suffix=".png", output_dir=out)
        network = flow.parser.get_parsed_content("trained_networks")[0].eval()
        items = flow.parser.get_parsed_content("dataset")
        with torch.no_grad():
            logits.append([network(item["image"].as_tensor()[None])[0] for item in items])
    checkpoints = [f"{out}/checkpoint.pt" for out in outs]
    run(folder, overlay, "inference", **settings, suffix=".png", checkpoints=checkpoints)
    differ = 0
    for first, second, path in zip(*logits, sorted((folder / "out" / "inference").iterdir()), strict=True):
        bits = torch.tensor([1, 2]).view(2, 1, 1)
        masks = [((mean >= 0) * bits).sum(0).T.numpy() for mean in ((first + second) / 2, first, second)]
        found = sitk.GetArrayFromImage(sitk.ReadImage(path))
        assert (found == masks[0]).mean() > 0.999
        differ += min((found != mask).sum() for mask in masks[1:])
    assert differ > 20


@pytest.mark.parametrize("tiered", [False, True])
def test_intensities_in_fine_tuning_change_by_tier_or_as_usual(folder, tiered):
    flow = run(folder, "label_efficient", label_bits=[1, 2], labelled=2, tier_intensity=tiered)
    made = [type(step).__name__ for step in flow.parser.get_parsed_content("train#preprocessing").transforms]
    usual = ["RandScaleIntensityd", "RandShiftIntensityd", "RandAdjustContrastd", "RandGaussianNoised"]
    changes = ["RandTierIntensityd"] if tiered else usual
    assert [name for name in made if name in [*usual, "RandTierIntensityd"]] == changes


@pytest.mark.slow
@pytest.mark.parametrize("overlay", [None, "attention_guided"])
def test_the_last_layer_has_a_rate_of_its_own(folder, overlay):
    flow = run(folder, overlay, label_bits=[1, 2], labelled=2, last_layer_lr_factor=3)
    last, others = flow.parser.get_parsed_content("optimizer").param_groups
    assert last["initial_lr"] == pytest.approx(3 * others["initial_lr"])
    assert [value.ndim for value in last["params"]] == [4, 1]
    assert len(others["params"]) > 20


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["label_efficient", "local_contrast"])
def test_without_pre_training_it_is_plain_supervised_training(folder, overlay):
    nothing = {name: 0 for name in STAGES[overlay] if name.endswith("_epochs")}
    run(folder, overlay, label_bits=[1, 2], **nothing)
    plain = run(folder, None, label_bits=[1, 2], output_dir=str(folder / "plain"))
    assert plain.check_properties() == []
    states = [torch.load(folder / out / "checkpoint.pt", weights_only=True)["network"] for out in ("out", "plain")]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert len(list((folder / "out").glob("*.pt"))) == 1


def test_attention_without_contrast_needs_the_coarse_network_and_trains_the_encoder_with_the_rest(folder):
    run(folder, "attention_guided", label_bits=[1, 2], contrast_epochs=0, frozen=False)
    assert {path.name for path in (folder / "out").glob("*.pt")} == {"coarse.pt", "checkpoint.pt"}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_only_what_a_stage_is_for_is_trained(folder, frozen):
    """The coarse network in its own stage alone, the encoder in that of contrast and, if not frozen, the last one."""
    overlay = "attention_guided"
    flow = run(folder, overlay, label_bits=[1, 2], labelled=2, frozen=frozen)
    coarse, contrast, whole = (
        torch.load(folder / "out" / f"{name}.pt", weights_only=True)["network"]
        for name in ("coarse", "contrast", "checkpoint")
    )
    torch.testing.assert_close({k[7:]: v for k, v in whole.items() if k.startswith("coarse.")}, coarse, rtol=0, atol=0)
    encoder = flow.parser.get_parsed_content("fine_encoder").state_dict()
    before = {k.removeprefix("backbone."): v for k, v in contrast.items() if k.startswith("backbone.")}
    assert encoder.keys() == before.keys()
    assert all(torch.equal(encoder[k], before[k]) == frozen for k in encoder if k.endswith("weight"))


def test_a_segmenter_starts_from_published_weights(folder):
    overlay, settings = "segmenter", {"label_bits": [1, 2], "labelled": 2}
    shapes = {"cls_token": [1, 1, 48], "pos_embed": [1, 26, 48], "patch_embed.proj.weight": [48, 3, 4, 4]}
    shapes |= {"patch_embed.proj.bias": [48], "norm.weight": [48], "norm.bias": [48]}
    for index in range(2):
        layers = {"attn.qkv": (144, 48), "attn.proj": (48, 48), "mlp.fc1": (192, 48), "mlp.fc2": (48, 192)}
        shapes |= {f"blocks.{index}.{name}.weight": list(shape) for name, shape in layers.items()}
        shapes |= {f"blocks.{index}.{name}.bias": [shape[0]] for name, shape in layers.items()}
        shapes |= {f"blocks.{index}.norm{i}.{kind}": [48] for i in (1, 2) for kind in ("weight", "bias")}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}  # as timm names a ViT of 5 x 5 patches
    torch.save(state, folder / "vit.pth")
    run(folder, overlay, **settings, published=str(folder / "vit.pth"), learning_rate=0.0)
    network = torch.load(folder / "out" / "checkpoint.pt", weights_only=True)["network"]
    assert torch.equal(network["encoder.blocks.1.mlp.linear1.weight"], state["blocks.1.mlp.fc1.weight"])


def test_class_numbers_of_more_than_eight_bits_are_not_cut(folder):
    for path in (folder / "labels").iterdir():
        label = sitk.GetArrayFromImage(sitk.ReadImage(path)).astype(np.uint16)
        sitk.WriteImage(sitk.GetImageFromArray(np.where(label, 257, 0).astype(np.uint16)), path)
    with pytest.raises(RuntimeError) as caught:
        run(folder, None)
    assert "got labels [257.0]" in fault(caught.value)


@pytest.mark.slow
@every
@pytest.mark.skipif(not (DATA / "hippocampus").exists(), reason="the hippocampus data are not at hand")
def test_volumes(folder, overlay):
    """Real volumes of several sizes, class numbers instead of bits, NIfTI out."""
    for name, kind in (("images3d", "images"), ("labels3d", "labels")):
        (folder / name).mkdir()
        for path in sorted((DATA / "hippocampus" / kind).iterdir())[:4]:
            (folder / name / path.name).symlink_to(path)
    places = {"dataset_dir": str(folder / "images3d"), "labels_dir": str(folder / "labels3d")}
    settings = {"modality": "mr", "pixdim": None, "label_bits": None, "roi_size": [32] * 3, "window": 3}
    settings |= {"spatial_dims": 3, "test_every": 2, "val_every": None, "working_pixdim": 2.5, "samples_per_epoch": 2}
    there = places | settings
    run(folder, overlay, **there)
    run(folder, overlay, "evaluate", **there)
    run(folder, overlay, "inference", **there)
    assert len((folder / "out" / "evaluation" / "mean_dice_raw.csv").read_text().splitlines()) == 3
    for path in (folder / "out" / "inference").iterdir():
        mask, image = sitk.ReadImage(path), sitk.ReadImage(folder / "images3d" / path.name)
        assert mask.GetSize() == image.GetSize()
        assert np.allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_dir": "/nowhere"}, "`images` must be a folder or an image file, got '/nowhere'"),
        ({"labels_dir": "/nowhere"}, "`labels` must be a folder or an image file, got '/nowhere'"),
        ({"labelled": 9}, "`labelled` must be from 1 to 8, the training cases with a label"),
        ({"classes": ["square"]}, "`img` must be class numbers from 0 to 1, got labels [2.0"),
        ({"label_bits": [1, 3]}, "`bits` must be different powers of two"),
        ({"modality": "sonar"}, "`modality` must be"),
        ({"test_every": 2, "val_every": 9}, "`part` must be one with cases"),
    ],
)
def test_bad_settings(folder, settings, message):
    with pytest.raises(RuntimeError) as caught:
        run(folder, "label_efficient", **settings)
    assert message in fault(caught.value)
    assert not list((folder / "out").glob("*.pt"))  # no stage has begun
