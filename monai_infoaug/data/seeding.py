"""Items for each process, and randomness that belongs to the item, not to the worker or process that serves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import DataLoader
from torch.utils.data import Dataset, DistributedSampler, Subset

from monai_infoaug._processes import rank, world_size
from monai_infoaug._require import is_count, refusal

__all__ = ["LayerSeed", "SeededDataset", "own_items", "seeded_loader"]


class _MapStyle(Protocol):
    """What :py:class:`SeededDataset` asks of a data set."""

    transform: Any

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class LayerSeed:
    """Make what layers draw in training, such as dropout, a function of (seed, epoch).

    It seeds PyTorch's global generators, of the host and of GPUs. Give it to an
    :py:class:`monai_infoaug.handlers.EpochSetter`, so that a training that was stopped drops out the same as one that
    ran through.

    Args:
        seed: non-negative integer.

    Raises:
        ValueError: if ``seed`` is no non-negative integer.

    Example:
        >>> layers = LayerSeed(seed=7)
        >>> layers.set_epoch(3)
        >>> first = torch.rand(2)
        >>> layers.set_epoch(3)
        >>> torch.equal(torch.rand(2), first)
        True
    """

    def __init__(self, seed: int = 0) -> None:
        if not is_count(seed):
            raise refusal("seed", seed, "a non-negative integer")
        self.seed = int(seed)

    def set_epoch(self, epoch: int) -> None:
        """Seed for the epoch."""
        own = [rank()] if rank() else []  # other processes have other images to drop out of
        torch.manual_seed(int(np.random.SeedSequence([self.seed, epoch, *own]).generate_state(1, np.uint64)[0]))


class SeededDataset(Dataset):
    """Make the randomness of an item a function of (seed, epoch, index of the item) alone.

    Before it serves item ``i``, it seeds the wrapped data set's transform from the three numbers. So resuming at an
    epoch, changing ``num_workers`` or the batch size, shuffling, and splitting over processes all give the same
    items, and no two items or epochs share their random numbers. Call :py:meth:`set_epoch` before each epoch, as with
    :py:class:`torch.utils.data.DistributedSampler`; workers that are already running (``persistent_workers=True``)
    see it. So do those of a copy, by ``copy``, ``deepcopy`` or pickle, which begins with the same epoch and then has
    its own.

    Wrap the data set itself and split afterwards (``Subset``, sampler), because the index is that of the wrapped
    data set. The transform is seeded in place: threads that share it (``monai.data.ThreadDataLoader`` with
    ``use_thread_workers=True``) would disturb each other. Transforms that draw from a global generator are out of
    reach.

    Args:
        dataset: a MONAI ``Dataset``, ``CacheDataset``, ``PersistentDataset`` or other map-style data set whose
            ``transform`` is a ``Compose`` or another ``Randomizable``.
        seed: non-negative integer.

    Raises:
        TypeError: if ``dataset`` has no length or no transform that can be seeded.
        ValueError: if ``seed`` or the epoch is no non-negative integer.

    Example:
        >>> import torch
        >>> from monai.data import Dataset
        >>> from monai.transforms import RandGaussianNoise
        >>> dataset = SeededDataset(Dataset([torch.zeros(1, 2, 2)] * 4, RandGaussianNoise(prob=1.0)), seed=7)
        >>> first = dataset[2]
        >>> torch.equal(dataset[2], first), torch.equal(dataset[3], first)
        (True, False)
        >>> dataset.set_epoch(1)
        >>> torch.equal(dataset[2], first)
        False
    """

    def __init__(self, dataset: _MapStyle, seed: int = 0) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(getattr(dataset, "transform", None), "set_random_state"):
            accepted = "a map-style dataset whose `transform` has `set_random_state` (wrap it before a Subset)"
            raise refusal("dataset", type(dataset).__name__, accepted, TypeError)
        if not is_count(seed):
            raise refusal("seed", seed, "a non-negative integer")
        self.dataset, self.seed = dataset, int(seed)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # running workers read the same memory

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy: what is copied or read again lies in memory of this process alone."""
        self.__dict__.update(state)
        self._epoch.share_memory_()

    def __copy__(self) -> SeededDataset:
        copied = type(self).__new__(type(self))
        copied.__dict__ |= self.__dict__ | {"_epoch": self._epoch.clone().share_memory_()}
        return copied

    @property
    def epoch(self) -> int:
        """The epoch whose items are served."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Serve the items of ``epoch`` (non-negative) from now on, here and in running workers."""
        if not is_count(epoch):
            raise refusal("epoch", epoch, "a non-negative integer")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        """Item ``index``, negative ones from the end; for a slice or sequence a ``Subset`` of this, as in MONAI."""
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        if isinstance(index, Sequence):
            return Subset(self, index)
        index = range(len(self))[index]  # IndexError out of range; -1 and the last index are the same item
        mixed = np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1)
        self.dataset.transform.set_random_state(seed=int(mixed[0]))
        return self.dataset[index]


class _SomeItems(DistributedSampler):
    """This process's share of some items of a data set, others in every epoch.

    A batch of all processes together has the items that it has in one process.
    """

    def __init__(self, dataset: Dataset, number: int, seed: int) -> None:
        super().__init__(dataset, world_size(), rank(), seed=int(seed))
        self.number = number // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.number)

    def __len__(self) -> int:
        return self.number


class _Loader(DataLoader):
    """A loader whose copies have workers of their own."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_iterator": None}  # which owns the running ones


def seeded_loader(
    dataset: _MapStyle, batch_size: int, seed: int = 0, num_workers: int = 0, draws: int | None = None, **kwargs: Any
) -> DataLoader:
    """Shuffled whole batches of a data set, whose order and random changes are functions of (seed, epoch) alone.

    ``loader.dataset`` is a :py:class:`SeededDataset` and ``loader.sampler`` a ``DistributedSampler``: call
    ``set_epoch`` of both before each epoch, as the handler ``EpochSetter`` does. Processes under ``torchrun`` share
    each batch: together they get what one process gets.

    Args:
        dataset: see :py:class:`SeededDataset`.
        batch_size: items a batch of all processes together, at most all of an epoch.
        seed: non-negative integer.
        num_workers: processes that make the items; they stay from epoch to epoch.
        draws: items an epoch, drawn anew for each one; None: all.
        kwargs: further arguments of ``monai.data.DataLoader``.

    Returns:
        The loader, without the last batch of an epoch where it is not whole.

    Raises:
        TypeError: for a data set that cannot be seeded.
        ValueError: for a ``seed`` that is no non-negative integer, a batch without items or that the processes cannot
            share equally, or ``draws`` that are not from 1 to the length of the data set.

    Example:
        >>> from monai.data import Dataset
        >>> from monai.transforms import RandScaleIntensity
        >>> loader = seeded_loader(Dataset([torch.ones(1)] * 5, RandScaleIntensity(0.5, prob=1.0)), batch_size=2)
        >>> [len(batch) for batch in loader]
        [2, 2]
    """
    if not is_count(batch_size, 1):
        raise refusal("batch_size", batch_size, "a whole number of at least 1")
    if not is_count(num_workers):
        raise refusal("num_workers", num_workers, "a whole number of at least 0")
    seeded = SeededDataset(dataset, seed)
    number = len(seeded) if draws is None else draws
    if not is_count(number, 1) or number > len(seeded):
        raise refusal("draws", draws, f"from 1 to {len(seeded)}, the items, or None for all")
    whole, ranks = int(min(batch_size, number)), world_size()
    if whole % ranks != 0:
        raise refusal("batch_size", whole, f"a multiple of the {ranks} processes")
    return _Loader(
        seeded,
        batch_size=whole // ranks,
        sampler=_SomeItems(seeded, number, seed),
        num_workers=int(num_workers),
        persistent_workers=num_workers > 0,
        drop_last=True,
        **kwargs,
    )


def own_items(dataset: Sized) -> range:
    """Indices of the items that this process evaluates, a sampler for a ``DataLoader``.

    Args:
        dataset: data set, with at least an item a process.

    Returns:
        Every n-th index, for the n-th of so many processes; no item is of two processes.

    Raises:
        ValueError: for fewer items.

    Example:
        >>> list(own_items(["a", "b", "c"]))  # alone
        [0, 1, 2]
    """
    number, ranks = len(dataset), world_size()
    if number < ranks:
        raise refusal("dataset", f"{number} items", f"one for each of the {ranks} processes")
    return range(rank(), number, ranks)
