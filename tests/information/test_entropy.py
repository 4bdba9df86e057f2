from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.utils.data import DataLoader

from monai_infoaug.information import entropy, local_entropy

R = np.random.RandomState(0)


@pytest.fixture(params=["numba", "torch"])
def path(request, monkeypatch):
    """Runs a test on each of the two paths."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="the fast path needs numba")
        monkeypatch.setattr(entropy, "window_entropy", None)
    else:
        monkeypatch.setattr(entropy, "_numba_window_entropy", lambda: None)


def brute_force(image, window, num_bins, value_range=None, mask=None):
    """The definition: one histogram a pixel."""
    mask = np.broadcast_to(np.ones_like(image, bool) if mask is None else mask, image.shape)
    radii = np.broadcast_to(window, image.ndim - 1) // 2
    result = np.zeros(image.shape)
    for channel, inside, out in zip(image, mask, result, strict=True):
        low, high = np.percentile(channel[inside], [0.5, 99.5]) if value_range is None else value_range
        for index in np.argwhere(inside):
            box = tuple(slice(max(i - r, 0), i + r + 1) for i, r in zip(index, radii, strict=True))
            levels = channel[box][inside[box]].clip(low, high)
            share = np.histogram(levels, num_bins, (low, high))[0] / levels.size
            out[tuple(index)] = -(share[share > 0] * np.log2(share[share > 0])).sum()
    return result


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_range", [None, (-0.5, 1.25)])
@pytest.mark.parametrize("num_bins", [2, 32, 256])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 13, 10), 5),
        ((2, 9, 14), (3, 9)),
        ((1, 7, 7), 7),
        ((1, 5, 6), (1, 5)),
        ((1, 6, 7, 8), 3),
        ((2, 5, 6, 7), (5, 3, 7)),
        ((1, 5, 6, 4), (5, 1, 1)),
    ],
)
def test_is_the_entropy_of_each_window(path, shape, window, num_bins, value_range, masked):
    image = R.randn(*shape)
    mask = R.rand(*shape) < 0.4 if masked else None
    result = local_entropy(image, window, num_bins, value_range, mask)
    assert result.shape == shape
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, brute_force(image, window, num_bins, value_range, mask), atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("reduction", "of_maps"), [("max", np.max), ("mean", np.mean)])
@pytest.mark.parametrize(
    ("shape", "windows"),
    [((2, 13, 10), ((3,), (9,))), ((1, 13, 10), [[3, 5], (9,), [1]]), ((1, 6, 7, 8), ((3,), (5, 1, 3)))],
)
def test_several_windows_are_the_maximum_or_mean_of_their_exact_maps(path, shape, windows, reduction, of_maps, masked):
    image = R.randn(*shape)
    mask = R.rand(*shape) < 0.5 if masked else None
    expected = of_maps([brute_force(image, each, 8, mask=mask) for each in windows], axis=0)
    np.testing.assert_allclose(local_entropy(image, windows, 8, mask=mask, reduction=reduction), expected, atol=1e-5)


@pytest.mark.parametrize("window", [(3, 3), (9, 9), (1, 15), (31, 21)])
def test_equals_scikit_image_on_8_bit_images(path, window):
    rank = pytest.importorskip("skimage.filters.rank", reason="the peer is scikit-image")
    image = (R.rand(40, 33) ** 2 * 256).astype(np.uint8)
    image[:12, :20] = 255
    expected = rank.entropy(image, np.ones(window, np.uint8))
    np.testing.assert_allclose(local_entropy(image[None], window, 256, (0, 255))[0], expected, atol=1e-5)


def test_equals_scikit_image_in_3d(path):
    rank = pytest.importorskip("skimage.filters.rank", reason="the peer is scikit-image")
    image = R.randint(0, 256, (9, 12, 8)).astype(np.uint8)
    expected = rank.entropy(image, np.ones((5, 7, 3), np.uint8))
    np.testing.assert_allclose(local_entropy(image[None], (5, 7, 3), 256, (0, 255))[0], expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "window"), [((2, 12, 17), (1, 9)), ((1, 9, 8, 10), (7, 2, 4)), ((1, 3, 3), (3, 3))])
def test_box_sums(shape, window):
    values = torch.from_numpy(R.randint(0, 9, shape))
    boxes = values
    for axis, side in enumerate(window, 1):
        boxes = boxes.unfold(axis, side, 1)
    assert torch.equal(entropy.box_sums(values, window), boxes.flatten(len(shape)).sum(-1))


@pytest.mark.parametrize(("num_bins", "window"), [(7, 3), (256, 9), (256, 11), (16, 41), (256, 41), (256, 129)])
def test_both_paths_agree(num_bins, window):
    pytest.importorskip("numba", reason="the fast path needs numba")
    bins = torch.from_numpy(R.randint(0, num_bins + 1, (2, 130, 131))).int()
    counts = torch.arange(window**2 + 1, dtype=torch.float64)
    arguments = bins, (window, window), num_bins, (torch.xlogy(counts, counts) * 2**24).long()
    fast, exact = entropy._numba_window_entropy()(*arguments), entropy.window_entropy(*arguments)
    torch.testing.assert_close(fast, exact, rtol=1e-7, atol=0)


def test_no_drift_along_a_long_line(path):
    levels = R.randint(0, 8, 40_000)
    result = local_entropy(levels.reshape(1, -1, 1), (9_999, 1), 8, (0, 7))[0, :, 0]
    for index in (0, 20_000, 39_999):
        inside = levels[max(index - 4_999, 0) : index + 5_000]
        share = np.bincount(inside) / len(inside)
        assert result[index] == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-6)


def test_a_constant_image_has_zero_bits(path):
    for value_range in (None, (0, 1)):
        assert not local_entropy(np.full((2, 9, 9), 7.0), 5, 32, value_range).any()
    image = np.zeros((1, 40, 40))
    image[0, 20, 20] = 9  # both percentiles are zero, the rare value still is another level
    result = local_entropy(image, 3)
    assert result[0, 19:22, 19:22].min() > 0.4
    assert not result[0, :19].any()


def test_whole_numbers_fall_into_their_own_bin(path):
    image = np.arange(256).reshape(1, 16, 16)
    for value_range in ((0, 255), (0, 256)):
        assert local_entropy(image, 15, 256, value_range)[0, 8, 8] == pytest.approx(np.log2(15 * 15), abs=1e-6)
    tenths = np.arange(100.0).reshape(1, 10, 10)  # a row is a bin of ten levels
    assert not local_entropy(tenths, (1, 9), 10, (0, 100)).any()


def test_pixels_outside_the_mask_have_no_influence(path):
    image, mask = R.rand(2, 15, 15), R.rand(1, 15, 15) < 0.5
    changed = np.where(mask, image, 1e6)
    expected = local_entropy(image, 5, mask=mask)
    assert (expected[:, ~mask[0]] == 0).all()
    assert (expected[:, mask[0]] > 0).all()
    np.testing.assert_array_equal(local_entropy(changed, 5, mask=mask), expected)
    np.testing.assert_array_equal(local_entropy(image, 5, mask=torch.from_numpy(mask).float()), expected)


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i2", "i4", "i8", "f2", "f4", "f8", ">i2", ">f4"])
def test_numpy_types(path, dtype):
    image = R.randint(0, 2 if dtype == "?" else 100, (1, 9, 9)).astype(dtype)
    before = image.copy()
    result = local_entropy(image, 5)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, local_entropy(image.astype(float), 5))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16])
def test_tensor_types(path, dtype):
    image = torch.from_numpy(R.randint(0, 100, (1, 9, 9))).to(dtype)
    result = local_entropy(image, 5)
    assert type(result) is torch.Tensor
    assert result.dtype == torch.float32
    np.testing.assert_array_equal(result, local_entropy(image.double().numpy(), 5))


def test_strides_gradients_and_metadata(path):
    image = R.rand(1, 12, 9)
    expected = local_entropy(image, (5, 3))
    np.testing.assert_array_equal(local_entropy(image[:, ::-1, ::-1], (5, 3)), expected[:, ::-1, ::-1])
    np.testing.assert_array_equal(local_entropy(image.swapaxes(1, 2), (3, 5)), expected.swapaxes(1, 2))
    assert not local_entropy(torch.from_numpy(image).requires_grad_(), (5, 3)).requires_grad
    source = MetaTensor(torch.from_numpy(image), affine=torch.diag(torch.tensor([0.3, 0.3, 1, 1])), meta={"a": 1})
    result = local_entropy(source, (5, 3))
    assert isinstance(result, MetaTensor)
    assert result.meta["a"] == 1
    assert torch.equal(result.affine, source.affine)
    np.testing.assert_array_equal(result.numpy(), expected)


def test_threads_and_forked_workers(monkeypatch):
    image = R.rand(2, 33, 20)
    expected = local_entropy(image, 9)
    for threads in (1, 3, 100):  # more than there are lines
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        np.testing.assert_array_equal(local_entropy(image, 9), expected)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: local_entropy(image, 9), range(8)):
            np.testing.assert_array_equal(result, expected)
    context = "fork" if sys.platform == "linux" else None
    loader = DataLoader(_Maps(image), batch_size=None, num_workers=2, multiprocessing_context=context, timeout=30)
    assert [np.array_equal(result, expected) for result in loader] == [True] * 4


class _Maps(torch.utils.data.Dataset):
    def __init__(self, image):
        self.image = image

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return local_entropy(self.image, 9)


def test_without_numba_torch_takes_over(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai_infoaug.information._entropy_numba", None)  # import fails
    assert entropy._numba_window_entropy.__wrapped__() is None


IMAGE = np.zeros((2, 9, 9))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`image` must be a NumPy array or a tensor, got list", {"image": [[[1.0]]]}),
        (TypeError, "`image` must be of real numbers, got complex128", {"image": IMAGE.astype(complex)}),
        (TypeError, "`image` must be of real numbers, got torch.complex64", {"image": torch.zeros(1, 9, 9).cfloat()}),
        (TypeError, "`image` must be of real numbers", {"image": IMAGE.astype(str)}),
        (ValueError, r"`image` must be channel first .* got shape \(9, 9\)", {"image": IMAGE[0]}),
        (ValueError, "`image` must be channel first", {"image": IMAGE[None, None]}),
        (ValueError, "`image` must be not empty", {"image": IMAGE[:0]}),
        (ValueError, "`image` must be finite", {"image": IMAGE + np.nan}),
        (ValueError, "`image` must be finite", {"image": torch.full((1, 9, 9), -torch.inf)}),
        (ValueError, "`window` must be odd and positive.* got 4", {"window": 4}),
        (ValueError, "`window` must be odd and positive", {"window": -3}),
        (ValueError, "`window` must be odd and positive", {"window": 3.0}),
        (ValueError, "`window` must be odd and positive", {"window": "9"}),
        (ValueError, "`window` must be odd and positive", {"window": (3, 4)}),
        (ValueError, "`window` must be odd and positive", {"window": ()}),
        (ValueError, "`window` must be odd and positive", {"window": None}),
        (ValueError, "`window` must be odd and positive", {"window": ((3, 3), 3)}),
        (ValueError, "`window` must be odd and positive", {"window": True}),
        (ValueError, r"`window` must be .* no larger than the image's axes \(9, 9\), got 11", {"window": 11}),
        (ValueError, "`window` must be one side or one an axis", {"window": (3, 3, 3)}),
        (ValueError, "`window` must be odd and positive", {"window": ((3,), (4,))}),
        (ValueError, "`window` must be odd and positive", {"window": ((3,), ())}),
        (ValueError, "`window` must be .* no larger than the image's axes", {"window": ((3,), (11,))}),
        (ValueError, "`reduction` must be one of .*'max', 'mean'.*got 'sum'", {"reduction": "sum"}),
        (ValueError, "`num_bins` must be a whole number of at least 2, got 1", {"num_bins": 1}),
        (ValueError, "`num_bins`", {"num_bins": 8.0}),
        (ValueError, r"`value_range` .* low < high, got \(1, 1\)", {"value_range": (1, 1)}),
        (ValueError, "`value_range`", {"value_range": (0, np.inf)}),
        (ValueError, "`value_range`", {"value_range": (np.nan, 1)}),
        (ValueError, "`value_range`", {"value_range": (0, 1, 2)}),
        (ValueError, "`value_range`", {"value_range": "01"}),
        (ValueError, "`value_range`", {"value_range": 255}),
        (ValueError, r"`mask` must be of shape \(1, 9, 9\) or \(2, 9, 9\)", {"mask": np.ones((1, 9, 8), bool)}),
        (ValueError, "`mask` must be channel first", {"mask": np.ones((9, 9), bool)}),
        (ValueError, "`mask` must be true somewhere in each channel", {"mask": np.zeros((1, 9, 9), bool)}),
        (ValueError, "`mask` must be true somewhere", {"mask": np.stack([np.ones((9, 9)), np.zeros((9, 9))])}),
        (TypeError, "`mask` must be a NumPy array or a tensor, got str", {"mask": "mask"}),
    ],
)
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        local_entropy(**{"image": IMAGE, **arguments})


@pytest.mark.slow
def test_first_calls_from_many_threads_at_once():
    """As in a ``CacheDataset`` of a fresh process: numba's look-up of types is not made for threads."""
    program = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import sys
import numpy as np
sys.setswitchinterval(1e-6)  # threads take turns all the time
from monai_infoaug.information import local_entropy
barrier, image = Barrier(16), np.random.default_rng(0).random((1, 24, 20))
def first(_):
    barrier.wait()
    return local_entropy(image, window=3)
with ThreadPoolExecutor(16) as pool:
    maps = list(pool.map(first, range(16)))
assert all(np.array_equal(each, maps[0]) for each in maps)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
