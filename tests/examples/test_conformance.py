"""Every example bundle against MONAI's bundle specification and the rules of its model zoo; new ones are found here.

A bundle with overlays is looked at with each of them, and without any. What runs, runs with each of them.
"""

from __future__ import annotations

import configparser
import inspect
import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from pydoc import locate
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from monai.bundle.reference_resolver import ReferenceResolver
from monai.data import load_net_with_metadata

import monai_infoaug
from monai_infoaug.bundles import bundle_overlays
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.handlers import load_weights
from tests.examples.bundle_runs import EXAMPLES, complete, workflow

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT.parent / "shared" / "schema" / "meta_schema_20240725.json"
BUNDLES = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")
THEN = {"train": [], "eval": ["evaluate"], "infer": ["inference"]}  # kind of a workflow to what it adds to the training


class Case(NamedTuple):
    """A bundle, and one of its overlays, if it has any."""

    bundle: Path
    overlay: str | None

    def __str__(self) -> str:
        return f"{self.bundle.name}-{self.overlay}" if self.overlay else self.bundle.name

    def names(self, *then: str) -> list[str]:
        """Configurations: ``inference.json`` alone, or ``train.json``, the overlay, then others."""
        return [*then] if then == ("inference",) else ["train", *([self.overlay] if self.overlay else []), *then]

    def files(self, *then: str) -> list[str]:
        return [str(self.bundle / "configs" / f"{name}.json") for name in self.names(*then)]


CASES = [Case(bundle, overlay) for bundle in BUNDLES for overlay in (None, *bundle_overlays(bundle))]
RUN = [case for case in CASES if case.overlay or not bundle_overlays(case.bundle)]  # with all stages

# settings of a run that takes a second or two on images of 1 mm; windows of 32 voxels slide along one axis
SIZE = {2: (72, 72), 3: (40, 32, 32)}
QUICK = {"working_pixdim": 1.0, "batch_size": 2, "num_workers": 0}
# at a higher rate or in bfloat16 differences of rounding would grow with every step, as they do from stage to stage
ALIKE = {"max_epochs": 2, "val_interval": 2, "val_images": 3, "learning_rate": 5e-5, "amp": False}
LABELS = ("a", "b")
UNET = {"modality": "xray", "features": [2] * 6, "roi_size": [32] * 3, "samples_per_epoch": 2}  # all is foreground
SEGMENTATION = UNET | {"widths": [8, 8], "test_every": None, "val_every": None}
PLANE = {"spatial_dims": 2, "pixdim": 1.0, "roi_size": [32, 32]}
SMALL = {
    "landmark_detection": {
        "pixdim": 1.0,
        "image_size": [72, 72],
        "features": [4] * 5,
        "labels": list(LABELS),
        "samples_per_epoch": 2,
    },
    "landmark_pretraining": {
        "pixdim": 1.0,
        "view_size": [64, 64],
        "features": [4] * 5,
        "num_points": 20,
        "max_epochs": 6,
        "val_interval": 6,
    },
    "landmark_matching_3d": {
        "num_points": 20,
        "view_size": [32] * 3,
        "global_view_size": [16] * 3,
        "local_features": [8] * 2,
        "global_features": [8] * 3,
        "patch_radius": 4,
        "repeats": 1,
    },
    "source_free_adaptation": UNET | PLANE | {"confidence_epochs": 1},
    "patch_contrast_adaptation": UNET | {"widths": [8, 8]},
    "segmentation-label_efficient": SEGMENTATION | {"pixels_per_image": 50, "pretrain_epochs": 1},
    "segmentation-local_contrast": SEGMENTATION
    | PLANE
    | {"global_epochs": 1, "local_epochs": 1, "global_batch_size": 2},
    "segmentation-attention_guided": SEGMENTATION
    | PLANE
    | {"coarse_features": [2] * 6, "coarse_epochs": 1, "contrast_epochs": 1, "contrast_batch_size": 2},
    "segmentation-consistency": UNET | PLANE | {"test_every": None, "val_every": None},
    "segmentation-segmenter": PLANE
    | {
        "decoder": "mask",
        "patch_size": 8,
        "hidden_size": 16,
        "num_layers": 2,
        "drop_path": 0.0,  # each process draws for itself what it leaves out
        "network_def#decoder_dropout": 0.0,
        "label_bits": [1, 2],
        "classes": list(LABELS),
        "samples_per_epoch": 2,
        "test_every": None,
        "val_every": None,
    },
}
STAGES = [f"{name}#trainer" for name in ("coarse", "contrast", "global", "local", "pretrain", "confidence", "train")]
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
missing = [
    name for name in ("ignite", "tensorboard", "matplotlib", "tqdm", "scipy", "einops") if find_spec(name) is None
]
needs_train = pytest.mark.skipif(bool(missing), reason=f"workflows need {missing}: install monai_infoaug[train]")


def config(case: Case, *then: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(case.files(*then))
    parser.read_meta(case.bundle / "configs" / "metadata.json")
    return parser


def of_own_network(cases: list[Case]) -> list[Case]:
    """The first of each network: an overlay may leave that of its bundle as it is."""
    first = {(case.bundle, str(config(case)["network_def"])): case for case in reversed(cases)}
    return [case for case in cases if case in first.values()]


own_network = pytest.mark.parametrize("trained", of_own_network(RUN), ids=str, indirect=True)


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def exported(case: Case) -> str:
    """The network that gives one tensor."""
    return "descriptor" if "descriptor" in config(case) else "network_def"


def segments(case: Case) -> bool:
    return "evaluation_labels" in config(case, "evaluate")


def spatial_dims(case: Case) -> int:
    """Of the images that it is trained on here."""
    shape = metadata(case.bundle)["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return SMALL[str(case)].get("spatial_dims", len(shape))


def pieces(content: object) -> Iterator[tuple[str, str]]:
    """Every string of a configuration with the key it stands at."""
    if isinstance(content, (dict, list)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from [(str(key), value)] if isinstance(value, str) else pieces(value)


@every_bundle
def test_files(bundle):
    there = [str(path.relative_to(bundle)) for path in [*bundle.glob("*"), *bundle.glob("*s/*")] if path.is_file()]
    names = ("metadata", "train", "evaluate", "inference")
    assert {
        "LICENSE",
        "docs/README.md",
        "docs/data_license.txt",
        "configs/logging.conf",
        *(f"configs/{n}.json" for n in names),
    } <= set(there)
    assert [path for path in there if path not in ("LICENSE", "docs/README.md") and path != path.lower()] == []
    assert all((bundle / path).stat().st_size < 25e6 for path in there)  # what the model zoo takes
    logging = configparser.ConfigParser()
    logging.read(bundle / "configs" / "logging.conf")
    assert {"loggers", "handlers", "formatters"} <= set(logging)


@every_bundle
def test_page(bundle):
    """It has the sections of the model zoo, and what it tells to type is there."""
    page = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    sections = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.S | re.M), re.M)
    assert sections[0] == page.splitlines()[0].removeprefix("# ")
    assert {"Model Overview", "Data", "Training configuration", "Performance", "MONAI Bundle Commands"} < set(sections)
    assert sections[-2:] == ["References", "License"]
    commands = [
        line
        for block in re.findall(r"^```\n(.*?)^```", page.replace("\\\n", " "), re.S | re.M)
        for line in block.splitlines()
    ]
    commands = [shlex.split(line) for line in commands if line.startswith("python -m monai.bundle ")]
    assert {words[3] for words in commands} == {"run", "ckpt_export"}
    for words in commands:
        files = {bundle / name for word in words for name in re.findall(r"configs/\w+\.json", word)}
        known = {key for file in files for key in json.loads(file.read_text(encoding="utf-8"))}
        known |= {"config_file"} | ({*signature(ckpt_export).parameters} if words[3] == "ckpt_export" else set())
        assert {word.removeprefix("--") for word in words if word.startswith("--")} <= known


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


@every_case
@needs_train
@pytest.mark.parametrize("then", [*THEN.values(), ["multi_gpu_train"]], ids=lambda then: "+".join(["train", *then]))
def test_names_in_configs_exist(case, then):
    parser = config(case, *then)
    strings = list(pieces(parser.config))
    targets = {value for key, value in strings if key == "_target_"}
    assert targets
    assert [target for target in targets if "." not in target or locate(target) is None] == []
    referenced = {ref for _, value in strings for ref in ReferenceResolver.match_refs_pattern(value)}
    assert referenced
    assert [ref for ref in referenced if ref not in parser] == []


@every_case
def test_model_zoo_keys(case):
    train = ["bundle_root", "device", "dataset_dir", "output_dir", "network_def", "val_interval"]
    train += [f"train#{key}" for key in ("trainer", "trainer#max_epochs", "dataset", "dataset#data", "handlers")]
    train += [f"validate#{key}" for key in ("evaluator", "handlers", "dataset", "key_metric", "preprocessing")]
    infer = ["bundle_root", "device", "network_def", "inferer", "output_dir", "preprocessing", "dataset", "evaluator"]
    for then, keys in ((THEN["train"], train), (THEN["infer"], infer)):
        parser = config(case, *then)
        assert [key for key in keys if key not in parser] == []
        assert "initialize" in parser
        assert "run" in parser
        # a bundle runs where it lies, and writes there unless told otherwise
        assert parser["bundle_root"] == "."
        assert "@bundle_root" in parser["output_dir"]
        assert [value for _, value in pieces(parser.config) if re.match(r"/(home|root|work/|Users)|~", value)] == []


def shape(pattern: list, n: int) -> list[int]:
    return [eval(str(length), {"n": n}) for length in pattern]


# The metadata speak of the hippocampus, as the defaults do; a Segmenter's are those of radiographs.
HIPPOCAMPUS = {
    "segmentation-segmenter": {
        "spatial_dims": 3,
        "classes": ["anterior", "posterior"],
        "label_bits": "$None",
        "roi_size": [40, 56, 40],
        "patch_size": 8,
    }
}


@pytest.mark.parametrize("case", of_own_network(CASES), ids=str)
@torch.no_grad()
def test_output_is_as_the_metadata_say(case):
    if case.overlay == "segmenter":
        pytest.importorskip("einops", reason="the network needs the extra train")
    meta, settings = case.bundle / "configs" / "metadata.json", HIPPOCAMPUS.get(str(case), {})
    verify_net_in_out(exported(case), str(meta), case.files(), device="cpu", **settings)
    formats = metadata(case.bundle)["network_data_format"]
    given, expected = formats["inputs"]["image"], formats["outputs"]["pred"]
    parser = config(case)
    parser.update(settings)
    network = parser.get_parsed_content(exported(case)).eval()
    for n in (1, 2) if len(given["spatial_shape"]) == 2 else (1,):
        low, high = given["value_range"]
        image = low + (high - low) * torch.rand(1, given["num_channels"], *shape(given["spatial_shape"], n))
        pred = network(image)
        assert list(pred.shape[1:]) == [expected["num_channels"], *shape(expected["spatial_shape"], n)]
        low, high = expected["value_range"] or (-np.inf, np.inf)  # logits have no bounds
        assert low <= pred.min() < pred.max() <= high


class Trained(NamedTuple):
    """What trained a case in one process, and what came of it."""

    case: Case
    settings: dict
    annotated: dict  # settings of a template
    report: Path
    written: int  # files


@pytest.fixture(scope="module", params=RUN, ids=str)
def trained(request, tmp_path_factory):
    """The test pattern of the model zoo: a short training on random images."""
    case, folder = request.param, tmp_path_factory.mktemp(str(request.param))
    dims, generator = spatial_dims(case), np.random.default_rng(0)
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
    out = folder / "out"
    settings = {"bundle_root": str(case.bundle), "dataset_dir": str(folder / "images"), "output_dir": str(out)}
    parser = config(case)
    settings |= QUICK | ALIKE | SMALL[str(case)]
    annotated = {"template": str(template), "template_landmarks": table}
    settings |= {"labels_dir": str(folder / "labels")} if "labels_dir" in parser else {}
    settings |= {"landmarks": table} if "landmarks" in parser else {}
    settings |= {f"source_{name}": str(folder / name) for name in ("images", "labels") if f"source_{name}" in parser}
    if "source" in parser:  # the weights to start from
        parser.update(settings)
        settings["source"] = str(folder / "source.pt")
        torch.save({"network": parser.get_parsed_content("network_def").state_dict()}, settings["source"])
    assert [key for key in settings if key.partition("#")[0] not in parser] == []
    train_and_report(0, 1, 0, case, settings, folder / "of1")
    return Trained(case, settings, annotated, folder / "of1.0", files_in(out))


def files_in(folder: str | Path) -> int:
    return sum(path.is_file() for path in Path(folder).rglob("*"))


def run(case: Case, kind: str, settings: dict) -> None:
    flow = complete(workflow(case.bundle.name, *case.names(*THEN[kind]), kind=kind, **settings))
    check(flow, kind)


def check(flow: ConfigWorkflow, kind: str) -> None:
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


def train_and_report(rank: int, count: int, port: int, case: Case, settings: dict, report: Path) -> None:
    """One of several processes, or the only one: the losses, the network and what validation found."""
    from ignite.engine import Events

    several = ["multi_gpu_train"] if count > 1 else []
    if count > 1:
        meet(rank, count, port)
    torch.set_num_threads(1)
    flow = workflow(case.bundle.name, *case.names(*several), **settings)
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
        check(flow, "train")
    finally:
        flow.finalize()  # the other process must not wait for this one


@pytest.fixture(scope="module")
def two_processes(new_process):
    with new_process.Pool(2, warnings.simplefilter, ("default",)) as pool:
        yield pool


@pytest.mark.slow
@needs_train
def test_two_processes_train_as_one(trained, two_processes, free_port, tmp_path):
    case, settings = trained.case, trained.settings
    own = settings | {"output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}
    given = (2, free_port(), case, own, tmp_path / "of2")
    for process in [two_processes.apply_async(train_and_report, (rank, *given)) for rank in range(2)]:
        process.get()
    reports = (trained.report, *(tmp_path / f"of2.{rank}" for rank in range(2)))
    one, first, second = (torch.load(report, weights_only=True) for report in reports)
    assert len(set(one["losses"].tolist())) == len(first["losses"]) >= settings["max_epochs"]
    rtol = 1e-5 if case.bundle.name.startswith("landmark") else 1e-4
    torch.testing.assert_close(first["losses"], one["losses"], rtol=rtol, atol=0)
    torch.testing.assert_close(second["network"], first["network"], rtol=0, atol=0)
    assert first["metrics"] == second["metrics"] == pytest.approx(one["metrics"], rel=1e-3)
    assert files_in(own["output_dir"]) == trained.written  # by one process alone


@needs_train
def test_train(trained):
    checkpoint = torch.load(Path(trained.settings["output_dir"], "checkpoint.pt"), weights_only=True)
    assert checkpoint["trainer"]["epoch"] == trained.settings["max_epochs"]
    assert all(weight.isfinite().all() for weight in checkpoint["network"].values())
    kept = checkpoint["settings"]
    assert (kept["bundle"], kept.get("overlay")) == (trained.case.bundle.name, trained.case.overlay)
    assert set(kept) - {"bundle", "overlay"} <= set(config(trained.case).get())


def of_kind(trained: Trained, kind: str) -> dict:
    """The settings to evaluate a bundle, or to find landmarks or segment with it."""
    settings, annotated = trained.settings, trained.annotated
    folder = Path(settings["dataset_dir"])
    if kind == "eval":
        annotated = annotated | {
            "evaluation_dir": settings["dataset_dir"],
            "evaluation_labels": str(folder.parent / "labels"),
            "landmarks": annotated["template_landmarks"],
            "part": None,
        }
    parser = config(trained.case, *THEN[kind])
    if kind == "infer":  # the checkpoint has the rest
        settings = {name: settings[name] for name in ("bundle_root", "dataset_dir", "output_dir", "num_workers")}
    annotated = annotated | ({"suffix": ".png"} if spatial_dims(trained.case) == 2 else {})
    return settings | {key: value for key, value in annotated.items() if key in parser}


@pytest.mark.slow
@needs_train
@own_network
@pytest.mark.filterwarnings(  # networks that have hardly learnt find nothing of a class in any image
    "ignore:the prediction of class:UserWarning",
    "ignore:Mean of empty slice:RuntimeWarning",
    "ignore:All-NaN:RuntimeWarning",
    "ignore:Degrees of freedom:RuntimeWarning",
)
@pytest.mark.parametrize(("kind", "output"), [("eval", "evaluation"), ("infer", "inference")])
def test_evaluate_and_infer(trained, two_processes, free_port, kind, output, tmp_path):
    settings = of_kind(trained, kind)
    run(trained.case, kind, settings)
    results = Path(settings["output_dir"], output)
    if trained.case == next(case for case in RUN if case.bundle == trained.case.bundle):  # overlays share the rest
        given = (free_port(), trained.case, kind, settings | {"results_dir": str(tmp_path)})
        for process in [two_processes.apply_async(run_as_one_of, (rank, *given)) for rank in range(2)]:
            process.get()
        check_same(tmp_path, results)
    if segments(trained.case):
        check_segmentation(results, settings)
        return
    (table,) = results.glob("landmarks*.csv")
    found = read_landmarks(table).to("LPS")
    is_evaluated = "template" in settings and kind == "eval"  # then without the template
    assert set(found.points) == {"0", "1", "2"} - ({"0"} if is_evaluated else set())
    assert found.labels == LABELS
    if "0" in found.points and "template" in settings:
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
        if path.suffix in (".csv", ".json"):
            (text, numbers), (other_text, other_numbers) = rows_of(path), rows_of(other / path.name)
            assert text == other_text
            assert numbers == pytest.approx(other_numbers, rel=1e-5)
        elif folder.name == "inference" and (folder / "landmarks.csv").exists():  # pictures of landmarks
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
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
            assert sitk.GetArrayFromImage(mask).max() <= 3
    else:
        header, *rows = (results / "mean_dice_raw.csv").read_text().splitlines()
        assert header == f"filename,{','.join(settings.get('classes', ['anterior', 'posterior']))},mean"
        assert len(rows) == len(images)
        assert (results / "hausdorff_95_mm_raw.csv").exists()


def export_arguments(trained: Trained) -> dict:
    case, settings = trained.case, trained.settings
    return {
        "net_id": exported(case),
        "ckpt_file": str(Path(settings["output_dir"], "checkpoint.pt")),
        "key_in_ckpt": "network",
        "meta_file": str(case.bundle / "configs" / "metadata.json"),
        "config_file": case.files(),
        **settings,
    }


def another_size(case: Case) -> list[int]:
    dims = spatial_dims(case)
    if segments(case):
        return [48, 32, 64][:dims]
    return [length + odd for length, odd in zip(SIZE[dims], (7, 0, 5), strict=False)]


@pytest.fixture
def network(trained) -> torch.nn.Module:
    """With the weights of the checkpoint."""
    parser = config(trained.case)
    parser.update(trained.settings)
    load_weights(parser.get_parsed_content("network_def"), Path(trained.settings["output_dir"], "checkpoint.pt"))
    return parser.get_parsed_content(exported(trained.case)).eval()


@needs_train
@own_network
@torch.no_grad()
def test_export(trained, network, tmp_path):
    what, given = export_arguments(trained), metadata(trained.case.bundle)
    ckpt_export(filepath=str(tmp_path / "network.ts"), **what)
    names = [f"{name}.json" for name in trained.case.names()]
    exported, meta, extra = load_net_with_metadata(str(tmp_path / "network.ts"), more_extra_files=names)
    assert {key: meta[key] for key in given} == given
    for name, file in zip(names, what["config_file"], strict=True):
        assert json.loads(extra[name]) == json.loads(Path(file).read_text(encoding="utf-8"))
    size = another_size(trained.case)
    image = torch.rand(2, given["network_data_format"]["inputs"]["image"]["num_channels"], *size)
    torch.testing.assert_close(exported(image), network(image), atol=1e-5, rtol=0)


@pytest.mark.slow
@needs_train
@every_bundle
@torch.no_grad()
def test_export_as_the_model_zoo_does(bundle, tmp_path):
    """The default network of ``inference.json``, where there are no data: its shapes, then its export."""
    inference, about = (str(bundle / "configs" / f"{name}.json") for name in ("inference", "metadata"))
    verify_net_in_out("network_def", about, inference, device="cpu", bundle_root=str(bundle))
    settings = SMALL.get(bundle.name, UNET)
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
    settings = {key: value for key, value in settings.items() if key in parser}
    parser.update(settings)
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    files = {"meta_file": "metadata", "config_file": "inference"}
    files = {key: str(bundle / "configs" / f"{name}.json") for key, name in files.items()}
    where = {"filepath": str(tmp_path / "model.ts"), "ckpt_file": str(tmp_path / "model.pt")}
    ckpt_export(bundle_root=str(bundle), **where, **files, **settings)
    exported = load_net_with_metadata(where["filepath"])[0]
    formats = metadata(bundle)["network_data_format"]["inputs"]["image"]
    dims = settings.get("spatial_dims", len(formats["spatial_shape"]))
    image = torch.rand(2, formats["num_channels"], *(96, 80, 64)[-dims:])
    torch.testing.assert_close(exported(image), network(image), atol=1e-5, rtol=0)


@needs_train
@own_network
def test_export_of_another_checkpoint_is_refused(trained, tmp_path):
    """Rather than silently giving the untrained network."""
    what = export_arguments(trained) | {"ckpt_file": str(tmp_path / "other.pt")}
    torch.save({"network": {"other": torch.zeros(1)}}, what["ckpt_file"])
    with pytest.raises(RuntimeError, match="Missing key"):
        ckpt_export(filepath=str(tmp_path / "network.ts"), **what)


# MONAI hands on a traced or scripted network to it, and PyTorch before 2.5 has no other
OLD_EXPORTER = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}


@pytest.mark.slow
@needs_train
@own_network
@pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")
@torch.no_grad()
def test_onnx_export(trained, network, tmp_path):
    pytest.importorskip("onnx", reason="onnx writes the file")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime reads the file")
    channels = metadata(trained.case.bundle)["network_data_format"]["inputs"]["image"]["num_channels"]
    dims, file = spatial_dims(trained.case), str(tmp_path / "network.onnx")
    onnx_export(
        filepath=file,
        use_trace=True,
        input_shape=[1, channels, *{2: [128] * 2, 3: [64] * 3}[dims]],
        converter_kwargs={
            "input_names": ["image"],
            "dynamic_axes": {"image": [0, *range(2, dims + 2)]},
            **OLD_EXPORTER,
        },
        **export_arguments(trained),
    )
    image = torch.rand(1, channels, *another_size(trained.case))
    (got,) = runtime.InferenceSession(file).run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), network(image), atol=1e-4, rtol=0)  # logits are no unit vectors
