"""One checklist that every exported transform passes; a new export without a recipe here fails."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, set_track_meta
from monai.transforms import (
    Compose,
    MapTransform,
    RandAffine,
    RandGaussianNoise,
    RandomizableTrait,
    RandomizableTransform,
    Rotated,
    Spacingd,
    Transform,
)
from monai.utils import TransformBackends
from torch.utils.data import Subset

from monai_infoaug import transforms as T
from monai_infoaug._versions import WIDER
from monai_infoaug.data import SeededDataset


class Recipe(NamedTuple):
    """How to make a transform for ``dims`` dimensions, and what it reads: arguments, or keys of a dictionary."""

    make: Callable[..., Transform]
    needs: tuple[str | None, ...]
    keys: tuple[str, ...] = ()  # of the needs, those that `keys` names
    gives_metatensor: bool = False  # whatever comes


def pair_options(dims: int) -> dict:
    return {
        "roi_size": (10,) * dims,
        "spatial": RandAffine(prob=1.0, rotate_range=0.3, padding_mode="zeros"),
        "intensity": T.RandTierIntensity(RandGaussianNoise(prob=1.0), mode="continuous"),
        "num_points": 7,
        "shares": (0.2, 0.4, 0.4),
    }


GUIDED = ("image", "information", "tiers")
RECIPES = {
    "AssignPixdim": Recipe(lambda dims: T.AssignPixdim(0.5), ("image",), gives_metatensor=True),
    "AssignPixdimd": Recipe(
        lambda dims, keys=("image",), **k: T.AssignPixdimd(keys, 0.5, **k),
        ("image",),
        ("image",),
        gives_metatensor=True,
    ),
    "BodyMask": Recipe(lambda dims: T.BodyMask(), ("image",)),
    "BodyMaskd": Recipe(lambda dims, keys=("image",), **k: T.BodyMaskd(keys, **k), ("image",), ("image",)),
    "CoordinateMap": Recipe(lambda dims: T.CoordinateMap(), ("image",)),
    "CoordinateMapd": Recipe(lambda dims, keys=("image",), **k: T.CoordinateMapd(keys, **k), ("image",), ("image",)),
    "InformationMap": Recipe(lambda dims: T.InformationMap(window=3), ("image",)),
    "InformationMapd": Recipe(
        lambda dims, keys=("image",), **k: T.InformationMapd(keys, window=3, **k), ("image",), ("image",)
    ),
    "InformationTiers": Recipe(lambda dims: T.InformationTiers(), ("information",)),
    "InformationTiersd": Recipe(
        lambda dims, keys=("information",), **k: T.InformationTiersd(keys, **k), ("information",), ("information",)
    ),
    "LabelChannels": Recipe(lambda dims: T.LabelChannels(3), ("tiers",)),
    "LabelChannelsd": Recipe(
        lambda dims, keys=("tiers",), **k: T.LabelChannelsd(keys, num_classes=3, **k), ("tiers",), ("tiers",)
    ),
    "LandmarkHeatmap": Recipe(lambda dims: T.LandmarkHeatmap(sigma=2.0, stride=2), ("landmarks", "coords")),
    "LandmarkHeatmapd": Recipe(
        lambda dims, keys=("landmarks",), **k: T.LandmarkHeatmapd(keys, sigma=2.0, stride=2, **k),
        ("landmarks", "coords"),
        ("landmarks",),
    ),
    "ModalityPreset": Recipe(lambda dims: T.ModalityPreset("mr"), ("image",)),
    "ModalityPresetd": Recipe(
        lambda dims, keys=("image",), **k: T.ModalityPresetd(keys, modality="mr", **k), ("image",), ("image",)
    ),
    "PointLabels": Recipe(lambda dims: T.PointLabels(2.0), ("landmarks", "point_classes", "image")),
    "PointLabelsd": Recipe(
        lambda dims, keys=("landmarks",), **k: T.PointLabelsd(keys, radius=2.0, **k),
        ("landmarks", "point_classes", "image"),
        ("landmarks",),
    ),
    "RandIntensityCurve": Recipe(lambda dims: T.RandIntensityCurve(prob=1.0), ("image",)),
    "RandIntensityCurved": Recipe(
        lambda dims, keys=("image",), **k: T.RandIntensityCurved(keys, prob=1.0, **k), ("image",), ("image",)
    ),
    "RandPairedViews": Recipe(lambda dims: T.RandPairedViews(**pair_options(dims)), GUIDED),
    "RandPairedViewsd": Recipe(
        lambda dims, keys=("image",), **k: T.RandPairedViewsd(keys, **pair_options(dims), **k), GUIDED, ("image",)
    ),
    "RandTierIntensity": Recipe(lambda dims: T.RandTierIntensity("rich"), ("image", None, "tiers")),
    "RandTierIntensityd": Recipe(
        lambda dims, keys=("image",), **k: T.RandTierIntensityd(keys, transforms="rich", prob=1.0, **k),
        ("image", "tiers"),
        ("image",),
    ),
}
ALIASES = ("Dict", "D")
KINDS = {"numpy": np.asarray, "torch": torch.as_tensor, "MetaTensor": MetaTensor}


def base_name(name: str) -> str:
    """The class that an exported name stands for: `XD` and `XDict` are `Xd`."""
    return next((name.removesuffix(end) + "d" for end in ALIASES if name.endswith(end)), name)


EXPORTED = [name for name in T.__all__ if inspect.isclass(getattr(T, name))]
NAMES = sorted({base_name(name) for name in EXPORTED} & set(RECIPES))
every = pytest.mark.parametrize("name", NAMES)
dictionary = pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("d")])
random_dictionary = pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("Rand") and n.endswith("d")])
both_dims = pytest.mark.parametrize("dims", [2, 3])


def make_item(dims: int = 2, kind: str = "torch", dtype: str = "float32", seed: int = 0) -> dict:
    shape = ((24, 20), (16, 14, 12))[dims - 2]
    generator = np.random.RandomState(seed)
    arrays = {
        "image": (100 * generator.rand(2, *shape)).astype(dtype),
        "information": (5 * generator.rand(1, *shape)).astype(np.float32),
        "tiers": generator.randint(0, 3, (1, *shape)).astype(np.uint8),
        "coords": np.indices(shape).astype(np.float32),
        "point_classes": np.array([0, 2, 1]),
        "landmarks": (np.array(shape) * generator.uniform(0.2, 0.8, (3, dims))).astype(np.float32),
    }
    return {key: KINDS[kind](array) for key, array in arrays.items()}


def call(name: str, transform: Callable, item: dict, seed: int | None = 0) -> dict:
    """The transform's outputs by name, those without a name as "out0", ..."""
    if seed is not None and isinstance(transform, RandomizableTrait):
        transform.set_random_state(seed=seed)
    needs = RECIPES[name].needs
    if isinstance(transform, MapTransform):
        out = transform({**{key: item[key] for key in needs}, "note": "kept"})
        assert out.pop("note") == "kept"
        return out
    out = transform(*(None if key is None else item[key] for key in needs))
    outs = out if isinstance(out, tuple) else (out,)
    return out if isinstance(out, dict) else {f"out{number}": each for number, each in enumerate(outs)}


def assert_same(a: dict, b: dict, atol: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(np.asarray(a[key], float), np.asarray(b[key], float), atol=atol, rtol=0, err_msg=key)


def differ(a: dict, b: dict) -> bool:
    return any(not np.array_equal(np.asarray(a[key]), np.asarray(b[key]), equal_nan=True) for key in a)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_export_has_a_recipe_and_dictionary_classes_have_aliases(name):
    base = base_name(name)
    assert base in RECIPES, f"{name} is exported without a recipe in this checklist"
    assert getattr(T, name) is getattr(T, base)
    if base.endswith("d"):
        assert {base, base[:-1], base[:-1] + "D", base[:-1] + "Dict"} <= set(EXPORTED)


@every
def test_class_says_what_it_is(name):
    cls = getattr(T, name)
    text = inspect.getdoc(cls)
    assert "Args:" in text
    assert "Example:" in text or (name.endswith("d") and "See Also:" in text and f":py:class:`{name[:-1]}`" in text)
    assert cls.backend
    assert all(isinstance(backend, TransformBackends) for backend in cls.backend)
    transform = RECIPES[name].make(2)
    assert isinstance(transform, Transform)
    assert isinstance(transform, RandomizableTrait) == name.startswith("Rand")
    assert isinstance(transform, MapTransform) == name.endswith("d")


@every
@both_dims
@pytest.mark.parametrize("kind", KINDS)
def test_kind_stays_and_input_is_untouched(name, dims, kind):
    item = make_item(dims, kind)
    if kind == "MetaTensor":
        for key in item:
            item[key].meta["patient"] = "p1"
    before = copy.deepcopy(item)
    out = call(name, RECIPES[name].make(dims), item)
    wanted = np.ndarray if kind == "numpy" and not RECIPES[name].gives_metatensor else torch.Tensor
    assert all(isinstance(value, wanted) for value in out.values())
    if kind == "MetaTensor":
        assert any(isinstance(value, MetaTensor) and value.meta.get("patient") == "p1" for value in out.values())
    for key, value in item.items():
        assert type(value) is type(before[key])
        assert value.dtype == before[key].dtype
        np.testing.assert_array_equal(np.asarray(value), np.asarray(before[key]))
        if kind == "MetaTensor":
            assert value.applied_operations == before[key].applied_operations
            assert torch.equal(value.affine, before[key].affine)
            assert value.meta.keys() == before[key].meta.keys()


@every
@both_dims
def test_kinds_agree(name, dims):
    transform = RECIPES[name].make(dims)
    numpy, torch_, meta = (call(name, transform, make_item(dims, kind)) for kind in KINDS)
    assert_same(numpy, torch_, atol=1e-5)
    assert_same(meta, torch_, atol=1e-5)


@every
@both_dims
@pytest.mark.parametrize("kind", ["torch", "MetaTensor"])
def test_stays_on_the_gpu(name, dims, kind, gpu):
    expected = call(name, RECIPES[name].make(dims), make_item(dims, kind))
    with gpu:
        item = {key: value.to("cuda") for key, value in make_item(dims, kind).items()}
        out = call(name, RECIPES[name].make(dims), item)
        assert all(value.is_cuda for value in out.values())
        out = {key: value.cpu() for key, value in out.items()}
    if not name.startswith("Rand"):  # MONAI draws some random numbers on the device
        assert_same(out, expected, atol=1e-4)


@every
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64"])
def test_image_types(name, dtype):
    for kind in KINDS:
        out = call(name, RECIPES[name].make(2), make_item(2, kind, dtype))
        assert all(np.isfinite(np.asarray(v, float)).all() for k, v in out.items() if not k.startswith("points"))


NUMPY_TYPES = ["?", "i1", "u2", "u4", "u8", ">i2", ">u2", ">i8", ">f2", ">f4", ">f8", "g"]
TORCH_TYPES = [torch.bool, torch.int8, *WIDER, torch.bfloat16]
GRIDS = ("image", "information", "tiers", "coords")  # what lies on the voxels


def changed(name: str, item: dict) -> dict:
    """What is new or changed among the outputs, as doubles, NaN as -1."""
    out = call(name, RECIPES[name].make(2), item)
    new = {key: value for key, value in out.items() if value is not item.get(key)}
    arrays = {key: np.asarray(value).astype(float) for key, value in new.items() if not torch.is_tensor(value)}
    return {key: torch.as_tensor(value).double().nan_to_num(-1) for key, value in (new | arrays).items()}


@every
@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, *TORCH_TYPES], ids=str)
def test_any_type_of_real_numbers(name, dtype):
    """All types give what int32 or float32 gives."""
    plain = {key: np.floor(value) if key in GRIDS else value for key, value in make_item(2, "numpy").items()}
    of_torch = isinstance(dtype, torch.dtype)
    truth, floating = dtype in ("?", torch.bool), dtype.is_floating_point if of_torch else np.dtype(dtype).kind == "f"
    if truth:
        plain |= {"image": plain["image"] > 50, "information": plain["information"] > 2}

    def item(other) -> dict:
        arrays = {}
        for key, value in plain.items():
            kept = key not in GRIDS or (truth and value.max() > 1)  # other guides are no truth values
            array = torch.as_tensor(value) if of_torch else value
            arrays[key] = array if kept else array.to(other) if of_torch else array.astype(other)
        return arrays

    usual = {(True, True): torch.float32, (True, False): torch.int32, (False, True): "f4", (False, False): "i4"}
    out, expected = (changed(name, item(each)) for each in (dtype, usual[of_torch, floating]))
    # an output of half the precision, and of the double one, in which noise is drawn
    coarse = {torch.bfloat16: 0.5, ">f2": 0.1, ">f8": 0.05, "g": 0.05, "u8": 0.05}
    coarse |= {narrow: 0.05 for narrow, wider in WIDER.items() if wider == torch.float64}
    assert_same(out, expected, atol=coarse.get(dtype, 1e-4))


@every
@pytest.mark.parametrize("order", ["negative", "fortran", "read-only"])
def test_any_order_in_memory(name, order):
    item = make_item(2, "numpy")
    expected = call(name, RECIPES[name].make(2), item)
    for key in GRIDS:
        value = item[key]
        if order == "negative":
            value = value[..., ::-1].copy()[..., ::-1]
        elif order == "fortran":
            value = np.asfortranarray(value)
        else:
            value.flags.writeable = False
        item[key] = value
    assert_same(call(name, RECIPES[name].make(2), item), expected)


@every
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda x: x[:, :0], ValueError),
        (lambda x: x[0, 0], ValueError),
        (lambda x: x * 1j, TypeError),
        (lambda x: x.tolist(), TypeError),
        (lambda x: None, TypeError),
        (lambda x: x.numpy().astype(str), TypeError),
        (lambda x: x.numpy().astype(object), TypeError),
    ],
    ids=["empty", "flat", "complex", "list", "None", "text", "objects"],
)
def test_what_is_no_image_is_refused_by_name(name, change, error):
    item = make_item()
    key = next(key for key in RECIPES[name].needs if key in GRIDS)
    with pytest.raises(error, match=r"^`.*` must be "):
        call(name, RECIPES[name].make(2), item | {key: change(item[key])})


@every
@both_dims
@pytest.mark.parametrize("kind", KINDS)
def test_without_metadata_plain_tensors_give_plain_tensors(name, dims, kind):
    item, transform = make_item(dims, kind), RECIPES[name].make(dims)
    expected = call(name, transform, item)
    try:
        set_track_meta(False)
        out = call(name, transform, item)
    finally:
        set_track_meta(True)
    assert_same(out, expected, atol=1e-3)  # paired views then have no closed form for affine chains
    if kind != "MetaTensor":
        assert not any(isinstance(value, MetaTensor) for value in out.values())


@every
def test_repr_shows_the_settings(name):
    text = repr(RECIPES[name].make(2))
    assert text.startswith(f"{name}(")
    assert " at 0x" not in text
    for setting in SETTINGS[name.removesuffix("d")]:
        assert setting in text


SETTINGS = {
    "AssignPixdim": ("pixdim=", "0.5", "origin="),
    "BodyMask": ("threshold='otsu'",),
    "CoordinateMap": ("world=True",),
    "InformationMap": ("window=3", "num_bins=32", "value_range=None"),
    "InformationTiers": ("thresholds=None", "quantiles=(0.33"),
    "LabelChannels": ("num_classes=3", "bits=None"),
    "LandmarkHeatmap": ("sigma=2.0", "stride=2"),
    "ModalityPreset": ("modality='mr'", "lower=0.5", "upper=99.5"),
    "PointLabels": ("radius=2.0",),
    "RandIntensityCurve": ("knots=6", "prob=1.0"),
    "RandPairedViews": ("roi_size=", "10", "RandAffine(", "num_points=7", "RandGaussianNoise(", "mode='continuous'"),
    "RandTierIntensity": ("mode='blend'", "sigma=4.0", "RandGaussianNoise(prob=0.5"),
}


@pytest.mark.parametrize("name", ["RandIntensityCurve", "RandTierIntensity"])
def test_probability_is_that_of_monai(name):
    for transform in (RECIPES[name].make(2), RECIPES[f"{name}d"].make(2)):
        assert isinstance(transform, RandomizableTransform)
        transform.prob = 0.0
        key = "image" if isinstance(transform, MapTransform) else "out0"
        each = f"{name}d" if isinstance(transform, MapTransform) else name
        item = make_item()
        assert torch.equal(call(each, transform, item)[key], item["image"])
        assert not transform._do_transform
        transform.prob = 1.0
        assert not torch.equal(call(each, transform, item)[key], item["image"])
        assert transform._do_transform


@every
def test_pickle_and_deepcopy(name):
    item, transform = make_item(), RECIPES[name].make(2)
    out = call(name, transform, item)
    assert_same(call(name, pickle.loads(pickle.dumps(transform)), item), out)
    assert_same(call(name, copy.deepcopy(transform), item), out)


@every
def test_same_seed_same_output(name):
    item, transform = make_item(), RECIPES[name].make(2)
    first = call(name, transform, item, seed=1)
    following = call(name, transform, item, seed=None)
    np.random.seed(3)  # the global state plays no part
    assert_same(call(name, transform, item, seed=1), first)
    assert_same(call(name, RECIPES[name].make(2), item, seed=1), first)
    assert_same(call(name, transform, item, seed=None), following)
    is_random = name.startswith("Rand")
    assert differ(following, first) == is_random
    assert differ(call(name, transform, item, seed=2), first) == is_random


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("RandPaired")])
@both_dims
def test_the_two_views_differ(name, dims):
    out = call(name, RECIPES[name].make(dims), make_item(dims))
    prefix = "image_" if name.endswith("d") else ""
    assert not torch.equal(out[f"{prefix}view1"], out[f"{prefix}view2"])
    assert not torch.equal(out["coords_view1"], out["coords_view2"])


@dictionary
def test_missing_keys(name):
    recipe, item = RECIPES[name], make_item()
    for key in recipe.needs:
        with pytest.raises(KeyError, match=key):
            recipe.make(2)({k: item[k] for k in recipe.needs if k != key})
    keys, present = (*recipe.keys, "absent"), {k: item[k] for k in recipe.needs}
    with pytest.raises(KeyError, match="absent"):
        recipe.make(2, keys=keys)(present)
    out = recipe.make(2, keys=keys, allow_missing_keys=True)(present)
    assert not any(str(key).startswith("absent") for key in out)


# a lazy Compose forgets the mode "nearest", without which a label image is none
@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("d") and n != "LabelChannelsd"])
@both_dims
def test_lazy_compose(name, dims):
    recipe, item = RECIPES[name], make_item(dims, "MetaTensor")
    images = [key for key in recipe.needs if key not in ("tiers", "landmarks", "point_classes")]
    before = [Spacingd(images, pixdim=[1.25] * dims), Rotated(images, angle=0.3 if dims == 2 else (0.3, 0, 0))]
    resampled = Compose(before, lazy=True)({key: item[key] for key in images})
    item["tiers"] = (resampled[images[0]][:1] > resampled[images[0]].mean()).to(torch.uint8)
    resampled = {key: resampled.get(key, item[key]) for key in recipe.needs}
    item = {key: item[key] for key in recipe.needs}
    lazy = Compose([*before, recipe.make(dims)], lazy=True).set_random_state(seed=0)
    eager = Compose([*before, recipe.make(dims)]).set_random_state(seed=0)
    assert_same(lazy(item), eager.transforms[-1](resampled), atol=1e-3)


@pytest.mark.parametrize("name", [n for n in NAMES if not RECIPES[n].gives_metatensor])  # those read no intensities
@both_dims
def test_pending_operations_are_applied_to_a_copy(name, dims):
    recipe, keys = RECIPES[name], ("image", "information")
    rotated = Rotated(keys, angle=0.3 if dims == 2 else (0.3, 0, 0))
    item = make_item(dims, "MetaTensor")
    pending, eager = ({**item, **rotated({key: item[key] for key in keys}, lazy=lazy)} for lazy in (True, False))
    number = {key: len(pending[key].pending_operations) for key in keys}
    out, expected = (call(name, recipe.make(dims), source) for source in (pending, eager))
    new = {key for key in out if out[key] is not pending.get(key)}
    assert_same({key: out[key] for key in new}, {key: expected[key] for key in new}, atol=1e-3)
    assert number == {key: len(pending[key].pending_operations) for key in keys} == dict.fromkeys(keys, 1)


class Counted(Transform):
    """A deterministic step that counts its calls, by item."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, item: dict) -> dict:
        self.calls.append(float(item["image"].sum()))
        return item


def cached(name: str) -> tuple[SeededDataset, Counted]:
    counted = Counted()
    chain = [T.InformationMapd("image", window=3), T.InformationTiersd(), counted, RECIPES[name].make(2)]
    items = [{"image": make_item(seed=seed)["image"], "index": seed} for seed in range(4)]
    dataset = CacheDataset(items, Compose(chain), num_workers=None, progress=False)
    return SeededDataset(dataset, seed=1), counted


def served(dataset, **options) -> dict[int, dict]:
    """The items that a loader serves, by index."""
    items = [item for batch in DataLoader(dataset, **{"collate_fn": list, **options}) for item in batch]
    return {item.pop("index"): item for item in items}


@random_dictionary
def test_workers_and_ranks_neither_repeat_nor_change_an_item(name):
    dataset, counted = cached(name)
    assert len(counted.calls) == len(set(counted.calls)) == 4
    reference = served(dataset)
    assert len(counted.calls) == 4  # the deterministic prefix ran once an item
    assert reference.keys() == set(range(4))
    assert differ(reference[0], reference[1])
    runs = [
        served(dataset, num_workers=2, batch_size=2),
        served(dataset, shuffle=True),
        served(Subset(dataset, [0, 2])) | served(Subset(dataset, [1, 3])),
    ]
    for run in runs:
        assert run.keys() == reference.keys()
        for index in reference:
            assert_same(run[index], reference[index])
    dataset.set_epoch(1)
    assert all(differ(item, reference[index]) for index, item in served(dataset).items())


@random_dictionary
def test_equal_images_get_different_random_numbers_in_every_worker(name):
    item = make_item()
    items = [{key: item[key] for key in RECIPES[name].needs} | {"index": index} for index in range(4)]
    dataset = SeededDataset(CacheDataset(items, Compose([RECIPES[name].make(2)]), progress=False))
    outs = served(dataset, num_workers=2)
    assert all(differ(outs[i], outs[j]) for i in range(4) for j in range(i))
