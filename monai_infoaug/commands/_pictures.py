"""Figures and arrays as files."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from pathlib import Path

import SimpleITK
from torch import Tensor

QUALITIES = (90, 75, 50, 25)


def small_url(image: Tensor, most: int) -> str:
    """A picture (1 or 3, X, Y) uint8 as a data URL: PNG if it is no longer than ``most``, else JPEG that fits."""
    url = data_url(image)
    for quality in QUALITIES:
        if len(url) <= most:
            break
        url = data_url(image, quality)
    return url


def data_url(image: Tensor, quality: int | None = None) -> str:
    """A picture (1, 3 or 4, X, Y) uint8 as a data URL: JPEG of a quality up to 100, PNG without."""
    pixels = image.movedim(0, -1).transpose(0, 1).contiguous().numpy()
    kind, level = ("png", -1) if quality is None else ("jpeg", quality)
    if len(image) == 1:
        pixels = pixels[..., 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image.{kind}")
        picture = SimpleITK.GetImageFromArray(pixels, isVector=len(image) > 1)
        SimpleITK.WriteImage(picture, str(path), useCompression=True, compressionLevel=level)
        return f"data:image/{kind};base64," + b64encode(path.read_bytes()).decode()
