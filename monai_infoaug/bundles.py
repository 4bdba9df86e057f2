"""The MONAI bundles that come with the package, and the network of a checkpoint that one of them has trained."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from monai_infoaug._console import say
from monai_infoaug._require import are_counts, is_count, is_number, listed, naming, reason, refusal

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
    "require_settings",
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
UNUSED = {  # settings that a configuration may have without use: other settings that were given, or methods, replace it
    *("bundle_root", "dataset_dir", "features", "last_layer_lr_factor", "over_processes"),
}


def _is_positive(value: Any) -> bool:
    return is_number(value, 0) and value > 0


def _are_positive(value: Any) -> bool:
    return _is_positive(value) or (len(listed(value)) > 0 and all(map(_is_positive, listed(value))))


def _are_names(value: Any) -> bool:
    names = listed(value)
    return len(names) > 0 and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


# what a value has to be, how that is seen, and of which settings
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "a whole number of at least 1",
        lambda value: is_count(value, 1),
        "batch_size coarse_epochs contrast_batch_size global_batch_size global_scale hidden_size in_channels levels "
        "max_epochs num_layers num_points patch_size patches_per_image pixels_per_image round_epochs samples_per_epoch "
        "val_interval window",
    ),
    (
        "a whole number of at least 0",
        is_count,
        "confidence_epochs contrast_epochs global_epochs local_epochs num_workers patch_radius pretrain_epochs seed",
    ),
    ("a whole number of at least 1, or None", lambda value: value is None or is_count(value, 1), "val_images"),
    ("a number above 0", _is_positive, "sigma working_pixdim"),
    ("a number of at least 0", lambda value: is_number(value, 0), "last_layer_lr_factor learning_rate"),
    ("numbers above 0: one, or one an axis, or None", lambda value: value is None or _are_positive(value), "pixdim"),
    (
        "one or more whole numbers of at least 1",
        lambda value: are_counts(value, 1),
        "coarse_features features global_features global_view_size image_size local_features roi_size view_size widths",
    ),
    ("one or more different names", _are_names, "classes labels"),
    ("2 or 3", lambda value: is_count(value) and value in (2, 3), "spatial_dims"),
    (
        "true or false",
        lambda value: isinstance(value, bool),
        "amp by_tier frozen image_wise match_levels over_processes tier_intensity",
    ),
)


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


def require_settings() -> None:
    """Check what the bundle that MONAI is about to run was given; the first step of its ``initialize``.

    An evaluation and an inference then have the settings of the training wherever the bundle's own were left. What
    ``python -m monai.bundle`` refuses from here on is told in one line.

    Raises:
        ValueError: for a setting that nothing in the configuration uses, such as a mistyped one, one out of range, a
            calibration of other images than those of the settings, or no ``pixdim`` for files that say no millimetres;
            for files that cannot be read, or have other axes or channels than the network; and for a configuration that
            goes on top of another one, alone.
    """
    from monai_infoaug.data._config_files import require_files_of
    from monai_infoaug.handlers.checkpoint import is_plain

    if str(getattr(sys.modules["__main__"].__spec__, "name", "")).startswith("monai.bundle"):
        sys.excepthook = tell
    config = _running()
    if "network_def" not in config.get():
        raise refusal("config_file", "one without `network_def`", "configs/train.json, and then what goes on top of it")
    if {"trained_network", "trained_networks"} & config.get().keys():
        _follow_training(config)
    content = config.get()
    plain = {name: value for name, value in content.items() if is_plain(value)}
    used = plain.keys() & ({*re.findall(r"@(\w+)", repr(content))} | UNUSED)
    written = all(isinstance(value, str | list | dict) or is_plain(value) for value in content.values())
    for name in sorted(plain.keys() - used) if written else ():  # objects may have come in the place of what uses it
        near = "".join(f": {each} may be meant" for each in get_close_matches(name, sorted(used), 1))
        raise refusal("settings", repr(name) + near, f"among those of the bundle: {', '.join(sorted(used))}")
    for accepted, is_fine, names in RULES:
        for name in names.split():
            if name in plain and not is_fine(plain[name]):
                raise refusal(name, repr(plain[name]), accepted)
    if plain.get("modality") == "rgb" and plain.get("in_channels", 3) != 3:
        raise refusal("in_channels", plain["in_channels"], "3 for modality 'rgb'")
    bits, classes = plain.get("label_bits"), plain.get("classes")
    if isinstance(bits, list) and isinstance(classes, list) and len(bits) != len(classes):
        raise refusal("label_bits", bits, f"one bit for each of the {len(classes)} classes, or None")
    if plain.get("calibration") is not None:
        _require_own_calibration(plain)
    require_files_of(config)


def _running() -> ConfigParser:
    """The configuration that an expression of itself is evaluated for.

    An expression sees what the configuration imports and the values that it refers to, but not the configuration, which
    has no id: a reference to all of it would be one to the expression itself. So it is found where it calls from.

    Raises:
        RuntimeError: outside of one.
    """
    from monai.bundle import ConfigParser

    frame: Any = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), ConfigParser):
        frame = frame.f_back
    if frame is None:
        got, accepted = "by other code", "called by an expression of a bundle's configuration"
        raise refusal("require_settings", got, accepted, RuntimeError)
    return frame.f_locals["self"]


def _require_own_calibration(settings: Mapping[str, Any]) -> None:
    """Refuse a calibration from images of another modality or resolution."""
    try:
        made = json.loads(Path(settings["calibration"]).read_text(encoding="utf-8")).get("made_from", {})
    except (OSError, TypeError, ValueError, AttributeError):
        return  # whoever reads it says what is wrong
    sides = made.get("working_pixdim") or made.get("pixdim")
    for name, value in (("modality", made.get("modality")), ("working_pixdim", sides)):
        if value is not None and any(each != settings.get(name) for each in listed(value) or [value]):
            got = f"{settings['calibration']} of {name} {value}"
            raise refusal("calibration", got, f"of images with the bundle's {name}, {settings.get(name)}")


def _follow_training(config: ConfigParser) -> None:
    """Give an evaluation the training's method and its settings where the bundle's own were left; warn of others."""
    from monai_infoaug.handlers.checkpoint import is_plain, read_settings

    path = config.get_parsed_content("checkpoints" if "checkpoints" in config else "checkpoint")
    if isinstance(path, list | tuple):
        path = path[0]
    if Path(str(path)).is_file():
        kept = read_settings(path)
    else:  # whoever reads it says so
        kept = {name: config.get(f"settings#{name}") for name in ("bundle", "overlay")}
    if kept.get("bundle") not in describe_bundles():
        return
    folder, overlay = find_bundle(kept["bundle"]), kept.get("overlay")
    own, method = (
        json.loads((folder / "configs" / f"{name}.json").read_text(encoding="utf-8")) if name in known else {}
        for name, known in (("train", USUAL), (overlay, bundle_overlays(folder)))
    )
    plain = {name: value for name, value in config.get().items() if is_plain(value)}
    found = {name: value for name, value in method.items() if name != "run" and name[0] != "+" and "#" not in name}
    taken = {name: value for name, value in found.items() if not is_plain(value)}
    used = {*re.findall(r"@(\w+)", repr([config.get(), taken]))} - plain.keys()
    taken |= {name: value for name, value in found.items() if name in used}
    for name, value in kept.items():
        now, *left = (json.dumps(each.get(name)) for each in ({**taken, **plain}, own, found))
        if name not in {*plain, *taken} or now == json.dumps(value):
            continue
        if now in left:
            taken[name] = value
        else:
            warnings.warn(f"`{name}` is {now}, but {path} was trained with {json.dumps(value)}.", stacklevel=2)
    if taken:
        config.update(taken)
        config.parse()


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a program ends with: a line for what the package has refused, else the traceback and, last, its cause."""
    from monai_infoaug._processes import wait_for_pools

    why = reason(error)
    if not (isinstance(error, Exception) and why.startswith("`")):
        traceback.print_exception(kind, error, trace)
    if isinstance(error, Exception):
        say(f"error: {why}", sys.stderr)
    wait_for_pools()
