"""What comes before the first random transform, computed once for a whole cohort."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from pickle import PicklingError
from typing import Any

import monai
import numpy as np
import torch
from monai.config import PathLike
from monai.data import CacheDataset, DataLoader, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.utils import optional_import
from monai.utils.enums import TraceKeys
from torch.utils.data import Dataset

from monai_infoaug._processes import rank, world_size
from monai_infoaug._require import refusal

tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

__all__ = ["cached_dataset"]

VERSIONS = version("monai_infoaug"), monai.__version__
# what MetaTensors need beside what MONAI allows: arrays in their metadata
ARRAYS: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0], np.ndarray, np.dtype, TraceKeys]
ARRAYS += {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?US"}


def cached_dataset(
    data: Sequence[Any], transform: Callable, cache_dir: PathLike | None = None, num_workers: int = 0
) -> CacheDataset | PersistentDataset:
    """A data set whose items are computed ahead, up to the first random transform: in memory, or on disk to stay there.

    On disk an item belongs to its data, to the size and time of the files in it, to every setting of the transforms
    and to the versions of this package and MONAI. So a changed window never reads the maps of another; the same folder
    may serve several pipelines and processes; and a run that was stopped goes on where it was. Workers compute what is
    missing; processes under ``torchrun`` share it. Items are read weights-only: nothing in a file is executed.

    Args:
        data: items, such as those of ``image_datalist``; they may repeat themselves.
        transform: ``Compose``, or a sequence of transforms; those before the first random one must be picklable.
        cache_dir: folder for the items, made where it is missing; None: they are kept in memory.
        num_workers: processes that compute the items (on disk), or threads (in memory).

    Returns:
        The data set, all of whose items are there, but for what is random.

    Raises:
        ValueError: if ``cache_dir`` is a file, or a transform cannot be pickled.

    Example:
        >>> from monai.transforms import RandFlip, ScaleIntensity
        >>> data = [torch.arange(4.0).view(1, 2, 2)] * 3
        >>> cached_dataset(data, [ScaleIntensity(), RandFlip(1.0, 1)])[0].tolist()
        [[[0.3333333432674408, 0.0], [1.0, 0.6666666865348816]]]
    """
    if cache_dir is None:
        progress = has_tqdm and rank() == 0
        return CacheDataset(data, transform, num_workers=max(1, num_workers), progress=progress, hash_as_key=True)
    if Path(cache_dir).is_file():
        raise refusal("cache_dir", f"the file '{cache_dir}'", "a folder, or None")
    dataset = _OnDisk(data, transform, cache_dir)
    dataset.fill(num_workers)
    return dataset


class _OnDisk(PersistentDataset):
    """MONAI's data set, whose files belong to their settings and are read weights-only."""

    def __init__(self, data: Sequence[Any], transform: Callable, cache_dir: PathLike) -> None:
        self.folder = Path(cache_dir)
        super().__init__(
            data,
            transform,
            self.folder,
            hash_func=_key_of_item,
            hash_transform=_key_of_settings,
            track_meta=True,
            weights_only=False,
        )
        self.weights_only = True  # MONAI 1.6.0 refuses it beside `track_meta`: it does not know that arrays are safe

    def _cachecheck(self, item: Any) -> Any:
        with torch.serialization.safe_globals(ARRAYS):
            return super()._cachecheck(item)

    def _file(self, item: Any) -> Path:
        return self.folder / f"{_key_of_item(item).decode()}{self.transform_hash}.pt"

    def fill(self, num_workers: int) -> None:
        """Compute this process's share of what is missing, or was half written when a run was killed."""
        files = {self._file(item): item for item in self.data}
        missing = []
        for file, item in islice(files.items(), rank(), None, world_size()):
            if file.exists() and not zipfile.is_zipfile(file):  # the end of the archive is missing
                file.unlink(missing_ok=True)
            if not file.exists():
                missing.append(item)
        # with a generator of its own, so that nothing else depends on what was missing
        loader = DataLoader(_Computed(self, missing), num_workers=num_workers, generator=torch.Generator())
        for _ in tqdm(loader, f"Computing ahead in {self.folder}", disable=None) if has_tqdm else loader:
            pass


class _Computed(Dataset):
    """Items to be computed; what comes back is empty, since it is on disk."""

    def __init__(self, dataset: _OnDisk, items: Sequence[Any]) -> None:
        self.dataset, self.items = dataset, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> int:
        self.dataset._cachecheck(self.items[index])
        return index


def _key_of_item(item: Any) -> bytes:
    values = item.values() if isinstance(item, Mapping) else [item]
    stats = [os.stat(value) for value in values if isinstance(value, str | Path) and os.path.exists(value)]
    return pickle_hashing({"item": item, "files": [(stat.st_size, stat.st_mtime_ns) for stat in stats]})


def _key_of_settings(transforms: Sequence[Callable]) -> bytes:
    try:
        return pickle_hashing({"versions": VERSIONS, "transforms": transforms})
    except (AttributeError, PicklingError, TypeError) as error:
        raise ValueError(f"`transform` must be picklable up to the first random transform, got {error}.") from error
