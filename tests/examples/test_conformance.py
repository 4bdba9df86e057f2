"""Every example bundle against MONAI's bundle specification and the rules of its model zoo; new ones are found here."""

from __future__ import annotations

import configparser
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from monai.bundle.reference_resolver import ReferenceResolver
from monai.data import load_net_with_metadata

import monai_infoaug
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.handlers import load_weights
from tests.examples.bundle_runs import EXAMPLES, complete, workflow

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT.parent / "shared" / "schema" / "meta_schema_20240725.json"
BUNDLES = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")
WORKFLOWS = {"train": ["train"], "eval": ["train", "evaluate"], "infer": ["train", "inference"]}

# settings of a run that takes a second or two on images of 1 mm; windows of 32 voxels slide along one axis
SIZE = {2: (72, 72), 3: (40, 32, 32)}
QUICK = {
    "working_pixdim": 1.0,
    "batch_size": 2,
    "max_epochs": 1,
    "val_interval": 1,
    "val_images": 1,
    "num_workers": 0,
}
LABELS = ("a", "b")
SMALL = {
    "landmark_detection": {
        "pixdim": 1.0,
        "image_size": [72, 72],
        "features": [4] * 5,
        "labels": list(LABELS),
        "draws": 4,
    },
    "landmark_pretraining": {"pixdim": 1.0, "view_size": [64, 64], "features": [4] * 5, "num_points": 20},
    "landmark_matching_3d": {
        "num_points": 20,
        "view_size": [32] * 3,
        "global_view_size": [16] * 3,
        "local_features": [8] * 2,
        "global_features": [8] * 3,
        "patch_radius": 4,
        "repeats": 1,
    },
}
SEGMENTATION = {
    "features": [4] * 6,
    "roi_size": [32] * 3,
    "widths": [8, 8],
    "draws": 4,
    "test_every": None,
    "val_every": None,
}
SMALL |= {
    "segmenter_segmentation": {
        "decoder": "mask",
        "patch_size": 8,
        "hidden_size": 16,
        "num_layers": 2,
        "roi_size": [32, 32],
        "pixdim": 1.0,
        "label_bits": [1, 2],
        "classes": list(LABELS),
        "draws": 4,
        "test_every": None,
        "val_every": None,
    },
    "source_free_adaptation": {"features": [4] * 6, "roi_size": [32] * 3, "draws": 4, "confidence_epochs": 1},
    "patch_contrast_adaptation": {"features": [4] * 6, "roi_size": [32] * 3, "draws": 4, "widths": [8, 8]},
    "label_efficient_segmentation": SEGMENTATION | {"number": 50, "pretrain_epochs": 1},
    "local_contrast_segmentation": SEGMENTATION | {"global_epochs": 1, "local_epochs": 1, "global_batch_size": 2},
    "attention_guided_segmentation": SEGMENTATION
    | {"coarse_features": [4] * 6, "coarse_epochs": 1, "contrast_epochs": 1, "contrast_batch_size": 2},
}

NOTHING_DROPPED = {"segmenter_segmentation": {"drop_path": 0.0, "decoder": "linear"}}
STAGES = [f"{name}#trainer" for name in ("coarse", "contrast", "global", "local", "pretrain", "confidence", "train")]
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
missing = [
    name for name in ("ignite", "tensorboard", "matplotlib", "tqdm", "scipy", "einops") if find_spec(name) is None
]
needs_train = pytest.mark.skipif(bool(missing), reason=f"workflows need {missing}: install monai_infoaug[train]")


def config(bundle: Path, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / f"{name}.json" for name in names])
    parser.read_meta(bundle / "configs" / "metadata.json")
    return parser


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def exported(bundle: Path) -> str:
    """The network that gives one tensor."""
    return "descriptor" if "descriptor" in config(bundle, "train") else "network_def"


def segments(bundle: Path) -> bool:
    return "evaluation_labels" in config(bundle, "train", "evaluate")


def spatial_dims(bundle: Path) -> int:
    return len(metadata(bundle)["network_data_format"]["inputs"]["image"]["spatial_shape"])


def pieces(content: object) -> Iterator[tuple[str, str]]:
    """Every string of a configuration with the key it stands at."""
    if isinstance(content, (dict, list)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from [(str(key), value)] if isinstance(value, str) else pieces(value)


@every_bundle
def test_files(bundle):
    there = [str(path.relative_to(bundle)) for path in [*bundle.glob("*"), *bundle.glob("*s/*")] if path.is_file()]
    names = ("metadata", "train", "evaluate", "inference")
    assert {"LICENSE", "docs/README.md", "configs/logging.conf", *(f"configs/{n}.json" for n in names)} <= set(there)
    assert [path for path in there if path not in ("LICENSE", "docs/README.md") and path != path.lower()] == []
    assert all((bundle / path).stat().st_size < 25e6 for path in there)  # what the model zoo takes
    logging = configparser.ConfigParser()
    logging.read(bundle / "configs" / "logging.conf")
    assert {"loggers", "handlers", "formatters"} <= set(logging)


@every_bundle
@pytest.mark.skipif(not SCHEMA.exists(), reason="MONAI's metadata schema not at hand")
def test_metadata_schema(bundle, tmp_path):
    pytest.importorskip("jsonschema", reason="it checks the schema")
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=shutil.copy(SCHEMA, tmp_path))


@every_bundle
@pytest.mark.skipif(not (ROOT / "constraints.txt").exists(), reason="not in a checkout")
def test_metadata_versions(bundle):
    lines = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    tested = {name.lower().replace("_", "-"): version for name, version in lines}
    meta = metadata(bundle)
    assert [meta[f"{name}_version"] for name in ("monai", "pytorch", "numpy")] == [
        tested[name] for name in ("monai", "torch", "numpy")
    ]
    required = meta["required_packages_version"]
    assert required.pop("monai_infoaug") == monai_infoaug.__version__
    assert required == {name: tested[name.lower().replace("_", "-")] for name in required}
    assert meta["version"] in meta["changelog"]
    assert meta["name"]


@every_bundle
@needs_train
@pytest.mark.parametrize("names", WORKFLOWS.values(), ids="+".join)
def test_names_in_configs_exist(bundle, names):
    parser = config(bundle, *names)
    strings = list(pieces(parser.config))
    targets = {value for key, value in strings if key == "_target_"}
    assert targets
    assert [target for target in targets if "." not in target or locate(target) is None] == []
    referenced = {ref for _, value in strings for ref in ReferenceResolver.match_refs_pattern(value)}
    assert referenced
    assert [ref for ref in referenced if ref not in parser] == []


@every_bundle
def test_model_zoo_keys(bundle):
    train = ["bundle_root", "device", "dataset_dir", "output_dir", "network_def", "val_interval"]
    train += [f"train#{key}" for key in ("trainer", "trainer#max_epochs", "dataset", "dataset#data", "handlers")]
    train += [f"validate#{key}" for key in ("evaluator", "handlers", "dataset", "key_metric", "preprocessing")]
    infer = ["bundle_root", "device", "network_def", "inferer", "output_dir", "preprocessing", "dataset", "evaluator"]
    for names, keys in ((["train"], train), (["train", "inference"], infer)):
        parser = config(bundle, *names)
        assert [key for key in keys if key not in parser] == []
        assert "initialize" in parser
        assert "run" in parser
        # a bundle runs where it lies, and writes there unless told otherwise
        assert parser["bundle_root"] == "."
        assert "@bundle_root" in parser["output_dir"]
        assert [value for _, value in pieces(parser.config) if re.match(r"/(home|root|work/|Users)|~", value)] == []


def shape(pattern: list, n: int) -> list[int]:
    return [eval(str(length), {"n": n}) for length in pattern]


@every_bundle
@torch.no_grad()
def test_output_is_as_the_metadata_say(bundle):
    if "einops" in metadata(bundle)["required_packages_version"]:
        pytest.importorskip("einops", reason="the network needs the extra train")
    meta, train = (str(bundle / "configs" / f"{name}.json") for name in ("metadata", "train"))
    verify_net_in_out(net_id=exported(bundle), meta_file=meta, config_file=train, device="cpu")
    formats = metadata(bundle)["network_data_format"]
    given, expected = formats["inputs"]["image"], formats["outputs"]["pred"]
    network = config(bundle, "train").get_parsed_content(exported(bundle)).eval()
    for n in (1, 2) if spatial_dims(bundle) == 2 else (1,):
        low, high = given["value_range"]
        image = low + (high - low) * torch.rand(1, given["num_channels"], *shape(given["spatial_shape"], n))
        pred = network(image)
        assert list(pred.shape[1:]) == [expected["num_channels"], *shape(expected["spatial_shape"], n)]
        low, high = expected["value_range"] or (-np.inf, np.inf)  # logits have no bounds
        assert low <= pred.min() < pred.max() <= high


@pytest.fixture(scope="module", params=BUNDLES, ids=lambda path: path.name)
def trained(request, tmp_path_factory):
    """A bundle, trained for an epoch on random images, and its settings: the test pattern of the model zoo."""
    bundle, folder = request.param, tmp_path_factory.mktemp(request.param.name)
    dims, generator = spatial_dims(bundle), np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(3):
        array = generator.integers(0, 255, SIZE[dims], np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(array), folder / "images" / f"{i}{'.png' if dims == 2 else '.nii.gz'}")
    points = {str(i): [[10.0] * dims, [30.0, 26.0, 20.0][:dims]] for i in range(3)}
    table = str(folder / "table.csv")
    write_landmarks(table, LandmarkTable(LABELS, points, space="LPS"))
    template = next((folder / "images").glob("0.*"))
    (folder / "labels").mkdir()
    for image in (folder / "images").iterdir():  # half of the brightest are of each class
        bright = sitk.ReadImage(image) > 200
        sitk.WriteImage(bright + (bright & (sitk.ReadImage(image) > 228)), folder / "labels" / image.name)
    settings = {
        "bundle_root": str(bundle),
        "dataset_dir": str(folder / "images"),
        "output_dir": str(folder / "out"),
    }
    parser = config(bundle, "train")
    settings |= {key: value for key, value in QUICK.items() if key in parser} | SMALL.get(bundle.name, {})
    annotated = {"template": str(template), "template_landmarks": table}
    settings |= {"labels_dir": str(folder / "labels")} if "labels_dir" in parser else {}
    settings |= {"landmarks": table} if "landmarks" in parser else {}
    settings |= {f"source_{name}": str(folder / name) for name in ("images", "labels") if f"source_{name}" in parser}
    if "source" in parser:  # the weights to start from
        parser.update(settings)
        settings["source"] = str(folder / "source.pt")
        torch.save({"network": parser.get_parsed_content("network_def").state_dict()}, settings["source"])
    assert [key for key in settings if key not in parser] == []
    run(bundle, "train", settings)
    return bundle, settings, annotated


def run(bundle: Path, kind: str, settings: dict) -> None:
    flow = complete(workflow(bundle.name, *WORKFLOWS[kind], kind=kind, **settings))
    assert torch.get_num_threads() == 1  # no more than the process may use
    if kind != "eval":  # as in the model zoo: `evaluate.json` on top of `train.json` is no workflow of its own
        assert flow.check_properties() == []


def meet(rank: int, count: int, port: int) -> None:
    """What torchrun tells each of several processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


def run_as_one_of(rank: int, port: int, *arguments) -> None:
    meet(rank, 2, port)
    run(*arguments)


def train_and_report(rank: int, count: int, port: int, bundle: str, settings: dict, report: Path) -> None:
    """One of several processes, or the only one: the losses, the network and what validation found."""
    from ignite.engine import Events

    several = ["multi_gpu_train"] if count > 1 else []
    if count > 1:
        meet(rank, count, port)
    torch.set_num_threads(1)
    flow = workflow(bundle, "train", *several, **settings)
    losses = []
    try:
        flow.initialize()
        for name in STAGES:
            if name in flow.parser:
                trainer = flow.parser.get_parsed_content(name)
                trainer.add_event_handler(
                    Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
                )
        flow.run()
        losses = torch.tensor(losses, dtype=torch.float64)
        if count > 1:
            torch.distributed.all_reduce(losses)
        state = flow.parser.get_parsed_content("network_def").state_dict()
        metrics = flow.parser.get_parsed_content("validate#evaluator").state.metrics
        torch.save({"losses": losses / count, "network": state, "metrics": metrics}, f"{report}.{rank}")
    finally:
        flow.finalize()  # the other process must not wait for this one


@pytest.fixture(scope="module")
def two_processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


@pytest.mark.slow
@needs_train
def test_two_processes_train_as_one(trained, two_processes, free_port, tmp_path):
    bundle, settings, _ = trained
    results, epochs = [], 20 if bundle.name == "landmark_pretraining" else 2
    for count in (1, 2):
        # at a higher rate or in bfloat16 differences of rounding grow with every step, as they do from stage to stage
        own = settings | {"max_epochs": epochs, "val_interval": epochs, "val_images": 3, "learning_rate": 5e-5}
        own |= {"amp": False} | NOTHING_DROPPED.get(bundle.name, {}) | ({"draws": 2} if "draws" in own else {})
        own |= {"output_dir": str(tmp_path / f"{count}"), "cache_dir": str(tmp_path / "cache") if count > 1 else None}
        given = (count, free_port(), bundle.name, own, tmp_path / f"of{count}")
        if count == 1:
            train_and_report(0, *given)
        else:
            for process in [two_processes.apply_async(train_and_report, (rank, *given)) for rank in range(count)]:
                process.get()
        results.append([torch.load(f"{given[-1]}.{rank}", weights_only=True) for rank in range(count)])
    (one,), (first, second) = results
    assert len(set(one["losses"].tolist())) == len(first["losses"]) >= epochs
    torch.testing.assert_close(
        first["losses"], one["losses"], rtol=1e-5 if bundle.name.startswith("landmark") else 1e-4, atol=0
    )
    torch.testing.assert_close(second["network"], first["network"], rtol=0, atol=0)
    assert first["metrics"] == second["metrics"] == pytest.approx(one["metrics"], rel=1e-3)
    written = [[path.name for path in (tmp_path / f"{count}").rglob("*") if path.is_file()] for count in (1, 2)]
    assert len(written[0]) == len(written[1])  # by one process alone


@needs_train
def test_train(trained):
    _, settings, _ = trained
    checkpoint = torch.load(Path(settings["output_dir"], "checkpoint.pt"), weights_only=True)
    assert checkpoint["trainer"]["epoch"] == 1
    assert all(weight.isfinite().all() for weight in checkpoint["network"].values())


def of_kind(trained, kind: str) -> tuple[Path, dict]:
    """A bundle, and the settings to evaluate it or to find landmarks or segment with it."""
    bundle, settings, annotated = trained
    folder = Path(settings["dataset_dir"])
    if kind == "eval":
        annotated = annotated | {
            "evaluation_dir": settings["dataset_dir"],
            "evaluation_labels": str(folder.parent / "labels"),
            "landmarks": annotated["template_landmarks"],
            "part": None,
        }
    parser = config(bundle, *WORKFLOWS[kind])
    annotated = annotated | ({"suffix": ".png"} if spatial_dims(bundle) == 2 else {})
    return bundle, settings | {key: value for key, value in annotated.items() if key in parser}


@pytest.mark.slow
@needs_train
@pytest.mark.parametrize(("kind", "output"), [("eval", "evaluation"), ("infer", "inference")])
def test_evaluate_and_infer(trained, two_processes, free_port, kind, output, tmp_path):
    bundle, settings = of_kind(trained, kind)
    run(bundle, kind, settings)
    results = Path(settings["output_dir"], output)
    given = (free_port(), bundle, kind, settings | {"results_dir": str(tmp_path)})
    for process in [two_processes.apply_async(run_as_one_of, (rank, *given)) for rank in range(2)]:
        process.get()
    check_same(tmp_path, results)
    if segments(bundle):
        check_segmentation(results, settings)
        return
    (table,) = results.glob("landmarks*.csv")
    found = read_landmarks(table).to("LPS")
    assert set(found.points) == {"0", "1", "2"}
    assert found.labels == LABELS
    if "template" in settings:
        truth = read_landmarks(settings["template_landmarks"]).points["0"]
        np.testing.assert_allclose(found.points["0"], truth, atol=4)  # it finds itself, to a cell or two
    assert all(np.isfinite(points).all() for points in found.points.values())


def rows_of(path: Path) -> tuple[list[str], list[float]]:
    """Sorted rows of a table without their fractions, and these."""
    rows, fraction = sorted(path.read_text().splitlines()), r"\d+\.\d+"
    return [re.sub(fraction, "", row) for row in rows], [float(x) for row in rows for x in re.findall(fraction, row)]


def check_same(folder: Path, other: Path) -> None:
    """Several processes wrote what one did: tables up to the order of their rows, images to the voxel."""
    names = [sorted(path.name for path in f.iterdir()) for f in (folder, other)]
    assert names[0] == names[1]
    assert len(names[0]) > 1
    for path in folder.iterdir():
        if path.suffix in (".csv", ".txt"):
            (text, numbers), (other_text, other_numbers) = rows_of(path), rows_of(other / path.name)
            assert text == other_text
            assert numbers == pytest.approx(other_numbers, rel=1e-5)
        elif path.name != "landmarks.png":
            images = (sitk.GetArrayFromImage(sitk.ReadImage(f / path.name)) for f in (folder, other))
            np.testing.assert_array_equal(*images)


def check_segmentation(results: Path, settings: dict) -> None:
    """A mask an image on the image's grid, or Dice by image and class."""
    images = {path.name: sitk.ReadImage(path) for path in Path(settings["dataset_dir"]).iterdir()}
    if results.name == "inference":
        masks = {path.name: sitk.ReadImage(path) for path in results.iterdir()}
        assert masks.keys() == images.keys()
        for name, mask in masks.items():
            assert mask.GetSize() == images[name].GetSize()
            assert mask.GetOrigin() == images[name].GetOrigin()
            assert sitk.GetArrayFromImage(mask).max() <= (3 if settings.get("label_bits") else 2)
    else:
        header, *rows = (results / "mean_dice_raw.csv").read_text().splitlines()
        assert header == "filename,class0,class1,mean"
        assert len(rows) == len(images)
        assert (results / "hausdorff_95_mm_raw.csv").exists()


def export_arguments(bundle: Path, settings: dict) -> dict:
    return {
        "net_id": exported(bundle),
        "ckpt_file": str(Path(settings["output_dir"], "checkpoint.pt")),
        "key_in_ckpt": "network",
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "train.json"),
        **settings,
    }


def another_size(bundle: Path) -> list[int]:
    dims = spatial_dims(bundle)
    if segments(bundle):
        return [48, 32, 64][:dims]
    return [length + odd for length, odd in zip(SIZE[dims], (7, 0, 5), strict=False)]


@pytest.fixture
def network(trained) -> torch.nn.Module:
    """With the weights of the checkpoint."""
    bundle, settings, _ = trained
    parser = config(bundle, "train")
    parser.update(settings)
    load_weights(parser.get_parsed_content("network_def"), Path(settings["output_dir"], "checkpoint.pt"))
    return parser.get_parsed_content(exported(bundle)).eval()


@needs_train
@torch.no_grad()
def test_export(trained, network, tmp_path):
    bundle, settings, _ = trained
    what, given = export_arguments(bundle, settings), metadata(bundle)
    ckpt_export(filepath=str(tmp_path / "network.ts"), **what)
    exported, meta, extra = load_net_with_metadata(str(tmp_path / "network.ts"), more_extra_files=["train.json"])
    assert {key: meta[key] for key in given} == given
    assert json.loads(extra["train.json"]) == json.loads(Path(what["config_file"]).read_text(encoding="utf-8"))
    size = another_size(bundle)
    image = torch.rand(2, given["network_data_format"]["inputs"]["image"]["num_channels"], *size)
    torch.testing.assert_close(exported(image), network(image), atol=1e-5, rtol=0)


@needs_train
def test_export_of_another_checkpoint_is_refused(trained, tmp_path):
    """Rather than silently giving the untrained network."""
    what = export_arguments(*trained[:2]) | {"ckpt_file": str(tmp_path / "other.pt")}
    torch.save({"network": {"other": torch.zeros(1)}}, what["ckpt_file"])
    with pytest.raises(RuntimeError, match="Missing key"):
        ckpt_export(filepath=str(tmp_path / "network.ts"), **what)


@needs_train
@torch.no_grad()
def test_onnx_export(trained, network, tmp_path):
    pytest.importorskip("onnx", reason="onnx writes the file")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime reads the file")
    bundle, settings, _ = trained
    channels, dims = metadata(bundle)["network_data_format"]["inputs"]["image"]["num_channels"], spatial_dims(bundle)
    dynamic = {"input_names": ["image"], "dynamic_axes": {"image": [0, *range(2, dims + 2)]}, "dynamo": False}
    onnx_export(
        filepath=str(tmp_path / "network.onnx"),
        use_trace=True,
        converter_kwargs=dynamic,
        **export_arguments(bundle, settings),
    )
    image = torch.rand(1, channels, *another_size(bundle))
    (got,) = runtime.InferenceSession(str(tmp_path / "network.onnx")).run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), network(image), atol=1e-4, rtol=0)  # logits are no unit vectors
