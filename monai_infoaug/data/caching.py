"""What comes before the first random transform, computed once for a whole cohort."""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from pickle import PicklingError
from typing import Any

import monai
import numpy as np
import torch
from monai.config import PathLike
from monai.data import CacheDataset, DataLoader, MetaObj, MetaTensor, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.utils import convert_to_tensor, optional_import
from monai.utils.enums import MetaKeys, SpaceKeys, TraceKeys
from torch import Tensor
from torch.utils.data import Dataset

from monai_infoaug._files import save_whole
from monai_infoaug._processes import rank, wait_for_pools, world_size
from monai_infoaug._require import is_count, reason, refusal, to_path
from monai_infoaug._versions import read_weights
from monai_infoaug.data._item_files import files_of_item

tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

__all__ = ["cached_dataset"]

MACHINE = re.sub(r"\W", "", platform.node())[:32]
VERSIONS = version("monai_infoaug"), monai.__version__
# what items are made of beside plain tensors
SAFE: list[Any] = [
    MetaTensor,
    MetaObj,
    MetaKeys,
    SpaceKeys,
    type(Path()),
    np.zeros(1).__reduce__()[0],
    np.float64(0).__reduce__()[0],
    np.ndarray,
    np.dtype,
    TraceKeys,
]
SAFE += {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?US"}


def cached_dataset(
    data: Sequence[Any], transform: Callable, cache_dir: PathLike | None = None, num_workers: int = 0
) -> CacheDataset | PersistentDataset:
    """A data set whose items are computed ahead, up to the first random transform: in memory, or on disk to stay there.

    On disk an item belongs to its data, to the size and time of all its files when the data set is made, to every
    setting of the transforms and to the versions of this package and MONAI. Its files are those in its lists, mappings
    and folders, and those with the pixels of a header (MetaImage, NRRD, pairs such as ``.hdr`` and ``.img``). So a
    changed window never reads the maps of another; the same folder may serve several pipelines and processes; and a run
    that was stopped goes on where it was. Workers compute what is missing; processes under ``torchrun`` share it. Items
    are written whole or not at all, and read weights-only: nothing in a file is executed. One that is damaged, were it
    by a bit, is made anew, with a warning.

    Args:
        data: items, such as those of ``image_datalist``; they may repeat themselves.
        transform: ``Compose``, or a sequence of transforms; those before the first random one must be picklable.
        cache_dir: folder for the items, made where it is missing; None: they are kept in memory.
        num_workers: processes that compute the items (on disk), or threads (in memory).

    Returns:
        The data set, all of whose items are there, but for what is random.

    Raises:
        ValueError: if ``cache_dir`` is a file, or a transform cannot be pickled.
        OSError: if ``cache_dir`` cannot be written to, or the disk is full.

    Example:
        >>> from monai.transforms import RandFlip, ScaleIntensity
        >>> data = [torch.arange(4.0).view(1, 2, 2)] * 3
        >>> cached_dataset(data, [ScaleIntensity(), RandFlip(1.0, 1)])[0].tolist()
        [[[0.3333333432674408, 0.0], [1.0, 0.6666666865348816]]]
    """
    if not is_count(num_workers):
        raise refusal("num_workers", num_workers, "a whole number of at least 0")
    if cache_dir is None:
        before = threading.enumerate()
        progress = has_tqdm and rank() == 0 and sys.stderr.isatty()  # a log would keep each redraw of MONAI's bar
        try:
            return CacheDataset(data, transform, num_workers=max(1, num_workers), progress=progress, hash_as_key=True)
        except Exception:
            wait_for_pools(before)
            raise
    if to_path("cache_dir", cache_dir).is_file():
        raise refusal("cache_dir", f"the file '{cache_dir}'", "a folder, or None")
    dataset = _OnDisk(data, transform, cache_dir)
    dataset.fill(num_workers)
    return dataset


class _OnDisk(PersistentDataset):
    """MONAI's data set, whose files belong to their settings, are whole or not there, and are read weights-only."""

    def __init__(self, data: Sequence[Any], transform: Callable, cache_dir: PathLike) -> None:
        self.folder = Path(cache_dir).absolute()
        super().__init__(data, transform, self.folder, hash_transform=_key_of_settings)
        self.set_data(data)

    def set_data(self, data: Sequence[Any]) -> None:
        """Serve other items. MONAI's would delete the folder, with what it holds for others."""
        self.data = data
        self.files = [self.folder / f"{self._key(item)}{self.transform_hash}.pt" for item in data]

    def _key(self, item: Any) -> str:
        files = files_of_item(item, apart_from=self.folder)
        return pickle_hashing({"item": item, "files": files}).decode()

    def fill(self, num_workers: int) -> None:
        """Compute this process's share of what is missing, or was half written when a run was killed."""
        _clear_up(self.folder)
        numbers = {file: index for index, file in enumerate(self.files)}
        missing = []
        for file, index in islice(numbers.items(), rank(), None, world_size()):
            if file.exists() and not zipfile.is_zipfile(file):  # the end of the archive is missing
                file.unlink(missing_ok=True)
            if not file.exists():
                missing.append(index)
        # with a generator of its own, so that nothing else depends on what was missing
        loader = DataLoader(_Computed(self, missing), num_workers=num_workers, generator=torch.Generator())
        for _ in tqdm(loader, f"Computing ahead in {self.folder}", disable=None) if has_tqdm else loader:
            pass

    def _transform(self, index: int) -> Any:
        return self._post_transform(self.computed(index))

    def computed(self, index: int) -> Any:
        """An item before what is random, from its file, or computed and written where that is missing or damaged."""
        file = self.files[index]
        try:
            return _read(file)
        except FileNotFoundError:
            pass
        except Exception as error:  # whatever damage leads to
            warnings.warn(f"Corrupt cache file, which is made anew: {file} ({reason(error)}).", stacklevel=2)
        item = self._pre_transform(deepcopy(self.data[index]))
        item = _stored(item)
        try:
            save_whole(item, file, f".{MACHINE}-{os.getpid()}-{threading.get_ident()}.partial")
        except OSError as error:
            got = f"'{self.folder}' ({error.strerror})"
            raise refusal("cache_dir", got, "a folder with room that can be written to", OSError) from error
        return item


def _stored(item: Any) -> Any:
    """An item with tensors for its arrays, which are of this machine's byte order before, since PyTorch asks for it."""
    if isinstance(item, np.ndarray):
        item = item.astype(item.dtype.newbyteorder("="), copy=False)
    if isinstance(item, np.ndarray | Tensor):
        return convert_to_tensor(item, track_meta=True)
    if type(item) in (list, tuple):
        return type(item)(map(_stored, item))
    return {key: _stored(value) for key, value in item.items()} if type(item) is dict else item


def _read(file: Path) -> Any:
    """Read an entry.

    Raises:
        OSError, ValueError and others: for one that is not there or damaged, even in a single byte.
    """
    with zipfile.ZipFile(file) as archive:  # PyTorch does not look at the checksums that it writes
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
    return read_weights(file, safe=SAFE)


def _clear_up(folder: Path) -> None:
    """Delete what processes of this machine had half written when they were killed."""
    for partial in folder.glob(f"*.{MACHINE}-*-*.partial"):
        process = partial.name.split("-")[-2]
        if process.isdecimal() and not _lives(int(process)):
            with suppress(OSError):  # elsewhere than on POSIX, a file that is being written cannot be deleted
                partial.unlink()


def _lives(process: int) -> bool:
    if os.name != "posix":
        return False  # there, signal 0 would be one
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


class _Computed(Dataset):
    """Items to be computed; what comes back is empty, since it is on disk."""

    def __init__(self, dataset: _OnDisk, numbers: Sequence[int]) -> None:
        self.dataset, self.numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> int:
        self.dataset.computed(self.numbers[index])
        return index


def _key_of_settings(transforms: Sequence[Callable]) -> bytes:
    try:
        return pickle_hashing({"versions": VERSIONS, "transforms": transforms})
    except (AttributeError, PicklingError, TypeError) as error:
        raise ValueError(f"`transform` must be picklable up to the first random transform, got {error}.") from error
