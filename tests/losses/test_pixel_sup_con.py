"""The label-based loss against loops over pixels, published values, closed forms, and what must not count."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cosine_similarity

import monai_infoaug.losses._comparison as comparison
import monai_infoaug.losses.pixel_sup_con as module
from monai_infoaug.losses import PixelSupConLoss

SCOPES, DENOMINATORS, VIEWS = module.SCOPES, module.DENOMINATORS, module.VIEWS


def views(batch=2, size=(2, 3), features=4, classes=3, seed=0):
    """Features and labels of two views; the last class is rare."""
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(batch, features, *size, generator=generator, dtype=torch.float64) for _ in range(2)]
    y = [torch.randint(-1, classes, (batch, 1, *size), generator=generator) for _ in range(2)]
    return x[0], y[0], x[1], y[1]


def by_loops(loss, *given):
    """The definition, pixel by pixel: the views, the images and the pixels of each."""
    pixels = []
    for view, (x, y) in enumerate(zip(given[::2], given[1::2], strict=True)):
        for image in range(len(x)):
            for i, (feature, label) in enumerate(zip(x[image].flatten(1).T, y[image].flatten(), strict=True)):
                pixels.append((view, image, i, feature, int(label)))
    pixels = [pixel for pixel in pixels if pixel[4] != loss.ignore_index]
    following, terms = {image: (image + 1) % len(given[0]) for image in range(len(given[0]))}, []
    for anchor in pixels:
        if (loss.views == "across" and anchor[0] == 1) or (not loss.include_background and anchor[4] == 0):
            continue
        positives, negatives = [], []
        for other in pixels:
            met = {"pooled": True, "each": other[0] == anchor[0], "across": other[0] == 1}[loss.views]
            itself = other[:3] == anchor[:3] and not loss.self_pairs
            mine, its_next = other[1] == anchor[1], other[1] == following[anchor[1]]
            near = {"image": mine, "cross": mine or its_next, "batch": True}[loss.scope]
            if not met or itself or not near:
                continue
            both = anchor[3], other[3]
            s = float(cosine_similarity(*both, dim=0) if loss.normalize else both[0] @ both[1]) / loss.temperature
            if other[4] == anchor[4]:
                positives.append(s)
            elif mine or loss.scope == "batch":
                negatives.append(s)
        up, down = sum(map(math.exp, positives)), sum(map(math.exp, negatives))
        if not positives or (loss.denominator == "ratio" and not negatives):
            continue
        if loss.denominator == "ratio":
            terms.append(-math.log(up / down) / len(positives))
        else:
            below = [up + down if loss.denominator == "all" else math.exp(s) + down for s in positives]
            pairs = zip(positives, below, strict=True)
            terms.append(sum(math.log(total) - s for s, total in pairs) / len(positives))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("way", VIEWS)
@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"include_background": False, "ignore_index": -1}, {"self_pairs": True, "normalize": False}],
    ids=["plain", "ignored", "self"],
)
def test_equals_loops(scope, denominator, way, options):
    loss = PixelSupConLoss(0.7, scope, denominator, way, **options)
    given = views(batch=3)
    assert float(loss(*given)) == pytest.approx(by_loops(loss, *given), rel=1e-9)
    if way != "across":
        assert float(loss(*given[:2])) == pytest.approx(by_loops(loss, *given[:2]), rel=1e-9)


@pytest.mark.parametrize("size", [(7,), (2, 2, 3)])
def test_other_dimensions(size):
    loss, given = PixelSupConLoss(0.2, scope="batch"), views(size=size)
    assert float(loss(*given)) == pytest.approx(by_loops(loss, *given), rel=1e-9)


@pytest.mark.parametrize("entries", [1, 13, 24, 40, 100])
@pytest.mark.parametrize("scope", SCOPES)
def test_pieces_change_nothing(scope, entries, monkeypatch):
    loss, results = PixelSupConLoss(0.3, scope, "negatives", ignore_index=-1), []
    for limit in (comparison.ENTRIES, entries):
        monkeypatch.setattr(comparison, "ENTRIES", limit)
        x1, y1, x2, y2 = views(batch=3)
        value = loss(x1.requires_grad_(), y1, x2.requires_grad_(), y2)
        value.backward()
        results.append((value.detach(), x1.grad, x2.grad))
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("scope", SCOPES)
def test_gradients(scope, denominator):
    x1, y1, x2, y2 = views(batch=2, size=(2, 2))
    loss = PixelSupConLoss(0.5, scope, denominator, ignore_index=-1)
    inputs = x1.requires_grad_(), x2.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, y1, b, y2), inputs)


def test_published_values():
    """Values that the code published with [2] gives for one feature a pixel, the label itself."""
    labels = torch.tensor(sorted([-2, -1] * 2 + [1] * 4 + [2] * 4 + [3] * 4)).view(1, 1, 16)
    kept = labels.where(labels > 0, -1)
    x = labels.double()
    published = {"denominator": "negatives", "ignore_index": -1, "self_pairs": True, "normalize": False}
    within = PixelSupConLoss(1.0, views="each", **published)
    assert float(within(x, kept, x, kept)) == pytest.approx(2.4503216, abs=1e-6)
    cross = PixelSupConLoss(1.0, scope="cross", **published)
    assert float(cross(torch.cat([x, 2 * x]), torch.cat([kept, kept]))) == pytest.approx(5.46027374, abs=1e-6)


def test_closed_forms():
    x, y = torch.ones(1, 3, 4, 4), torch.arange(16).view(1, 1, 4, 4) // 8
    for scale in (1, 1e-3, 1e4):  # constant features
        assert float(PixelSupConLoss()(scale * x, y)) == pytest.approx(math.log(15))
        assert float(PixelSupConLoss(views="across")(scale * x, y, x, y)) == pytest.approx(math.log(16))
        assert float(PixelSupConLoss(denominator="negatives")(scale * x, y)) == pytest.approx(math.log(1 + 8))
    apart = torch.cat([y == 0, y == 1], 1).double()
    assert float(PixelSupConLoss(0.01, denominator="negatives")(apart, y)) == pytest.approx(0, abs=1e-12)
    assert float(PixelSupConLoss(0.01)(apart, y)) == pytest.approx(math.log(7))


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [-1, -1, -1, -1], [-1, 1, -1, -1]], ids=str)
def test_without_a_positive_it_is_zero(labels, denominator):
    x = torch.randn(2, 3, 1, 4, requires_grad=True)
    y = torch.tensor(labels).expand(2, 1, 1, 4)
    value = PixelSupConLoss(0.01, denominator=denominator, ignore_index=-1)(x, y)
    value.backward()
    assert float(value.detach()) == 0
    assert not x.grad.any()


def test_a_lonely_pixel_is_compared_with_but_counts_for_nothing():
    x, y = torch.randn(1, 3, 1, 5, dtype=torch.float64), torch.tensor([[[[1, 1, 1, 1, 2]]]])
    loss = PixelSupConLoss()
    assert float(loss(x, y)) == pytest.approx(by_loops(loss, x, y))
    assert loss(x, y) > loss(x[..., :4], y[..., :4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_half_precision_at_a_low_temperature(dtype, denominator):
    x1, y1, x2, y2 = views(size=(8, 8))
    given = x1.to(dtype).requires_grad_(), y1, x2.to(dtype), y2
    loss = PixelSupConLoss(0.01, denominator=denominator)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*given)
    value.backward()
    assert value.dtype == torch.float32
    assert given[0].grad.isfinite().all()
    assert given[0].grad.any()
    exact = loss(given[0].detach().double(), y1, given[2].double(), y2)
    assert float(value.detach()) == pytest.approx(float(exact), rel=1e-4)


def test_float_labels_and_metatensors_are_taken():
    from monai.data import MetaTensor

    x1, y1, x2, y2 = views()
    wanted = PixelSupConLoss(ignore_index=-1)(x1, y1, x2, y2)
    got = PixelSupConLoss(ignore_index=-1)(x1, MetaTensor(y1.float()), x2, MetaTensor(y2.float()))
    assert float(got) == float(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "`temperature` must be"),
        ({"temperature": "0.07"}, "`temperature` must be"),
        ({"scope": "pixel"}, "`scope` must be one of"),
        ({"denominator": "none"}, "`denominator` must be one of"),
        ({"views": "both"}, "`views` must be one of"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PixelSupConLoss(**options)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, lambda x1, y1, x2, y2: (x1, y1[:, 0]), r"`labels1` must be of shape \(2, 1, 2, 3\)"),
        ({}, lambda x1, y1, x2, y2: (x1, y1, x2, y2[..., 1:]), "`labels2` must be of shape"),
        ({}, lambda x1, y1, x2, y2: (x1.int(), y1), "`features1` must be floats"),
        ({}, lambda x1, y1, x2, y2: (x1, y1, x2), "`labels2` must be given"),
        ({}, lambda x1, y1, x2, y2: (x1, y1, x2[:1], y2[:1]), r"`features2` must be of shape \(2, 4, "),
        ({"views": "across"}, lambda x1, y1, x2, y2: (x1, y1), "`features2` must be given"),
        ({"scope": "cross"}, lambda x1, y1, x2, y2: (x1[:1], y1[:1]), "`features1` must be of several images"),
        (
            {},
            lambda x1, y1, x2, y2: (x1, PixelSupConLoss().choose([y1], [None])[0]),
            r"`features1` must be of shape \(2, \d+, 1, \d+\)",
        ),
    ],
)
def test_bad_input_is_named(options, change, message):
    with pytest.raises(ValueError, match=message):
        PixelSupConLoss(**options)(*change(*views()))


def _rank(rank, store, given, results):
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    x1, y1, x2, y2 = (part[2 * rank : 2 * rank + 2] for part in given)
    inputs = x1.clone().requires_grad_(), x2.clone().requires_grad_()
    loss = PixelSupConLoss(0.3, "batch", ignore_index=-1)(inputs[0], y1, inputs[1], y2)
    loss.backward()
    torch.save([loss.detach(), *(x.grad for x in inputs)], f"{results}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(in_two_processes, tmp_path):
    given = views(batch=4)
    given[1][:2] = -1  # one process has fewer anchors
    given[1][0, 0, 0, 0] = 1
    in_two_processes(_rank, tmp_path / "store", given, tmp_path / "result")
    inputs = [given[0].requires_grad_(), given[2].requires_grad_()]
    whole = PixelSupConLoss(0.3, "batch", ignore_index=-1)(inputs[0], given[1], inputs[1], given[3])
    whole.backward()
    parts = [torch.load(f"{tmp_path / 'result'}.{rank}") for rank in range(2)]
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, whole.detach())
    for i, x in enumerate(inputs, 1):  # the gradient of the mean over processes
        torch.testing.assert_close(torch.cat([part[i] for part in parts]) / 2, x.grad)


def test_image_level_forms():
    """With one pixel an image the loss is SupCon, and SimCLR's where every image is its own class."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 8, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    numbers = torch.arange(5).view(5, 1, 1)
    both = torch.nn.functional.normalize(torch.cat([first, second])[..., 0], dim=1)
    similarity = both @ both.T / 0.5
    similarity.fill_diagonal_(-torch.inf)
    simclr = torch.nn.functional.cross_entropy(similarity, torch.arange(10).roll(5))
    assert float(PixelSupConLoss(0.5, "batch")(first, numbers, second, numbers)) == pytest.approx(float(simclr))
    metric = pytest.importorskip("pytorch_metric_learning.losses", reason="the peer is optional")
    labels = torch.tensor([0, 0, 1, 1, 1])
    peer = metric.SupConLoss(temperature=0.5)(torch.cat([first, second])[..., 0], labels.repeat(2))
    ours = PixelSupConLoss(0.5, "batch")(first, labels.view(5, 1, 1), second, labels.view(5, 1, 1))
    assert float(ours) == pytest.approx(float(peer))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_a_pixel_whose_features_are_zero_has_no_part(scope, denominator):
    x1, y1, x2, y2 = views()
    x1[0, :, 0, 1] = 0
    x1.requires_grad_()
    gone = y1.clone()
    gone[0, :, 0, 1] = -7
    loss = PixelSupConLoss(0.1, scope, denominator)
    value = loss(x1, y1, x2, y2)
    torch.testing.assert_close(value, PixelSupConLoss(0.1, scope, denominator, ignore_index=-7)(x1, gone, x2, y2))
    value.backward()
    assert x1.grad.isfinite().all()
    assert not x1.grad[0, :, 0, 1].any()
