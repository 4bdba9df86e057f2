"""What ``monai-infoaug calibrate`` writes, as the settings of transforms."""

from __future__ import annotations

import os
from typing import Any

from monai_infoaug._require import refusal
from monai_infoaug.information._files import read_entry

VERSION = 1


def read_settings(path: str | os.PathLike, transform: str, *names: str) -> list[Any]:
    """The values of the settings ``names`` of a transform in a calibration file; they are not checked.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no calibration file of this version, or its entry ``transform`` has other settings.
    """
    accepted = f"a file of `monai-infoaug calibrate`, version {VERSION}"
    version = read_entry(path, "version", accepted)
    if version != VERSION:
        raise refusal(str(path), f"version {version}", accepted)
    settings = read_entry(path, transform, accepted)
    fitting = isinstance(settings, dict) and set(settings) == set(names)
    if not fitting:
        raise refusal(f"{transform} in {path}", settings, f"a dictionary with {', '.join(names)}")
    return [settings[name] for name in names]
