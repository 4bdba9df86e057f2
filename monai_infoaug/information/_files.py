"""JSON files that hold settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from monai_infoaug._require import refusal


def read_entry(path: str | os.PathLike[str], key: str, accepted: str) -> Any:
    """The value of ``key`` in a JSON file, which must be ``accepted``.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if ``path`` is none.
        ValueError: if it is no JSON, or no dictionary with ``key``.
    """
    if not isinstance(path, str | os.PathLike):
        raise refusal("file", path, "the path of a JSON file", TypeError)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` must be {accepted}, got {error}.") from error
    if not isinstance(content, dict) or key not in content:
        raise refusal(str(path), content, accepted)
    return content[key]
