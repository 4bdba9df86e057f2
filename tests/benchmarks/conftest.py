"""A folder of small annotated pictures, as the benchmarks of landmarks read them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_infoaug.data import LandmarkTable, write_landmarks
from tests.examples import bundle_runs  # noqa: F401  # what MONAI looks for in all of its modules it looks for once


def picture(seed: int) -> np.ndarray:
    from PIL import Image

    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 8), np.uint8))
    smooth = np.asarray(coarse.resize((64, 72), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + np.random.default_rng(seed).integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def write_table() -> Callable:
    """Writes the table of a split: these points for the template, "1", and others for all other images."""

    def write(folder: Path, split: str, names: list[str], points: list, others: list | None = None) -> None:
        others = others or [[9.0, 8.0], [20.5, 30.25]]
        rows = {name: points if name == "1" and split == "train" else others for name in names}
        write_landmarks(folder / f"{split}_landmarks_mm.csv", LandmarkTable("01", rows))

    return write


@pytest.fixture
def data(tmp_path: Path, write_table: Callable) -> Path:
    """Five training images and two test images."""
    from PIL import Image

    folder = tmp_path / "data"
    for split, seeds in (("train", range(5)), ("test1", (7, 8))):
        (folder / split).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(picture(seed)).save(folder / split / f"{seed}.png")
        write_table(folder, split, [str(seed) for seed in seeds], [[10.0, 8.0], [20.0, 30.0]])
    return folder
