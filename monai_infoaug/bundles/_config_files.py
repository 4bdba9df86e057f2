"""The files that a bundle's configuration is about to read, looked at before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.transforms import Compose
from monai.utils import ensure_tuple

from monai_infoaug._require import is_count, refusal
from monai_infoaug.data import image_datalist
from monai_infoaug.data._headers import faults
from monai_infoaug.data._places import if_turned, outside

KEEPING = {  # transforms after which an image has the axes and channels of its file
    *("monai.transforms.EnsureChannelFirstd", "monai.transforms.LoadImaged", "monai.transforms.Orientationd"),
    *("monai.transforms.Spacingd", "monai_infoaug.transforms.AssignPixdimd"),
    "monai_infoaug.transforms.ModalityPresetd",
}
RESAMPLING = ("monai.transforms.ResampleToMatchd", "monai.transforms.Spacingd")


def require_files_of(config: ConfigParser) -> None:
    """Refuse files that the run would end at, by the headers of those that its data sets will read.

    Of the first image with landmarks the pixels are read, too: a table in another frame has all of them outside.

    Raises:
        ValueError: for the first kind of fault.
    """
    steps = [step for name in ("preprocessing_transforms", "label_transforms") for step in config.get(name) or ()]
    steps = [step if isinstance(step, dict) else {} for step in steps]
    if "SimpleITKReader" not in repr(steps):
        return
    reached = _reached(config, "run")
    items = [item for name, entry in reached.items() for item in _items_of(config, name, entry)]
    # a folder may be one DICOM series, or several images; whoever reads it says what is wrong
    with suppress(OSError, ValueError):
        items += image_datalist(config.get("template"))
    dims = channels = is_resampled = None
    if "channel_dim" not in repr(steps) and all(step.get("_target_") in KEEPING for step in steps):
        found = {name: config.get(name) for name in ("network_def::spatial_dims", "spatial_dims", "in_channels")}
        counts = {name.split("::")[-1]: value for name, value in found.items() if is_count(value)}
        dims, channels = counts.get("spatial_dims"), {"image": counts.get("in_channels"), "label": 1}
        is_resampled = any(_resamples_labels(entry) for entry in [*reached.values(), *steps])
    saying = ", which `in_channels` says"
    for fault in faults(items, dims, channels, config.get("pixdim", 1), saying, is_resampled):
        raise fault
    _require_landmarks_inside(config, items)


def _require_landmarks_inside(config: ConfigParser, items: Iterable[Any]) -> None:
    """Refuse landmarks none of which lies in its image, by the first item that has both.

    Raises:
        ValueError: naming the image.
    """
    names = [step.get("_target_") for step in config.get("preprocessing_transforms") or () if isinstance(step, dict)]
    located = "monai_infoaug.transforms.AssignPixdimd"
    for item in items if located in names else ():
        points = np.asarray(item.get("landmarks", ()) if isinstance(item, Mapping) else (), float)
        if points.ndim != 2 or not np.isfinite(points).all(1).any():
            continue
        points = points[np.isfinite(points).all(1)]
        read = Compose(config.get_parsed_content("preprocessing_transforms")[: names.index(located) + 1])
        image = read({"image": item["image"]})["image"]
        if points.shape[1] == image.ndim - 1 and outside(points, image)[1].all():
            got = f"all outside of '{item['image']}'{if_turned(points, image)}"
            raise refusal("landmarks", got, "inside of their image")
        return


def _reached(config: ConfigParser, start: str) -> dict[str, Any]:
    """Entries of a configuration that an entry leads to, by name, as far as they can be found yet."""
    reached, due = {}, [start]
    while due:
        name = due.pop()
        with suppress(Exception):  # whoever needs it says what is wrong
            reached[name] = config[name]
            found = config.ref_resolver.find_refs_in_config(reached[name], name).keys()
            due += sorted(found - reached.keys() - {*due})
    return reached


def _items_of(config: ConfigParser, name: str, entry: Any) -> Iterator[Any]:
    """Items of an entry that is a data set, as far as they can be listed yet."""
    if isinstance(entry, dict) and {"_target_", "data"} <= entry.keys():
        with suppress(Exception):  # whoever needs it says what is wrong
            yield from list(config.get_parsed_content(f"{name}::data"))


def _resamples_labels(entry: Any) -> bool:
    """Whether an entry is a transform that resamples labels."""
    if not isinstance(entry, dict) or entry.get("_target_") not in RESAMPLING:
        return False
    return "label" in ensure_tuple(entry.get("keys"))
