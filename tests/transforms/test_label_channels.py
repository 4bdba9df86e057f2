from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.transforms import LabelChannels, LabelChannelsd


@pytest.mark.parametrize("size", [(5, 7), (4, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_pixel_by_pixel(size, dtype):
    labels = torch.randint(0, 4, (1, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    numbers, bits = LabelChannels(4)(labels), LabelChannels(bits=(2, 1))(labels)
    assert numbers.shape == (4, *size)
    assert bits.shape == (2, *size)
    assert numbers.dtype == bits.dtype == torch.float32
    for place in np.ndindex(*size):
        label = int(labels[(0, *place)])
        assert numbers[(slice(None), *place)].tolist() == [float(label == number) for number in range(4)]
        assert bits[(slice(None), *place)].tolist() == [float(label in (2, 3)), float(label in (1, 3))]


def test_metadata_are_kept():
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64))
    made = LabelChannelsd("label", bits=(1, 2))({"label": MetaTensor(torch.ones(1, 4, 4), affine=affine)})["label"]
    assert isinstance(made, MetaTensor)
    assert torch.equal(made.affine, affine)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`num_classes` must be given, or `bits`, and not both, got None"),
        ({"num_classes": 2, "bits": (1, 2)}, "`num_classes` must be given, or `bits`"),
        ({"num_classes": 1}, "`num_classes` must be a whole number of at least 2, got 1"),
        ({"num_classes": 2.5}, "`num_classes` must be"),
        ({"num_classes": "3"}, "`num_classes` must be"),
        ({"bits": (1, 2.0)}, "`bits` must be different powers of two"),
        ({"bits": "12"}, "`bits` must be different powers of two"),
        ({"bits": ([1], 2)}, "`bits` must be different powers of two"),
        ({"bits": (True, 2)}, "`bits` must be different powers of two"),
        ({"bits": (1, 3)}, "`bits` must be different powers of two"),
        ({"bits": (2, 2)}, "`bits` must be different powers of two"),
        ({"bits": ()}, "`bits` must be different powers of two"),
        ({"bits": 1}, "`bits` must be different powers of two"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LabelChannels(**settings)


@pytest.mark.parametrize(
    ("transform", "labels", "message"),
    [
        (LabelChannels(3), [[[0.0, 3.0]]], r"`img` must be class numbers from 0 to 2, got labels \[3.0\]"),
        (LabelChannels(3), [[[0.5]]], r"`img` must be class numbers from 0 to 2, got labels \[0.5\]"),
        (LabelChannels(bits=(1, 4)), [[[5, 2]]], r"`img` must be made of the bits \(1, 4\), got labels \[2\]"),
        (LabelChannels(2), [[[0]], [[1]]], r"`img` must be of shape \(1, \*S\), not empty, got shape \(2, 1, 1\)"),
    ],
)
def test_bad_input(transform, labels, message):
    with pytest.raises(ValueError, match=message):
        transform(torch.tensor(labels))


def test_bits_beyond_32_and_labels_that_are_no_numbers():
    bits = (1, 2**40)
    label = torch.tensor([[[0, 1, 2**40, 2**40 + 1]]])
    assert LabelChannels(bits=bits)(label).tolist() == [[[0, 1, 0, 1]], [[0, 0, 1, 1]]]
    for odd in (torch.nan, torch.inf, 0.5, -1.0):
        for channels in (LabelChannels(bits=bits), LabelChannels(2)):
            with pytest.raises(ValueError, match="`img` must be "):
                channels(torch.tensor([[[0.0, odd]]]))


def test_the_file_of_odd_labels_is_named():
    image = MetaTensor(torch.tensor([[[0.0, 255.0]]]), meta={"filename_or_obj": "a/b.png"})
    for transform in (LabelChannels(2), LabelChannels(bits=(1, 2))):
        with pytest.raises(ValueError, match=r"got labels \[255.0\] in 'a/b.png'\.$"):
            transform(image)
