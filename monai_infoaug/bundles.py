"""The MONAI bundles that come with the package, and the network of a checkpoint that one of them has trained."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_infoaug._require import naming, refusal

if TYPE_CHECKING:  # MONAI takes seconds that listing and copying need not wait
    from monai.bundle import ConfigParser
    from torch import nn

__all__ = [
    "bundle_overlays",
    "copy_bundle",
    "describe_bundles",
    "find_bundle",
    "load_network",
    "read_config",
    "training_command",
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


def read_config(
    checkpoint: str | os.PathLike,
    bundle: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    states: Mapping[str, Any] | None = None,
) -> ConfigParser:
    """Configuration of the bundle that trained a checkpoint, with the checkpoint's settings, then one's own.

    It is ``train.json``, and over it the overlay that the checkpoint names, if it does.

    Args:
        checkpoint: file; it may name a bundle of the package and give settings.
        bundle: folder of a bundle or name of one of the package; by default the one that the checkpoint names.
        settings: plain values for settings at the top level of the configuration.
        states: what :func:`monai_infoaug.handlers.checkpoint.read_checkpoint` has read from the file; None: it is read.

    Returns:
        The configuration, not parsed, its imports done.

    Raises:
        ValueError: for an unreadable checkpoint, an unknown bundle or overlay, or a setting that the bundle does not
            have or that is no plain value.
    """
    from monai.bundle import ConfigParser

    from monai_infoaug.handlers.checkpoint import is_plain, read_settings, require_plain

    kept, given = read_settings(checkpoint, states), dict(settings or {})
    require_plain(given)
    name, overlay = kept.pop("bundle", "landmark_pretraining"), kept.pop("overlay", None)
    folder = Path(name if bundle is None else bundle)
    if bundle is None or not (folder / "configs" / "train.json").is_file():
        folder = find_bundle(str(folder))
    overlays = bundle_overlays(folder)
    if overlay is not None and overlay not in overlays:
        accepted = f"one of {', '.join(overlays)}" if overlays else f"none, for the bundle {folder.name} has none"
        raise refusal(f"overlay of {checkpoint}", repr(overlay), accepted)
    config = ConfigParser()
    config.read_config([folder / "configs" / f"{each}.json" for each in ("train", overlay) if each is not None])
    names = [key for key, value in config.get().items() if is_plain(value)]
    for source, values in ((f"settings of {checkpoint}", kept), ("settings", given)):
        for key, value in values.items():
            if key not in names:
                near = "".join(f": {name} may be meant" for name in get_close_matches(key, names, 1))
                raise refusal(source, repr(key) + near, f"among those of the bundle: {', '.join(names)}")
            config[key] = value
    if "imports" in config:
        config.get_parsed_content("imports")
    return config


def load_network(
    config: ConfigParser, checkpoint: str | os.PathLike, states: Mapping[str, Any] | None = None
) -> nn.Module:
    """The embedding network of a configuration, with the weights of a checkpoint.

    Args:
        config: configuration of :func:`read_config`.
        checkpoint: file.
        states: what :func:`monai_infoaug.handlers.checkpoint.read_checkpoint` has read from the file; None: it is read.

    Returns:
        ``network_def`` of the configuration; it has ``strides``.

    Raises:
        ValueError: for a configuration without one, or a checkpoint of another network.
    """
    from monai_infoaug.handlers.checkpoint import load_weights

    with naming("the bundle's configuration"):
        network = config.get_parsed_content("network_def")
    if not hasattr(network, "strides"):
        got, accepted = f"one of a {type(network).__name__}", "a checkpoint of an embedding network with `strides`"
        raise refusal(str(checkpoint), got, accepted)
    return load_weights(network, checkpoint, checkpoint=states)
