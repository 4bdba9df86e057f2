"""The MONAI bundles that come with the package: listed, found and copied."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.resources import files
from pathlib import Path

from monai_infoaug._console import say
from monai_infoaug._require import refusal

__all__ = [
    "bundle_overlays",
    "copy_bundle",
    "describe_bundles",
    "find_bundle",
    "inputs_of",
    "say_what_next",
    "training_command",
    "using_command",
]

USUAL = {"train", "evaluate", "inference", "multi_gpu_train", "metadata"}  # configurations that bundles have
MOVED = {  # bundles of old to the overlay of the bundle `segmentation` that each became
    "attention_guided_segmentation": "attention_guided",
    "label_efficient_segmentation": "label_efficient",
    "local_contrast_segmentation": "local_contrast",
    "segmenter_segmentation": "segmenter",
}
INPUTS = {  # settings that a user has to give, and what the pages call them
    "dataset_dir": "IMAGES",
    "labels_dir": "LABELS",
    "landmarks": "TABLE",
    "source": "SOURCE",
    "source_images": "SOURCE_IMAGES",
    "source_labels": "SOURCE_LABELS",
}
MEANT = {  # by what the pages call
    "IMAGES": "folder of images",
    "LABELS": "folder of label maps, called like their images",
    "TABLE": "landmarks in millimetres: .csv, .fcsv or .mrk.json",
    "SOURCE": "checkpoint of the network to adapt",
    "SOURCE_IMAGES": "folder of the images that it has learnt from",
    "SOURCE_LABELS": "folder of their label maps",
    "IMAGE": "the annotated one",
    "OUT": "folder for the results",
}


def describe_bundles() -> dict[str, str]:
    """Name of each bundle to a line about it.

    Example:
        >>> "landmark_pretraining" in describe_bundles()
        True
    """
    metadata = sorted(Path(str(files("monai_infoaug.examples"))).glob("*/configs/metadata.json"))
    return {path.parts[-3]: json.loads(path.read_text(encoding="utf-8"))["description"] for path in metadata}


def find_bundle(name: str) -> Path:
    """Folder of a bundle of the package.

    Raises:
        ValueError: for a name that no bundle has.
    """
    names = list(describe_bundles())
    if name in MOVED:
        raise refusal("bundle", repr(name), f"segmentation, trained with its configs/{MOVED[name]}.json")
    if name not in names:
        raise refusal("bundle", repr(name), f"one of {', '.join(names)}")
    return Path(str(files("monai_infoaug.examples"))) / name


def bundle_overlays(folder: str | os.PathLike) -> list[str]:
    """Names of the methods of a bundle: each ``configs/NAME.json`` is merged over ``configs/train.json``.

    Example:
        >>> "label_efficient" in bundle_overlays(find_bundle("segmentation"))
        True
    """
    return sorted({path.stem for path in Path(folder, "configs").glob("*.json")} - USUAL)


def copy_bundle(name: str, folder: str | os.PathLike) -> Path:
    """Copy a bundle out of the package, to be changed and run.

    Args:
        name: name of the bundle.
        folder: folder to make, or an empty one.

    Returns:
        ``folder``.

    Raises:
        ValueError: for an unknown bundle, or a folder with something in it but what a killed copy has left.
        OSError: naming the folder, if it cannot be written to; nothing is then left of the copy.
    """
    source, folder = find_bundle(name), Path(folder)
    partial, missing = folder / ".partial", not folder.exists()
    there = set() if missing else {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    killed = partial.name in there and there <= {partial.name, *(path.name for path in source.iterdir())}
    if there and not killed:
        raise refusal("folder", f"'{folder}'", "new or empty")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
        for path in partial.iterdir():
            if path.name not in there:
                path.rename(folder / path.name)
    except OSError as error:
        shutil.rmtree(folder if missing else partial, ignore_errors=True)
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise refusal("folder", f"'{folder}': {why}", "one that can be written to", OSError) from error
    shutil.rmtree(partial)
    return folder


def training_command(folder: str | os.PathLike, overlay: str | None = None) -> str:
    """What to type in the folder of a bundle to train, with a method of :func:`bundle_overlays` or without.

    Example:
        >>> training_command(find_bundle("landmark_pretraining"))
        'python -m monai.bundle run --config_file configs/train.json --dataset_dir IMAGES --output_dir OUT'
    """
    settings = json.loads(Path(folder, "configs", "train.json").read_text(encoding="utf-8"))
    config = "configs/train.json" if overlay is None else f"\"['configs/train.json','configs/{overlay}.json']\""
    inputs = [f"--{name} {word}" for name, word in INPUTS.items() if name in settings]
    return " ".join(["python -m monai.bundle run --config_file", config, *inputs, "--output_dir OUT"])


def using_command(folder: str | os.PathLike, checkpoint: str | os.PathLike = "OUT/checkpoint.pt") -> str:
    """What to type in the folder of a bundle when it is trained: matching, or inference for images without labels.

    Example:
        >>> using_command(find_bundle("landmark_pretraining"))
        'monai-infoaug match IMAGES --checkpoint OUT/checkpoint.pt --template IMAGE --landmarks TABLE'
        >>> using_command(find_bundle("segmentation"))
        'python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir OUT'
    """
    settings = json.loads(Path(folder, "configs", "inference.json").read_text(encoding="utf-8"))
    if "template" in settings:
        return f"monai-infoaug match IMAGES --checkpoint {checkpoint} --template IMAGE --landmarks TABLE"
    out, name = os.path.split(checkpoint)
    of = "" if name == "checkpoint.pt" else f" --checkpoint {checkpoint}"
    return (
        f"python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir {out}{of}"
    )


def inputs_of(*commands: str) -> dict[str, str]:
    """What the words in capitals of some commands stand for.

    Example:
        >>> inputs_of("monai-infoaug match IMAGES --landmarks TABLE")
        {'IMAGES': 'folder of images', 'TABLE': 'landmarks in millimetres: .csv, .fcsv or .mrk.json'}
    """
    words = set(re.findall(r"\b[A-Z_]+\b", " ".join(commands)))
    return {word: meaning for word, meaning in MEANT.items() if word in words}


def say_what_next(name: str, checkpoint: str | os.PathLike) -> None:
    """At the end of a training: where the network is, and what to type now. Of several processes the first says it."""
    from monai_infoaug._processes import rank  # imports torch, which listing and copying need not wait for

    if rank() == 0:
        say(f"Wrote {checkpoint}. Now, for example:\n  {using_command(find_bundle(name), checkpoint)}")
