from __future__ import annotations

import math

import pytest
import torch

from monai_infoaug.losses import PixelInfoNCELoss


def pair(batch=2, num=7, dim=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    f1, f2 = (torch.randn(batch, num, dim, generator=generator, dtype=dtype) for _ in range(2))
    return f1, f2, 10 * torch.rand(batch, num, 2, generator=generator, dtype=dtype)


def oracle(f1, f2, points, valid, temperature, radius, symmetric):
    """The definition, one number at a time."""
    f1, f2, points, valid = (t.tolist() for t in (f1, f2, points, valid))

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    losses = []
    for b in range(len(f1)):
        for i in range(len(f1[b])):
            if not valid[b][i]:
                continue
            used = [
                j
                for j in range(len(f1[b]))
                if j == i or (valid[b][j] and math.dist(points[b][i], points[b][j]) >= radius)
            ]
            directions = [(f1[b], f2[b]), (f2[b], f1[b])][: 2 if symmetric else 1]
            for anchors, others in directions:
                terms = {j: math.exp(cosine(anchors[i], others[j]) / temperature) for j in used}
                losses.append(-math.log(terms[i] / sum(terms.values())))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("radius", [0.0, 4.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_definition(temperature, radius, symmetric):
    f1, f2, points = pair()
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 2] = valid[1, 4:] = False
    expected = oracle(f1, f2, points, valid, temperature, radius, symmetric)
    assert PixelInfoNCELoss(temperature, radius, symmetric)(f1, f2, points, valid).item() == pytest.approx(expected)
    assert PixelInfoNCELoss(temperature, 99, symmetric)(f1, f2, points, valid, radius).item() == pytest.approx(expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_losses_of_single_points(symmetric):
    f1, f2, points = pair()
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 2] = valid[1, 4:] = False
    losses, used = PixelInfoNCELoss(0.2, 4.0, symmetric).of_points(f1, f2, points, valid)
    assert torch.equal(used, valid)
    for b, i in valid.nonzero().tolist():
        near = (points[b] - points[b, i]).norm(dim=1) < 4
        kept = [j for j in range(7) if j == i or (valid[b, j] and not near[j])]
        each = []
        for anchors, others in [(f1[b], f2[b]), (f2[b], f1[b])][: 2 if symmetric else 1]:
            cosines = torch.cosine_similarity(anchors[i][None], others[kept], dim=1)
            each.append(float(-(cosines / 0.2).log_softmax(0)[kept.index(i)]))
        assert losses[b, i].item() == pytest.approx(sum(each) / len(each))


def test_gradient():
    f1, f2, points = pair(num=4, dim=3)
    valid = torch.tensor([[True, True, True, False], [True, False, True, True]])
    loss = PixelInfoNCELoss(0.5, radius=3.0)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, points, valid), (f1.requires_grad_(), f2.requires_grad_()))


def test_constant_features_give_log_n():
    ones, points = torch.ones(3, 8, 4), torch.rand(3, 8, 2)
    assert PixelInfoNCELoss(0.07)(ones, ones, points).item() == pytest.approx(math.log(8), rel=1e-6)


def test_orthogonal_features_have_a_closed_form():
    eye, points = torch.eye(6).expand(2, 6, 6), torch.rand(2, 6, 3)
    assert PixelInfoNCELoss(0.5)(eye, eye, points).item() == pytest.approx(math.log(1 + 5 * math.exp(-2)), rel=1e-6)


def test_radius_is_strict_and_keeps_the_positive():
    f1, f2, _ = pair(batch=1, num=3)
    points = torch.tensor([[[0.0, 0], [0, 2], [0, 4]]])
    losses = [PixelInfoNCELoss(radius=r)(f1, f2, points).item() for r in (0, 2, 2.001, 4.001)]
    assert losses[0] == losses[1] > losses[2] > losses[3] == 0  # alone with its positive


def test_scale_of_the_features_does_not_matter():
    f1, f2, points = pair()
    torch.testing.assert_close(PixelInfoNCELoss()(f1, f2, points), PixelInfoNCELoss()(7 * f1, f2 / 9, points))


def test_negatives_come_from_the_same_image():
    f1, f2, points = pair(batch=2)
    loss = PixelInfoNCELoss()
    single = [loss(f1[b : b + 1], f2[b : b + 1], points[b : b + 1]) for b in range(2)]
    torch.testing.assert_close(loss(f1, f2, points), torch.stack(single).mean())


@pytest.mark.parametrize("marked", ["valid", "points", "both"])
def test_invalid_points_are_as_if_absent(marked):
    f1, f2, points = pair(batch=1)
    keep = torch.tensor([True, True, False, True, False, True, True])
    loss = PixelInfoNCELoss(radius=3.0)
    expected = loss(f1[:, keep], f2[:, keep], points[:, keep])
    f1[:, ~keep], f2[:, ~keep] = torch.nan, torch.inf
    if marked != "valid":
        points[:, ~keep] = torch.nan
    f1.requires_grad_(), f2.requires_grad_()
    result = loss(f1, f2, points, None if marked == "points" else keep[None])
    result.backward()
    torch.testing.assert_close(result, expected)
    for f in (f1, f2):
        assert f.grad.isfinite().all()
        assert not f.grad[:, ~keep].any()
        assert f.grad[:, keep].any()


@pytest.mark.parametrize("num", [5, 0])
def test_without_a_valid_point(num):
    f1, f2, points = pair(num=num)
    f1.requires_grad_()
    loss = PixelInfoNCELoss(radius=1.0)(f1, f2, points, torch.zeros(2, num, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not f1.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_low_precision_is_safe(dtype, temperature):
    f1, f2, points = pair(num=64, dim=16)
    f1, f2 = (1000 * f1).to(dtype).requires_grad_(), f2.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PixelInfoNCELoss(temperature)(f1, f2, points)
    loss.backward()
    assert loss.dtype == torch.float32
    assert f1.grad.isfinite().all()
    torch.testing.assert_close(loss.double(), PixelInfoNCELoss(temperature)(f1.double(), f2.double(), points))


def test_zero_features_have_a_finite_gradient():
    zeros = torch.zeros(1, 4, 3, requires_grad=True)
    PixelInfoNCELoss()(zeros, torch.rand(1, 4, 3), torch.rand(1, 4, 2)).backward()
    assert zeros.grad.isfinite().all()


def test_radius_is_exact_far_from_the_origin():
    f1, f2, points = pair(batch=1, num=30, dtype=torch.float32)
    points = torch.round(points * 8) / 8
    near, far = (PixelInfoNCELoss(radius=2.0)(f1, f2, points + shift) for shift in (0, 2**14))
    assert near == far


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": "0.1"}, "temperature"),
        ({"radius": -1}, "radius"),
        ({"radius": None}, "radius"),
        ({"radius": math.inf}, "radius"),
    ],
)
def test_bad_settings(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        PixelInfoNCELoss(**arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("features1", torch.rand(2, 7)),
        ("features2", torch.rand(2, 6, 5)),
        ("points", torch.rand(2, 6, 2)),
        ("points", torch.rand(2, 7)),
        ("valid", torch.ones(2, 7)),
        ("valid", torch.ones(2, 6, dtype=torch.bool)),
        ("radius", -1.0),
    ],
)
def test_bad_input(name, value):
    inputs = dict(zip(("features1", "features2", "points"), pair(), strict=True)) | {name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        PixelInfoNCELoss()(**inputs)
