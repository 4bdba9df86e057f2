"""Landmark tables, data lists, data sets and readers."""

from monai_infoaug.data.caching import cached_dataset
from monai_infoaug.data.datalists import (
    annotated_datalist,
    image_datalist,
    image_name,
    landmark_datalist,
    segmentation_datalist,
)
from monai_infoaug.data.landmarks import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.data.seeding import LayerSeed, SeededDataset, own_items, seeded_loader
from monai_infoaug.data.simpleitk_reader import SimpleITKReader
from monai_infoaug.data.weak_labels import weak_label_datalist

__all__ = [
    "LandmarkTable",
    "LayerSeed",
    "SeededDataset",
    "SimpleITKReader",
    "annotated_datalist",
    "cached_dataset",
    "image_datalist",
    "image_name",
    "landmark_datalist",
    "own_items",
    "read_landmarks",
    "seeded_loader",
    "segmentation_datalist",
    "weak_label_datalist",
    "write_landmarks",
]
