"""Images and checkpoints for the tests of commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser


def anatomy(shape: tuple[int, ...], shift: float = 0, noise: float = 0, seed: int = 0) -> np.ndarray:
    """Blobs in [0, 255] on an empty ground, with a texture that is flat, coarse and fine from one side to the other."""
    generator = np.random.default_rng(0)  # the same anatomy each time
    grid = np.stack(np.meshgrid(*(np.arange(n) - shift for n in shape), indexing="ij"))
    image = np.zeros(shape)
    for _ in range(30):
        centre = generator.uniform(0, 1, len(shape)) * shape
        width = (0.3 - 0.25 * centre[0] / shape[0]) * min(shape) / 2
        distance = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        image += generator.uniform(0.3, 1) * np.exp(-distance / (2 * width**2))
    image += noise * np.random.default_rng(seed).normal(size=shape)
    return (255 * image / image.max()).clip(0, 255).astype(np.uint8)


def smooth(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth noise in [0, 255]."""
    coarse = np.random.default_rng(seed).random([s // 4 for s in shape])
    fine = torch.nn.functional.interpolate(
        torch.tensor(coarse)[None, None], shape, mode=["bilinear", "trilinear"][len(shape) - 2]
    )
    return (255 * fine[0, 0].numpy()).astype(np.uint8)


def folder_of(path: Path, arrays: list[np.ndarray], suffix: str = ".png", channels: bool = False) -> Path:
    """A folder with an image an array."""
    path.mkdir(exist_ok=True)
    for number, array in enumerate(arrays):
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=channels), path / f"{number}{suffix}")
    return path


def save_checkpoint(path: Path, bundle: Path, settings: dict) -> Path:
    """A checkpoint of an untrained network: enough to find a template in itself."""
    torch.manual_seed(0)
    config = ConfigParser()
    config.read_config(bundle / "configs" / "train.json")
    config.update({"features": settings["features"]} if "features" in settings else {})
    torch.save({"network": config.get_parsed_content("network_def").state_dict(), "settings": settings}, path)
    return path
