"""Files on disk through whole MONAI pipelines: what a user runs."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset, decollate_batch
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandAffine,
    RandFlipd,
    ResizeWithPadOrCropd,
    ScaleIntensityd,
)
from monai.utils import set_determinism

from monai_infoaug.data import SeededDataset
from monai_infoaug.information import local_entropy
from monai_infoaug.transforms import (
    InformationMapd,
    InformationTiersd,
    RandPairedViewsd,
    RandTierIntensity,
    RandTierIntensityd,
)
from tests.versions import TRACKED

DATA = Path(__file__).parents[2] / "shared" / "data"  # optional real images beside the repository


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A bright textured ball in a dark noisy box, and no two alike: uint8."""
    generator = np.random.RandomState(seed)
    centre = np.array(shape) / 2 + generator.uniform(-2, 2, len(shape))
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)))
    inside = distance < min(shape) / 3
    return (generator.uniform(0, 40, shape) + inside * generator.uniform(80, 200, shape)).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> str:
    if path.suffix == ".gz":
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.5, 2.0, 1.0])), path)
    else:
        Image = pytest.importorskip("PIL.Image", reason="MONAI reads PNG with Pillow")
        Image.fromarray(array).save(path)
    return str(path)


def files(source: str, folder: Path, count: int = 3) -> list[str]:
    """Paths of images: made here as `nii.gz`, `png` or `jpg`, or from a folder of real ones."""
    if source in ("nii.gz", "png", "jpg"):
        shape = (26, 24, 22) if source == "nii.gz" else (60, 50)
        return [write(folder / f"{seed}.{source}", blobs(shape, seed)) for seed in range(count)]
    if not source.startswith("hippocampus"):
        pytest.importorskip("PIL", reason="MONAI reads PNG and JPEG with Pillow")
    found = sorted(map(str, (DATA / source).glob("*.*")))[:count]
    return found if found else pytest.skip(f"no images in {DATA / source}")


def chain(dims: int, window: int = 5, last: tuple = ()) -> Compose:
    """From a file to information and tiers, all deterministic; then what is random."""
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            CenterSpatialCropd("image", roi_size=((48, 40), (20, 20, 20))[dims - 2]),
            ScaleIntensityd("image"),
            InformationMapd("image", window=window),
            InformationTiersd(),
            *last,
        ]
    )


def paired_views(dims: int, mode: str = "blend") -> RandPairedViewsd:
    return RandPairedViewsd(
        "image",
        roi_size=(16,) * dims,
        spatial=RandAffine(prob=1.0, rotate_range=0.2, scale_range=0.1),
        intensity=RandTierIntensity("published", mode),
        num_points=20,
        shares=(0.2, 0.4, 0.4),
    )


def dataset(kind: str, paths: list[str], transform: Compose, folder: Path):
    items = [{"image": path} for path in paths]
    if kind == "cache":
        return CacheDataset(items, transform, num_workers=2, progress=False)
    return PersistentDataset(items, transform, folder / "cache", **TRACKED)


@pytest.mark.parametrize(
    "source",
    [
        "nii.gz",
        "png",
        *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in ("jpg", "hippocampus/images", "ceph/train", "jsrt/images")
        ),
    ],
)
@pytest.mark.parametrize("kind", ["cache", "persistent"])
def test_files_to_batches_of_paired_views(source, kind, tmp_path):
    paths, dims = files(source, tmp_path), 3 if source in ("nii.gz", "hippocampus/images") else 2
    data = SeededDataset(dataset(kind, paths, chain(dims, last=(paired_views(dims),)), tmp_path))
    (batch,) = DataLoader(data, batch_size=3, num_workers=2)
    roi = (16,) * dims
    shapes = {"points_tier": (3, 20), "points_valid": (3, 20)}
    for view in (1, 2):
        shapes |= {f"image_view{view}": (3, 1, *roi), f"coords_view{view}": (3, dims, *roi)}
        shapes |= {f"valid_view{view}": (3, 1, *roi), f"sampling_view{view}": (3, 1, *roi)}
        shapes |= {f"points_view{view}": (3, 20, dims)}
    assert {key: tuple(value.shape) for key, value in batch.items()} == shapes
    assert batch["points_valid"].float().mean() > 0.5
    assert batch["sampling_view1"].flatten(1).sum(1).numpy() == pytest.approx(1, abs=1e-4)

    items = decollate_batch(batch)
    assert len(items) == 3
    for index, (path, item) in enumerate(zip(paths, items, strict=True)):
        assert isinstance(item["image_view1"], MetaTensor)
        assert str(item["image_view1"].meta["filename_or_obj"]) == path
        for key, value in data[index].items():  # here, without workers, and read back where there is a cache on disk
            np.testing.assert_array_equal(np.asarray(item[key]), np.asarray(value), err_msg=key)


@pytest.mark.parametrize("source", ["nii.gz", "png"])
def test_both_caches_serve_the_same_pairs(source, tmp_path):
    paths, dims = files(source, tmp_path), 3 if source == "nii.gz" else 2
    transform = chain(dims, last=(paired_views(dims),))
    cache, persistent = (SeededDataset(dataset(kind, paths, transform, tmp_path)) for kind in ("cache", "persistent"))
    for index in range(len(paths)):
        for key, value in cache[index].items():
            np.testing.assert_array_equal(np.asarray(persistent[index][key]), np.asarray(value), err_msg=key)


@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
def test_tiers_decide_in_every_mode(mode, tmp_path):
    data = SeededDataset(
        dataset("cache", files("png", tmp_path, 12), chain(2, last=(paired_views(2, mode),)), tmp_path)
    )
    tiers = [item["points_tier"][item["points_valid"]].unique().tolist() for item in data]
    if mode == "anchor":  # the points come from the tier whose change the whole view got
        assert all(len(each) == 1 for each in tiers)
        assert {1, 2} <= {tier for each in tiers for tier in each}
    else:
        assert sum(len(each) > 1 for each in tiers) > len(tiers) / 2


def test_a_changed_window_is_not_read_from_a_stale_cache(tmp_path):
    paths = files("png", tmp_path)
    for window in (3, 7, 3):
        item = dataset("persistent", paths, chain(2, window), tmp_path)[0]
        expected = local_entropy(torch.as_tensor(item["image"]), window=window)
        torch.testing.assert_close(torch.as_tensor(item["information"]), expected)
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 2  # one an image and a setting


def segmentation_items(source: str, folder: Path) -> list[dict]:
    if source == "made":
        arrays = [blobs((26, 24, 22), seed) for seed in range(4)]
        return [
            {
                "image": write(folder / f"image{seed}.nii.gz", array),
                "label": write(folder / f"label{seed}.nii.gz", (array > 60).astype(np.uint8)),
            }
            for seed, array in enumerate(arrays)
        ]
    images, labels = files("hippocampus/images", folder, 4), files("hippocampus/labels", folder, 4)
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


@pytest.mark.parametrize("source", ["made", pytest.param("hippocampus", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
def test_tier_intensity_in_a_plain_segmentation_training(source, mode, tmp_path):
    both = ["image", "label"]
    deterministic = [
        LoadImaged(both),
        EnsureChannelFirstd(both),
        ResizeWithPadOrCropd(both, spatial_size=(24, 24, 24)),
        ScaleIntensityd("image"),
        InformationMapd("image", window=3),
        InformationTiersd(),
    ]
    random = [
        RandFlipd([*both, "information", "tiers"], prob=0.5, spatial_axis=0),
        RandTierIntensityd("image", transforms="rich", mode=mode, prob=0.8),
    ]
    items = segmentation_items(source, tmp_path)
    plain, changed = (
        SeededDataset(CacheDataset(items, [*deterministic, *steps], progress=False)) for steps in (random[:1], random)
    )
    for index in range(len(items)):
        assert torch.equal(changed[index]["label"], plain[index]["label"])
    assert any(not torch.equal(changed[i]["image"], plain[i]["image"]) for i in range(len(items)))

    set_determinism(seed=0)
    try:
        network = UNet(3, 1, 1, channels=(8, 16), strides=(2,), num_res_units=1)
        optimizer, loss_function = torch.optim.Adam(network.parameters(), 1e-2), DiceLoss(sigmoid=True)
        losses = []
        for epoch in range(10):
            changed.set_epoch(epoch)
            for batch in DataLoader(changed, batch_size=2, shuffle=True):
                optimizer.zero_grad()
                loss = loss_function(network(batch["image"]), (batch["label"] > 0).float())
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    finally:
        set_determinism(seed=None)
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:2])
