"""What the training of a bundle does to an image before the network sees it, as steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from monai_infoaug._require import refusal
from monai_infoaug.bundles import read_bundle
from monai_infoaug.commands._steps import Step, build, step

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

OURS = "monai_infoaug.transforms."
CHANGE = ("transforms", "sigma", "strengths", "file", "prob")  # arguments of RandTierIntensity in every mode
DRAW = ("shares", "gamma")  # those of RandPairedViewsd and DrawnPixels that say where points are drawn


class BundleSteps(NamedTuple):
    """The part of a bundle that information and tiers have to do with.

    Args:
        before: steps from the file to the map of information.
        split: the one that makes tiers of it.
        changes: the intensity change of view 1 and of view 2.
        draw: ``shares`` and ``gamma``, as far as the bundle draws points, or pixels to compare, by them.
        is_on: whether its training changes intensities by tier as it stands.
        other: settings that are not the bundle's own, and their values.
    """

    before: list[Step]
    split: Step
    changes: tuple[Step, Step]
    draw: dict[str, Any]
    is_on: bool
    other: dict[str, Any]


def bundle_steps(
    bundle: str | os.PathLike, given: Mapping[str, Any], dims: int, channels: int, overlay: str | None = None
) -> BundleSteps:
    """Read what a bundle would do to images.

    Args:
        bundle: folder of a bundle or name of one of the package.
        given: settings of one's own.
        dims: number of axes of the images; the bundle's setting for it follows, where it has one.
        channels: number of their channels, likewise.
        overlay: name of a method of the bundle.

    Raises:
        ValueError: for an unknown bundle or overlay, a setting that it does not have, images that it is not for, or one
            that knows no tiers.
    """
    own = read_bundle(bundle, overlay=overlay).get()
    sizes = {"spatial_dims": dims, "in_channels": channels}
    given = {**given, **{name: value for name, value in sizes.items() if name in own}}
    config = read_bundle(bundle, given, overlay)
    entries = dict(_entries(config.get()))
    made_for = {each["spatial_dims"] for each in entries.values() if isinstance(each.get("spatial_dims"), int)}
    if made_for and dims not in made_for:
        raise refusal("bundle", f"one for images in {min(made_for)}D", f"one for images in {dims}D, as this one")
    steps = [_plain(config, name) for name in ("preprocessing_transforms", "information_transforms") if name in config]
    steps = [each for part in steps for each in part if not each.pop("_disabled_", False)]
    split = next((each for each in steps if each["_target_"] == f"{OURS}InformationTiersd"), None)
    ours = {name: str(each.get("_target_")).removeprefix(OURS) for name, each in entries.items()}
    pair = next((name for name, target in ours.items() if target == "RandPairedViewsd"), None)
    alone = [name for name, target in ours.items() if target in ("RandTierIntensityd", "RandTierIntensity")]
    if split is None or not alone:
        raise refusal("bundle", "one without InformationTiersd or RandTierIntensity", "one that knows tiers")
    changed = pair is not None and "intensity" in entries[pair]
    change = _plain(config, f"{pair}::intensity" if changed else alone[0])
    first, second = change if isinstance(change, list) else (change, change)
    drawing = [name for name, target in ours.items() if name == pair or target.endswith("samplers.DrawnPixels")]
    draw = {key: _plain(config, f"{name}::{key}") for name in drawing for key in DRAW if key in entries[name]}
    applied = [_plain(config, name) for name in alone if ours[name] == "RandTierIntensityd"]
    return BundleSteps(
        steps[: steps.index(split)],
        split,
        (_change(first), _change(second)),
        {name: value for name, value in draw.items() if value is not None},
        changed or any(not each.get("_disabled_", False) for each in applied),
        {name: value for name, value in given.items() if value != own.get(name)},
    )


def _change(given: Step) -> Step:
    """The change by tier that an entry describes, for arrays."""
    made = step(f"{OURS}RandTierIntensity", **{name: given[name] for name in CHANGE if given.get(name) is not None})
    build(made)  # refuses what it does not take
    return made


def _plain(config: ConfigParser, name: str) -> Any:
    """An entry with its references and expressions worked out, and its objects left as steps."""
    value = config[name]
    if isinstance(value, dict):
        return {key: _plain(config, f"{name}::{key}") for key in value}
    if isinstance(value, list):
        return [_plain(config, f"{name}::{number}") for number in range(len(value))]
    if not isinstance(value, str) or value[:1] not in ("@", "$"):
        return value
    there = value[1:].replace("#", "::")
    return _plain(config, there) if value[0] == "@" and there in config else config.get_parsed_content(name)


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of each dictionary in a configuration."""
    if isinstance(value, dict):
        yield name, value
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _entries(each, f"{name}::{key}" if name else str(key))
