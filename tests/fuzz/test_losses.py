"""The losses on small random inputs of odd types and shapes, against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st

from monai_infoaug import losses as L
from tests.fuzz.fuzzing import REFUSED, as_numpy, fuzz, odd_values, outcome, seeds

FLOATS = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
LABELS = st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool, torch.int8])


def near(found, expected, dtype):
    """Whether a loss is as it should be, as far as the type of its input lets it."""
    slack = {torch.float16: 2e-2, torch.bfloat16: 1e-1}.get(dtype, 1e-4)
    return float(found) == pytest.approx(expected, rel=slack, abs=slack)


def log_sum_exp(values):
    values = np.asarray(values, float)
    top = values.max(initial=-np.inf)
    return top + np.log(np.exp(values - top).sum()) if np.isfinite(top) else top


def unit(features, axis=-1):
    norms = np.linalg.norm(features, axis=axis, keepdims=True)
    return features / np.where(norms == 0, 1, norms)


def softmax(logits, axis=1):
    shifted = np.exp(logits - logits.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def sizes(draw, dims=(2, 3), most=5):
    return draw(st.tuples(*[st.integers(1, most)] * draw(st.sampled_from(dims))))


def drawn(draw, *shape, dtype=torch.float32, scale=1.0):
    """A random tensor that asks for a gradient."""
    random = np.random.default_rng(draw(seeds))
    values = torch.from_numpy(random.normal(size=shape) * scale).to(dtype)
    if values.numel() and draw(st.integers(0, 5)) == 0:
        values[0] = 0
    return values.requires_grad_()


def with_gradient(call, *inputs):
    """A loss that is a finite scalar and gives finite gradients, or ``REFUSED``."""
    found = outcome(call)
    if found is not REFUSED:
        assert found.ndim == 0
        assert found.isfinite()
        assert found.dtype in (torch.float32, torch.float64)
        found.backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in inputs)
        return found.detach()
    return found


@fuzz(
    data=st.data(), dtype=FLOATS, temperature=st.sampled_from([0.05, 0.5, 1e3]), radius=st.sampled_from([0, 1.5, 1e9])
)
def test_pixel_info_nce(data, dtype, temperature, radius):
    b, n, f, d = (data.draw(st.integers(1, most)) for most in (2, 6, 4, 3))
    first, second = (drawn(data.draw, b, n, f, dtype=dtype) for _ in range(2))
    points = drawn(data.draw, b, n, d, scale=3.0).detach()
    points[points > 4] = torch.nan
    symmetric = data.draw(st.booleans())
    valid = data.draw(st.sampled_from([None, torch.rand(b, n) > 0.3, torch.ones(b, n), torch.ones(b, n + 1) > 0]))
    loss = L.PixelInfoNCELoss(temperature, radius, symmetric)
    found = with_gradient(lambda: loss(first, second, points, valid), first, second)
    good = valid is None or (valid.dtype == torch.bool and valid.shape == (b, n))
    assert (found is not REFUSED) == good
    if not good:
        return
    x, y, places = unit(as_numpy(first)), unit(as_numpy(second)), as_numpy(points)
    terms = []
    for i in range(b):
        used = np.isfinite(places[i]).all(1) & (True if valid is None else valid[i].numpy())
        for p in used.nonzero()[0]:
            others = [q for q in used.nonzero()[0] if q == p or np.linalg.norm(places[i, p] - places[i, q]) >= radius]
            there = log_sum_exp([x[i, p] @ y[i, q] / temperature for q in others])
            back = log_sum_exp([x[i, q] @ y[i, p] / temperature for q in others])
            positive = x[i, p] @ y[i, p] / temperature
            terms.append((there + back) / 2 - positive if symmetric else there - positive)
    assert near(found, np.mean(terms) if terms else 0.0, dtype)


@fuzz(data=st.data(), dtype=FLOATS, stride=st.sampled_from([1, 2, 4.0]), radius=st.sampled_from([0.0, 2.5, 1e9]))
def test_dense_info_nce(data, dtype, stride, radius):
    b, f, n = (data.draw(st.integers(1, most)) for most in (2, 3, 4))
    cells = sizes(data.draw, most=4)
    levels = [drawn(data.draw, b, f, *cells, dtype=dtype) for _ in range(2)]
    random = np.random.default_rng(data.draw(seeds))
    # at the centres of cells, where nothing is interpolated
    index = random.integers(0, cells, (2, b, n, len(cells)))
    points = torch.from_numpy(stride * index + (stride - 1) / 2).float()
    points[:, random.random((b, n)) < 0.2] = torch.nan
    loss = L.DenseInfoNCELoss(0.2, radius, symmetric=False)
    found = with_gradient(lambda: loss(*levels, *points, stride=stride), *levels)
    x, y = (unit(as_numpy(level), 1) for level in levels)
    terms, centres = [], stride * np.indices(cells) + (stride - 1) / 2
    for i in range(b):
        for p in range(n):
            if not points[0, i, p].isfinite().all():
                continue
            anchor, partner = x[(i, slice(None), *index[0, i, p])], y[(i, slice(None), *index[1, i, p])]
            place = as_numpy(points[1, i, p]).reshape(-1, *[1] * len(cells))
            far = np.linalg.norm(centres - place, axis=0) >= radius if radius else np.ones(cells, bool)
            positive = anchor @ partner / 0.2
            logits = [anchor @ y[(i, slice(None), *at)] / 0.2 for at in np.argwhere(far)]
            terms.append(log_sum_exp([*logits, positive]) - positive)
    assert near(found, np.mean(terms) if terms else 0.0, dtype)


@fuzz(data=st.data(), dtype=FLOATS, label_type=LABELS)
def test_pixel_sup_con(data, dtype, label_type):
    b, f = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    size = sizes(data.draw, dims=(1, 2, 3), most=3)
    features = drawn(data.draw, b, f, *size, dtype=dtype)
    random = np.random.default_rng(data.draw(seeds))
    labels = torch.from_numpy(random.integers(0, 3, (b, 1, *size))).to(label_type)
    background, itself = data.draw(st.booleans()), data.draw(st.booleans())
    scope = data.draw(st.sampled_from(["image", "batch"]))
    loss = L.PixelSupConLoss(
        0.3, scope, include_background=background, self_pairs=itself, ignore_index=data.draw(st.sampled_from([None, 1]))
    )
    found = with_gradient(lambda: loss(features, labels), features)
    assert found is not REFUSED
    x, y = unit(as_numpy(features).reshape(b, f, -1), 1), as_numpy(labels).reshape(b, -1)
    image = np.indices(y.shape)[0].ravel()
    x, y = np.concatenate(list(x), 1).T, y.ravel()
    part = x.any(1) & (y != loss.ignore_index if loss.ignore_index is not None else True)
    terms = []
    for a in part.nonzero()[0]:
        met = part & (True if scope == "batch" else image == image[a]) & (True if itself else np.arange(len(y)) != a)
        alike = met & (y == y[a])
        if (y[a] == 0 and not background) or not alike.any():
            continue
        s = x @ x[a] / 0.3
        terms.append(log_sum_exp(s[met]) - s[alike].mean())
    assert near(found, np.mean(terms) if terms else 0.0, dtype)


@fuzz(data=st.data(), dtype=FLOATS, weighted=st.booleans())
def test_heatmap_cross_entropy(data, dtype, weighted):
    b, n, size = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3)), sizes(data.draw)
    logits = drawn(data.draw, b, n, *size, dtype=dtype, scale=3.0)
    random = np.random.default_rng(data.draw(seeds))
    target = torch.from_numpy(random.random((b, n, *size)) * (random.random((b, n, *[1] * len(size))) < 0.7))
    weights = torch.from_numpy(random.random((b, n)).round(1) * (random.random((b, n)) < 0.8)) if weighted else None
    if data.draw(st.integers(0, 5)) == 0:
        target[0, 0] = torch.nan
    found = with_gradient(lambda: L.HeatmapCrossEntropyLoss()(logits, target, weights), logits)
    mass = as_numpy(target).reshape(b, n, -1).sum(2)
    total = count = 0.0
    for i, j in np.argwhere(np.nan_to_num(mass) > 0):
        weight = float(weights[i, j]) if weighted else mass[i, j]
        share = as_numpy(target)[i, j].ravel() / mass[i, j]
        row = as_numpy(logits)[i, j].ravel()
        total, count = total + weight * -(share * (row - log_sum_exp(row))).sum(), count + weight
    assert near(found, total / count if count else 0.0, torch.bfloat16 if dtype == torch.float16 else dtype)


@fuzz(data=st.data(), dtype=FLOATS, image_wise=st.booleans(), alpha=st.sampled_from([0.0, 0.2, 1.0]))
def test_maximum_squares(data, dtype, image_wise, alpha):
    b, c, size = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4)), sizes(data.draw)
    logits = drawn(data.draw, b, c, *size, dtype=dtype, scale=3.0)
    found = with_gradient(lambda: L.MaximumSquaresLoss(image_wise, alpha)(logits), logits)
    assert (found is not REFUSED) == (c > 1)
    if c == 1:
        return
    rows = as_numpy(logits).reshape(b, c, -1)
    squares, classes = (softmax(rows) ** 2).mean(1), rows.argmax(1)
    for i in range(b if image_wise else 0):
        counts = np.bincount(classes[i], minlength=c)
        squares[i] *= (squares.shape[1] / counts[classes[i]]) ** alpha
    assert near(found, -squares.mean() / 2, dtype)


@fuzz(data=st.data(), dtype=FLOATS, label_type=LABELS, sampling=st.sampled_from(["uniform", "rank"]))
def test_negative_learning_with_two_classes(data, dtype, label_type, sampling):
    b, size = data.draw(st.integers(1, 2)), sizes(data.draw)
    logits = drawn(data.draw, b, 2, *size, dtype=dtype, scale=3.0)  # of which one can be denied
    random = np.random.default_rng(data.draw(seeds))
    most = data.draw(st.sampled_from([1, 1, 1, 4]))
    labels = torch.from_numpy(random.integers(0, most + 1, (b, 1, *size))).to(label_type)
    ignored = data.draw(st.sampled_from([-1, 0]))
    loss = L.NegativeLearningLoss(sampling, ignore_index=ignored)
    found = with_gradient(lambda: loss(logits, labels), logits)
    y = as_numpy(labels).ravel().astype(int)
    assert (found is not REFUSED) == bool((y < 2).all())
    if found is REFUSED:
        return
    rows = np.moveaxis(as_numpy(logits), 1, -1).reshape(-1, 2)
    terms = [log_sum_exp(row) - row[label] for row, label in zip(rows, y, strict=True) if label != ignored]
    assert near(found, np.mean(terms) if terms else 0.0, dtype)
    reliable = torch.where(labels.long() == 1, labels.long(), -1)
    both = L.RectifiedLabelLoss(L.NegativeLearningLoss(), weight=2.0)
    given = {"found": labels.long(), "reliable": reliable}
    total = with_gradient(lambda: both(logits, given), logits)
    negative = [log_sum_exp(row) - row[label] for row, label in zip(rows, y, strict=True)]
    entropy = [log_sum_exp(row) - row[1] for row, label in zip(rows, y, strict=True) if label == 1]
    assert near(total, np.mean(negative) + 2 * (np.mean(entropy) if entropy else 0), dtype)


@fuzz(data=st.data(), levels=st.integers(1, 3), label_type=LABELS)
def test_pyramids_of_labels(data, levels, label_type):
    size, side = sizes(data.draw, most=9), data.draw(st.sampled_from([1, 2, 4]))
    random = np.random.default_rng(data.draw(seeds))
    labels = torch.from_numpy(random.integers(0, 3, (2, 1, *size))).to(label_type)
    ignored = data.draw(st.sampled_from([-1, 1]))
    found = outcome(lambda: L.label_pyramids(labels, 3, side, levels, ignored))
    good = side % 2 ** (levels - 1) == 0 and min(size) >= side
    assert (found is not REFUSED) == good
    if not good:
        return
    grid = [n // side for n in size]
    assert found.shape[2:] == torch.Size(grid)
    np.testing.assert_allclose(as_numpy(found).sum(1), 1, atol=1e-5)
    for place in np.ndindex(*grid):
        patch = as_numpy(labels)[(slice(None), 0, *(slice(side * at, side * (at + 1)) for at in place))]
        for image, own in enumerate(patch.reshape(2, -1)):
            counts = np.bincount(np.where(own == ignored, 3, own).astype(int), minlength=4)
            expected = counts / counts.sum() * 2.0 ** (-levels + 1)
            np.testing.assert_allclose(as_numpy(found)[(image, slice(0, 4), *place)], expected, atol=1e-5)


@fuzz(data=st.data(), dtype=FLOATS, label_type=LABELS, stride=st.sampled_from([1, 2]))
def test_patch_contrast(data, dtype, label_type, stride):
    grid = data.draw(st.tuples(*[st.integers(1, 3)] * data.draw(st.sampled_from([2, 2, 3]))))
    random = np.random.default_rng(data.draw(seeds))
    patches = random.integers(0, 3, (2, 1, *grid))  # of one class each, so that they are alike or not at all
    labels = torch.from_numpy(patches)
    for axis in range(2, labels.ndim):
        labels = labels.repeat_interleave(4, axis)
    labels = labels.to(label_type)
    features = drawn(data.draw, 2, 3, *[4 * n // stride for n in grid], dtype=dtype)
    loss = L.PatchContrastLoss(3, patch_size=4, temperature=0.5)
    found = with_gradient(lambda: loss(features, labels), features)
    means = as_numpy(features)
    for axis, n in enumerate(grid, 2):
        shape = means.shape
        means = means.reshape(*shape[:axis], n, -1, *shape[axis + 1 :]).mean(axis + 1)
    rows, classes = (
        unit(np.moveaxis(means, 1, -1).reshape(-1, 3)),
        np.asarray(labels[(..., *[slice(0, None, 4)] * len(grid))]).astype(int).ravel(),
    )
    terms = []
    for a, row in enumerate(rows):
        alike = (classes == classes[a]) & (np.arange(len(rows)) != a)
        differ = classes != classes[a]
        if alike.any() and differ.any():
            s = rows @ row / 0.5
            down = log_sum_exp(s[differ])
            terms.append(np.mean([np.logaddexp(0, down - each) for each in s[alike]]))
    assert near(found, np.mean(terms) if terms else 0.0, dtype)


def inputs():
    """A good call of each loss."""
    maps, labels = torch.rand(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8))
    points, rows = torch.rand(2, 4, 2) * 7, torch.rand(2, 4, 3)
    return [
        (L.PixelInfoNCELoss(), [rows, rows, points, torch.rand(2, 4) > 0.5, 1.0]),
        (L.DenseInfoNCELoss(), [maps, maps, points, points, torch.rand(2, 4) > 0.5, 1, 1.0]),
        (L.PixelSupConLoss(), [maps, labels, maps, labels]),
        (L.HeatmapCrossEntropyLoss(), [maps, maps, torch.rand(2, 3)]),
        (L.MaximumSquaresLoss(), [maps]),
        (L.NegativeLearningLoss(), [maps, labels]),
        (L.PatchContrastLoss(3, patch_size=4), [maps, labels]),
        (L.label_pyramids, [labels, 3, 4, 2, -1]),
    ]


@fuzz(data=st.data(), which=st.integers(0, 7), argument=st.integers(0, 9))
def test_odd_numbers_and_shapes_in_a_call(data, which, argument):
    loss, given = inputs()[which]
    argument %= len(given)
    before = given[argument]
    if isinstance(before, torch.Tensor):
        cut = [before[:1], before[:, :1], before[..., :3], before[0], before[..., None], before.squeeze(), before[:0]]
        given[argument] = data.draw(st.sampled_from(cut))
    else:
        given[argument] = data.draw(odd_values)
    found = outcome(lambda: loss(*given))
    if found is not REFUSED:
        assert found.isfinite().all()
