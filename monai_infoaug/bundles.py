"""The MONAI bundles that come with the package."""

from __future__ import annotations

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

from monai_infoaug._require import refusal

__all__ = ["copy_bundle", "describe_bundles", "find_bundle"]


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
    if name not in names:
        raise refusal("bundle", repr(name), f"one of {', '.join(names)}")
    return Path(str(files("monai_infoaug.examples"))) / name


def copy_bundle(name: str, folder: str | os.PathLike) -> Path:
    """Copy a bundle out of the package, to be changed and run.

    Args:
        name: of the bundle.
        folder: to make, or an empty one.

    Returns:
        ``folder``.

    Raises:
        ValueError: for an unknown bundle, or a folder with something in it.
    """
    source, folder = find_bundle(name), Path(folder)
    usable = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not usable:
        raise refusal("folder", f"'{folder}'", "new or empty")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return folder
