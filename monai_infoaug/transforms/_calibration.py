"""What ``monai-infoaug calibrate`` writes, as the settings of transforms."""

from __future__ import annotations

import os
from typing import Any

from monai_infoaug._require import refusal
from monai_infoaug.information._files import read_entry

VERSION = 2  # 1 knew neither several windows nor noise


def read_settings(path: str | os.PathLike, transform: str, **given: object) -> list[Any]:
    """The settings of a transform in a calibration file; they are not checked.

    Args:
        path: the calibration file.
        transform: the entry of the transform.
        given: by name, each setting that the entry has, as it was given beside the file: None, or one of the two would
            have to yield unseen.

    Returns:
        The values, in the order of ``given``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a setting was given, or if the file is no calibration file of this version, or its entry
            ``transform`` has other settings.
    """
    for name, value in given.items():
        if value is not None:
            raise refusal(name, value, "None beside `file`, which says it")
    accepted = f"a file of `monai-infoaug calibrate`, version {VERSION}"
    version = read_entry(path, "version", accepted)
    if version != VERSION:
        raise refusal(str(path), f"version {version}", accepted)
    settings = read_entry(path, transform, accepted)
    if not isinstance(settings, dict) or set(settings) != set(given):
        raise refusal(f"{transform} in {path}", settings, f"a dictionary with {', '.join(given)}")
    return [settings[name] for name in given]
