from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, Lambda, RandGaussianNoise
from torch.utils.data import Subset

from monai_infoaug.data import LayerSeed, SeededDataset, seeded_loader

LENGTH = 6
ITEMS = [torch.full((1, 3, 3), float(i)) for i in range(LENGTH)]


def seeded(seed: int = 0) -> SeededDataset:
    return SeededDataset(Dataset(ITEMS, Compose([RandGaussianNoise(prob=1.0), RandGaussianNoise(prob=0.5)])), seed)


def served(dataset, **kwargs) -> dict[int, torch.Tensor]:
    """Noise by item (the item's number is its mean before the noise)."""
    batches = list(DataLoader(dataset, **{"batch_size": 2, "num_workers": 0, **kwargs}))
    return {round(float(item.mean())): item for batch in batches for item in batch}


def same(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[i], b[i]) for i in a)


def test_item_depends_on_seed_epoch_and_index_alone():
    dataset = seeded()
    noise = [torch.as_tensor(dataset[i] - ITEMS[i]) for i in range(LENGTH)]
    again = [torch.as_tensor(dataset[i] - ITEMS[i]) for i in reversed(range(LENGTH))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(noise, again, strict=True))
    dataset.set_epoch(1)
    noise += [torch.as_tensor(dataset[i] - ITEMS[i]) for i in range(LENGTH)]
    noise += [torch.as_tensor(seeded(seed=1)[i] - ITEMS[i]) for i in range(LENGTH)]
    flat = torch.stack(noise).flatten(1)
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 1e-3  # no two alike


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_batches_and_shuffling_change_nothing(workers):
    reference = served(seeded())
    assert len(reference) == LENGTH
    assert same(reference, served(seeded(), num_workers=workers, batch_size=3))
    assert same(reference, served(seeded(), num_workers=workers, shuffle=True))


def test_two_ranks_serve_what_one_serves():
    ranks = [served(Subset(seeded(), range(rank, LENGTH, 2))) for rank in range(2)]
    assert same(served(seeded()), ranks[0] | ranks[1])


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_epoch_reaches_running_workers(context):
    dataset = seeded()
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True, multiprocessing_context=context)
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        expected = seeded()
        expected.set_epoch(epoch)
        got = {round(float(item.mean())): item[0] for item in loader}
        assert same(got, {i: expected[i] for i in range(LENGTH)})


def test_cached_prefix_is_computed_once_and_the_rest_is_seeded(tmp_path):
    calls = []
    chain = Compose([Lambda(func=lambda x: calls.append(1) or x + 1), RandGaussianNoise(prob=1.0)])
    cached = SeededDataset(CacheDataset(ITEMS, chain, num_workers=None, progress=False))
    reference = [cached[i] for i in range(LENGTH)]
    assert len(calls) == LENGTH
    assert all(torch.equal(cached[i], reference[i]) for i in range(LENGTH))
    assert len(calls) == LENGTH
    chain = Compose([Lambda(func=torch.neg), RandGaussianNoise(prob=1.0)])
    disk = SeededDataset(PersistentDataset(ITEMS, chain, tmp_path, hash_transform=pickle_hashing))
    plain = SeededDataset(Dataset(ITEMS, chain))
    assert all(torch.equal(disk[i], plain[i]) for i in [*range(LENGTH), 0])


def test_indexing_follows_the_data_set():
    dataset = seeded()
    assert torch.equal(dataset[-1], dataset[LENGTH - 1])
    assert torch.equal(dataset[np.int64(1)], dataset[1])
    assert torch.equal(dataset[2:5:2][1], dataset[4])
    assert torch.equal(dataset[[3, -6]][1], dataset[0])
    assert len(list(dataset)) == len(dataset) == LENGTH
    with pytest.raises(IndexError):
        dataset[LENGTH]


def test_single_random_transform_and_pickle():
    dataset = SeededDataset(Dataset(ITEMS, RandGaussianNoise(prob=1.0)), seed=3)
    dataset.set_epoch(5)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.epoch == 5
    assert torch.equal(copy[1], dataset[1])


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_copy_has_the_epoch_and_then_its_own(copied, started, workers):
    def batches(loader, epoch=None):
        if epoch is not None:
            loader.dataset.set_epoch(epoch), loader.sampler.set_epoch(epoch)
        return torch.stack([torch.as_tensor(batch) for batch in loader])

    loader = seeded_loader(seeded().dataset, 2, seed=1, num_workers=workers)
    third = batches(loader, 3) if started else None
    loader.dataset.set_epoch(3), loader.sampler.set_epoch(3)
    other = copied(loader)
    assert other.dataset.epoch == 3
    got = batches(other)
    assert torch.equal(got, batches(loader) if third is None else third)
    fourth = batches(other, 4)  # of workers that are already running
    assert not torch.equal(fourth, got)
    assert loader.dataset.epoch == 3
    assert torch.equal(batches(loader, 4), fourth)


def test_a_shallow_copy_shares_all_but_the_epoch():
    dataset = seeded()
    dataset.set_epoch(3)
    other = copy.copy(dataset)
    assert (other.dataset, other.seed, other.epoch) == (dataset.dataset, dataset.seed, 3)
    other.set_epoch(4)
    assert dataset.epoch == 3
    dataset.set_epoch(5)
    assert other.epoch == 4
    assert other._epoch.is_shared()


def test_a_copied_seed_of_layers_draws_the_same():
    layers = LayerSeed(5)
    drawn = []
    for each in (layers, *(copied(layers) for copied in COPIES.values())):
        each.set_epoch(2)
        drawn.append(torch.rand(3))
    assert all(torch.equal(drawn[0], other) for other in drawn)


def test_seeds_of_neighbours_do_not_collide():
    dataset, seen = seeded(), []
    dataset.dataset.transform.set_random_state = lambda *, seed: seen.append(seed)
    for dataset.seed in range(3):
        for epoch in range(3):
            dataset.set_epoch(epoch)
            _ = [dataset[i] for i in range(LENGTH)]
    assert len(seen) == len(set(seen)) == 9 * LENGTH
    assert len({b - a for a, b in pairwise(seen)}) > LENGTH  # mixed, not merely shifted


def test_bad_input():
    with pytest.raises(TypeError, match=r"`dataset` must be .*`transform`"):
        SeededDataset(Subset(Dataset(ITEMS, RandGaussianNoise()), [0]))
    with pytest.raises(TypeError, match="`dataset`"):
        SeededDataset(iter(ITEMS))
    with pytest.raises(ValueError, match="`seed` must be a non-negative integer, got -1"):
        seeded(seed=-1)
    with pytest.raises(ValueError, match=r"`seed` must be a non-negative integer, got 0\.5"):
        seeded(seed=0.5)
    with pytest.raises(ValueError, match="`seed` must be a non-negative integer, got True"):
        LayerSeed(True)
    with pytest.raises(ValueError, match="`epoch` must be a non-negative integer, got -2"):
        seeded().set_epoch(-2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_an_epoch_are_the_same_in_every_run(num_workers):
    def epochs(seed, workers):
        loader = seeded_loader(seeded().dataset, 4, seed, workers)
        assert len(loader) == 1
        assert loader.dataset.seed == seed
        for epoch in (1, 2):
            loader.dataset.set_epoch(epoch), loader.sampler.set_epoch(epoch)
            yield torch.stack([torch.as_tensor(item) for batch in loader for item in batch])

    first, again, other = (list(epochs(seed, n)) for seed, n in ((0, 0), (0, num_workers), (1, 0)))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_some_items_an_epoch_are_others_in_the_next_one():
    loader = seeded_loader(seeded().dataset, 2, seed=5, draws=4)
    drawn = []
    for epoch in range(60):
        loader.dataset.set_epoch(epoch), loader.sampler.set_epoch(epoch)
        drawn.append(tuple(loader.sampler))
        assert len(loader) == len(list(loader)) == 2
        assert len(set(drawn[-1])) == len(loader.sampler) == 4
    assert len(set(drawn)) > 30
    assert {i for epoch in drawn for i in epoch} == set(range(LENGTH))


def test_a_batch_has_at_most_all_items():
    assert [len(batch) for batch in seeded_loader(seeded().dataset, 50)] == [LENGTH]
    assert [len(batch) for batch in seeded_loader(seeded().dataset, 50, draws=3)] == [3]
    for draws in (0, LENGTH + 1, 2.5, "2"):
        with pytest.raises(ValueError, match=f"`draws` must be from 1 to {LENGTH}, .* got {draws}"):
            seeded_loader(seeded().dataset, 2, draws=draws)
    for size in (0, 2.0, "2"):
        with pytest.raises(ValueError, match=f"`batch_size` must be a whole number of at least 1, got {size}"):
            seeded_loader(seeded().dataset, size)
