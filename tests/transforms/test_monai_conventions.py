"""What MONAI's own tools expect of a transform: whole pipelines with ours in the middle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import monai
import nibabel
import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    SmartCacheDataset,
    ThreadDataLoader,
    decollate_batch,
)
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    OneOf,
    Orientationd,
    RandAffine,
    RandFlipd,
    RandGaussianNoise,
    RandGaussianNoised,
    SaveImaged,
    SomeOf,
    Spacingd,
    allow_missing_keys_mode,
)
from monai.utils import set_determinism

from monai_infoaug.transforms import (
    AssignPixdimd,
    BodyMaskd,
    InformationMapd,
    InformationTiersd,
    ModalityPresetd,
    RandPairedViewsd,
    RandTierIntensity,
    RandTierIntensityd,
)
from tests.versions import TRACKED

AFFINE = np.array([[0.0, -1.2, 0, 30], [1.0, 0, 0, -20], [0, 0, 1.5, 5], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Files of waves in a ball in the air, turned and anisotropic."""
    folder, items = tmp_path_factory.mktemp("images"), []
    distance = np.linalg.norm(np.indices((22, 20, 18)) - np.array([11, 10, 9]).reshape(3, 1, 1, 1), axis=0)
    for seed in range(4):
        grey = (distance < 8) * (600 + 300 * np.sin(distance + seed) * np.cos(np.indices(distance.shape)[0] / 2))
        path = folder / f"{seed}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(grey.astype(np.float32), AFFINE), path)
        items.append({"image": str(path), "number": seed})
    return items


def fixed(*more: Callable) -> list[Callable]:
    """From a file to tiers, all deterministic; then more."""
    return [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        AssignPixdimd("image", pixdim=None),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(1.2, 1.2, 1.2)),
        ModalityPresetd("image", modality="mr"),
        InformationMapd("image", window=3, mask_key="foreground"),
        InformationTiersd(mask_key="foreground"),
        *more,
    ]


def pair(**options) -> RandPairedViewsd:
    settings = {
        "roi_size": (12, 12, 12),
        "spatial": RandAffine(prob=1.0, rotate_range=0.2, padding_mode="zeros"),
        "intensity": RandTierIntensity({"high": RandGaussianNoise(prob=1.0)}),
        "num_points": 6,
        "shares": (0.2, 0.4, 0.4),
        "mask_key": "foreground",
    }
    return RandPairedViewsd("image", **{**settings, **options})


def values(batches: list[dict], key: str = "image_view1") -> np.ndarray:
    return np.concatenate([np.asarray(batch[key]) for batch in batches])


RANDOM = {"pair": pair, "intensity": lambda: RandTierIntensityd("image", transforms="rich", prob=1.0)}
SHOWN = {"pair": "image_view1", "intensity": "image"}
both = pytest.mark.parametrize("name", RANDOM)


@pytest.fixture
def seeded():
    """MONAI's global seeding, undone afterwards."""
    yield lambda seed=0: set_determinism(seed=seed)
    set_determinism(seed=None)


@both
def test_set_determinism_and_set_random_state(items, name, seeded):
    runs = []
    for seed in (0, 0, 1):
        seeded(seed)
        chain = Compose(fixed(RANDOM[name]()))
        runs.append([chain(items[0]) for _ in range(2)])
    first, again, other = (values(run, SHOWN[name]) for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(*np.split(first, 2))

    chains = [Compose(fixed(RANDOM[name]())).set_random_state(seed=3) for _ in range(2)]
    chains.append(pickle.loads(pickle.dumps(copy.deepcopy(chains[0]))))
    first, *others = (values([chain(items[0])], SHOWN[name]) for chain in chains)
    for other in others:
        np.testing.assert_array_equal(first, other)


@both
@pytest.mark.parametrize("persistent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_workers_differ_and_a_seed_repeats_them(items, name, persistent, seeded):
    same = [items[0]] * 4

    def epochs() -> list[np.ndarray]:
        seeded(5)
        data = CacheDataset(same, Compose(fixed(RANDOM[name]())), num_workers=None, progress=False)
        loader = DataLoader(data, batch_size=1, num_workers=2, persistent_workers=persistent)
        return [values(list(loader), SHOWN[name]) for _ in range(2)]

    first, again = epochs(), epochs()
    np.testing.assert_array_equal(first, again)
    views = np.concatenate(first)
    assert len(np.unique(views.reshape(len(views), -1), axis=0)) == len(views) == 8  # no draw twice


@pytest.mark.parametrize("kind", ["cache", "persistent", "smart"])
@pytest.mark.parametrize("loader", [DataLoader, ThreadDataLoader])
def test_data_sets_and_loaders(items, kind, loader, tmp_path):
    chain = Compose(fixed(pair()))
    data = {
        "cache": lambda: CacheDataset(items, chain, num_workers=2, progress=False),
        "persistent": lambda: PersistentDataset(items, chain, tmp_path, **TRACKED),
        "smart": lambda: SmartCacheDataset(items, chain, cache_num=3, replace_rate=0.34, progress=False),
    }[kind]()
    for _ in range(2):
        batches = list(loader(data, batch_size=2, num_workers=0))
        assert {key: tuple(value.shape[1:]) for key, value in batches[0].items() if key != "number"} == {
            **{f"image_view{k}": (1, 12, 12, 12) for k in (1, 2)},
            **{f"coords_view{k}": (3, 12, 12, 12) for k in (1, 2)},
            **{f"valid_view{k}": (1, 12, 12, 12) for k in (1, 2)},
            **{f"sampling_view{k}": (1, 12, 12, 12) for k in (1, 2)},
            **{f"points_view{k}": (6, 3) for k in (1, 2)},
            **dict.fromkeys(("points_tier", "points_valid"), (6,)),
        }
        single = [each for batch in batches for each in decollate_batch(batch)]
        assert len(single) == len(data)
        if kind != "persistent" or not monai.__version__.startswith("1.5."):  # which reads plain tensors from its files
            assert all(isinstance(each["image_view1"], MetaTensor) for each in single)


def test_pipeline_inverts_what_came_before(items):
    chain = Compose(fixed())
    out = chain(items[0])
    loaded = Compose(fixed()[:2])(items[0])["image"]
    operations = [each["class"] for each in out["image"].applied_operations]
    assert operations == ["Orientation", "SpatialResample"]
    back = chain.inverse(copy.deepcopy(out))["image"]  # MONAI empties the list of operations of what it inverts
    assert back.shape == loaded.shape
    assert not back.applied_operations
    torch.testing.assert_close(back.affine, loaded.affine)
    truth = ModalityPresetd("image", modality="mr")({"image": loaded})["image"]
    assert np.corrcoef(np.ravel(back), np.ravel(truth))[0, 1] > 0.95

    new = ["information", "tiers", "foreground"]  # what is derived goes the same way back
    out |= Invertd(new, chain, orig_keys="image", nearest_interp=[False, True, True], to_tensor=False)(out)
    for key in new:
        assert out[key].shape == loaded.shape
        torch.testing.assert_close(out[key].affine, loaded.affine)
    direct = InformationMapd("image", window=3)({"image": truth})["information"]
    assert np.corrcoef(np.ravel(out["information"]), np.ravel(direct))[0, 1] > 0.7
    assert (np.asarray(out["foreground"] > 0) == np.asarray(loaded > 0)).mean() > 0.97


def test_pipeline_with_random_steps_inverts(items):
    chain = Compose(
        fixed(RandFlipd("image", prob=1.0, spatial_axis=0), RandTierIntensityd("image", prob=0.0, transforms="rich"))
    )
    out = chain.set_random_state(seed=0)(items[0])
    assert "Flip" in out["image"].applied_operations[-1]["class"]
    assert chain.inverse(out)["image"].shape == (1, 22, 20, 18)


def test_views_start_anew(items):
    out = Compose(fixed(pair(keep_source=True)))(items[0])
    assert out["image"].applied_operations
    for k in (1, 2):
        view = out[f"image_view{k}"]
        assert view.applied_operations == []
        assert not view.has_pending_operations
        assert view.meta["filename_or_obj"] == items[0]["image"]
        torch.testing.assert_close(view.meta["source_affine"], out["image"].affine)


def test_lazy_pipeline(items):
    spatial = ["foreground", "information", "tiers"]
    lazy, eager = (Compose(fixed(), lazy=value)(items[0]) for value in (True, False))
    for key in ("image", *spatial):
        assert not lazy[key].has_pending_operations
        assert lazy[key].shape == eager[key].shape
        torch.testing.assert_close(lazy[key].affine, eager[key].affine)
    assert np.corrcoef(np.ravel(lazy["image"]), np.ravel(eager["image"]))[0, 1] > 0.98


def test_allow_missing_keys_mode():
    item = {"image": torch.rand(1, 12, 12), "information": torch.rand(1, 12, 12)}
    item["tiers"] = torch.zeros(1, 12, 12, dtype=torch.uint8)
    chain = Compose(
        [
            AssignPixdimd(["image", "absent"], 1.0),
            BodyMaskd(["image", "absent"], ["body", "absent_body"]),
            InformationMapd(["image", "absent"], ["map", "absent_map"], window=3),
            InformationTiersd(["information", "absent"], ["new_tiers", "absent_tiers"]),
            ModalityPresetd(["image", "absent"], "mr"),
            RandTierIntensityd(["image", "absent"]),
            RandPairedViewsd(["image", "absent"]),
        ]
    )
    for step in chain.transforms:
        with pytest.raises(KeyError, match="absent"):
            step(item)
    with allow_missing_keys_mode(chain):
        assert "image_view1" in chain(item)
    assert not any(step.allow_missing_keys for step in chain.transforms)


@pytest.mark.parametrize("map_items", [True, False])
def test_map_items(items, map_items):
    loaded = Dataset(items, Compose(fixed()))
    chain = Compose([pair()], map_items=map_items).set_random_state(seed=0)
    if map_items:
        out = chain([loaded[0], loaded[1]])
        assert len(out) == 2
        assert all("image_view1" in each for each in out)
    else:
        assert "image_view1" in chain(loaded[0])


@pytest.mark.parametrize("choose", [OneOf, lambda steps: SomeOf(steps, num_transforms=1)])
def test_choice_of_transforms(items, choose):
    intensity = RandTierIntensityd("image", transforms="rich", prob=1.0)
    chain = Compose(fixed(choose([intensity, RandGaussianNoised("image", prob=1.0)])))
    first, again = (values([chain.set_random_state(seed=2)(items[0]) for _ in range(2)], "image") for _ in range(2))
    np.testing.assert_array_equal(first, again)
    plain = Compose(fixed())(items[0])["image"]
    assert not np.array_equal(first[0], plain[0])


def test_maps_are_saved_on_their_affine(items, tmp_path):
    keys = ["image", "information", "tiers", "foreground", "image_view1"]
    options = {"output_dir": tmp_path, "separate_folder": False, "print_log": False, "resample": False}
    save = [SaveImaged(key, output_postfix=key, output_dtype=np.float32, **options) for key in keys]
    out = Compose(fixed(pair(keep_source=True), *save)).set_random_state(seed=0)(items[0])
    for key in keys:
        saved = nibabel.load(Path(tmp_path) / f"0_{key}.nii.gz")
        np.testing.assert_allclose(saved.affine, out[key].affine, atol=1e-4)
        np.testing.assert_allclose(np.squeeze(saved.dataobj), np.squeeze(out[key]), atol=1e-5)
    world, index = np.linalg.inv(AFFINE), out["points_view1"][out["points_valid"]].numpy()
    at = np.c_[index, np.ones(len(index))] @ out["image_view1"].affine.numpy().T @ world.T
    at = np.round(at[:, :3]).astype(int)
    ball = nibabel.load(items[0]["image"]).get_fdata() > 0
    assert len(at)
    assert ball[tuple(at.T)].mean() > 0.8
