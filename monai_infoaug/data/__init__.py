"""Landmark tables, data lists and data sets."""

from monai_infoaug.data.landmarks import (
    image_datalist,
    landmark_datalist,
    read_landmarks,
    write_landmarks,
)
from monai_infoaug.data.seeding import SeededDataset

__all__ = [
    "SeededDataset",
    "image_datalist",
    "landmark_datalist",
    "read_landmarks",
    "write_landmarks",
]
