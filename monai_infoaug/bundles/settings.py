"""What a bundle that MONAI is about to run was given, checked before it begins."""

from __future__ import annotations

import json
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from monai_infoaug._console import say
from monai_infoaug._require import are_counts, is_count, is_number, listed, reason, refusal
from monai_infoaug.bundles.finding import USUAL, bundle_overlays, describe_bundles, find_bundle

if TYPE_CHECKING:  # MONAI takes seconds that listing and copying need not wait
    from monai.bundle import ConfigParser

__all__ = ["require_settings"]

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
        "coarse_features features global_features global_view_size image_size local_features network_scales roi_size "
        "view_size widths",
    ),
    ("one or more different names", _are_names, "classes labels"),
    ("2 or 3", lambda value: is_count(value) and value in (2, 3), "spatial_dims"),
    (
        "true or false",
        lambda value: isinstance(value, bool),
        "amp by_tier frozen image_wise match_levels over_processes tier_intensity",
    ),
)


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
    from monai_infoaug.bundles._config_files import require_files_of
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
