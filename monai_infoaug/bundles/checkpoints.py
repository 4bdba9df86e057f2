"""The configuration and the network of a checkpoint that a bundle has trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_infoaug._require import naming, refusal
from monai_infoaug.bundles.finding import bundle_overlays, find_bundle

if TYPE_CHECKING:  # MONAI takes seconds that listing and copying need not wait
    from monai.bundle import ConfigParser
    from torch import nn

__all__ = ["load_network", "read_bundle", "read_config"]


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
    from monai_infoaug.handlers.checkpoint import read_settings

    kept = read_settings(checkpoint, states)
    name, overlay = kept.pop("bundle", "landmark_pretraining"), kept.pop("overlay", None)
    folder = find_bundle(name) if bundle is None else _folder_of(bundle)
    names = _names(folder, overlay, f"overlay of {checkpoint}")
    return _configuration(folder, names, {f"settings of {checkpoint}": kept, "settings": dict(settings or {})})


def read_bundle(
    bundle: str | os.PathLike, settings: Mapping[str, Any] | None = None, overlay: str | None = None
) -> ConfigParser:
    """Configuration of a bundle's training, with settings of one's own.

    Args:
        bundle: folder of a bundle or name of one of the package.
        settings: plain values for settings at the top level of the configuration, also for those that it works out
            from others.
        overlay: name of a method of the bundle, whose configuration is merged over ``train.json``.

    Returns:
        The configuration, not parsed, its imports done.

    Raises:
        ValueError: for an unknown bundle or overlay, or a setting that it does not have or that is no plain value.
    """
    folder, given = _folder_of(bundle), {"settings": dict(settings or {})}
    return _configuration(folder, _names(folder, overlay, "overlay"), given, with_expressions=True)


def _names(folder: Path, overlay: str | None, argument: str) -> list[str]:
    """Names of a bundle's configurations of a training, by a method of it or without."""
    overlays = bundle_overlays(folder)
    if overlay is not None and overlay not in overlays:
        accepted = f"one of {', '.join(overlays)}" if overlays else f"none, for the bundle {folder.name} has none"
        raise refusal(argument, repr(overlay), accepted)
    return ["train"] if overlay is None else ["train", overlay]


def _folder_of(bundle: str | os.PathLike) -> Path:
    """The folder of a bundle that is one, or goes by its name."""
    folder = Path(bundle)
    return folder if (folder / "configs" / "train.json").is_file() else find_bundle(str(folder))


def _configuration(
    folder: Path, names: Sequence[str], sources: Mapping[str, Mapping[str, Any]], with_expressions: bool = False
) -> ConfigParser:
    """Files of a bundle's ``configs``, each over the one before, then settings from sources, which errors name."""
    from monai.bundle import ConfigParser

    from monai_infoaug.handlers.checkpoint import is_plain, require_plain

    require_plain(dict(sources["settings"]))
    config = ConfigParser()
    config.read_config([folder / "configs" / f"{name}.json" for name in names])
    works_out = str if with_expressions else ()
    known = [key for key, value in config.get().items() if is_plain(value) or isinstance(value, works_out)]
    for source, values in sources.items():
        for key, value in values.items():
            if key not in known:
                near = "".join(f": {name} may be meant" for name in get_close_matches(key, known, 1))
                raise refusal(source, repr(key) + near, f"among those of the bundle: {', '.join(known)}")
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
