"""What every loss keeps to: precision, gradients where embeddings have no direction, graphs, and how it is shown."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from monai_infoaug import losses
from monai_infoaug.losses import (
    DenseInfoNCELoss,
    DomainAdaptationLoss,
    HeatmapCrossEntropyLoss,
    MaximumSquaresLoss,
    NegativeLearningLoss,
    PatchContrastLoss,
    PixelInfoNCELoss,
    PixelSupConLoss,
    RectifiedLabelLoss,
)
from monai_infoaug.samplers import BlockPixels, StridePixels
from tests.versions import TORCH

POINTS = torch.tensor([[[0.5, 1.0], [4.0, 6.5], [7.0, 2.0], [2.0, 5.0]]]).repeat(2, 1, 1)
LABELS = torch.tensor([[0, 0, 1, 1, 2, 2, 0, 0]]).repeat(8, 1)[None, None].repeat(2, 1, 1, 1)
LABELS[1, :, :4] = 1
CLASSES = LABELS[..., :4, :4]


class Seeded(nn.Module):
    """Draws anew what it has drawn."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, *inputs):
        self.loss.set_epoch(0)
        return self.loss(*inputs)


def own(logits, targets):
    return RectifiedLabelLoss(Seeded(NegativeLearningLoss()))(logits, targets)


# the compiler of PyTorch makes an object of a class of functions, which PyTorch deprecates
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

# loss, what it is called with after the features, and the shapes of the features
EMBEDDINGS = {
    "dense": (lambda *x: DenseInfoNCELoss(radius=1)(*x, POINTS, POINTS.flip(1), stride=2), [(2, 3, 4, 4)] * 2),
    "points": (lambda *x: PixelInfoNCELoss(radius=1)(*x, POINTS), [(2, 4, 3)] * 2),
    "all": (lambda x, y: PixelSupConLoss()(x, CLASSES, y, CLASSES), [(2, 3, 4, 4)] * 2),
    "negatives": (lambda x: PixelSupConLoss(scope="cross", denominator="negatives")(x, CLASSES), [(2, 3, 4, 4)]),
    "ratio": (lambda x: PixelSupConLoss(scope="batch", denominator="ratio")(x, CLASSES), [(2, 3, 4, 4)]),
    "patches": (
        lambda x: PatchContrastLoss(3, patch_size=4, levels=1, positive=0.8, negative=0.5)(x, LABELS),
        [(2, 3, 4, 4)],
    ),
}
LOGITS = {
    "squares": (MaximumSquaresLoss(image_wise=True), [(2, 3, 4, 4)]),
    "negative": (lambda x: Seeded(NegativeLearningLoss("rank"))(x, CLASSES), [(2, 3, 4, 4)]),
    "rectified": (lambda x: own(x, {"found": CLASSES, "reliable": CLASSES}), [(2, 3, 4, 4)]),
    "heatmap": (lambda x: HeatmapCrossEntropyLoss()(x, CLASSES.expand(-1, 3, -1, -1).to(x)), [(2, 3, 4, 4)]),
    "domains": (
        lambda x, y: DomainAdaptationLoss(
            lambda logits, labels: nn.functional.cross_entropy(logits, labels[:, 0]),
            own,
            PatchContrastLoss(3, patch_size=4, levels=1, positive=0.8),
        )((x, [y]), {"label": LABELS[:1], "found": LABELS[1:], "reliable": LABELS[1:]}),
        [(2, 3, 8, 8), (2, 3, 4, 4)],
    ),
}


def one_graph(loss):
    if TORCH < (2, 6):
        pytest.skip("the compiler of an old PyTorch makes several graphs")
    torch.compiler.reset()  # it compiles the same code a few times only
    return torch.compile(loss, fullgraph=True, backend="eager")


def features(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("name", [*EMBEDDINGS, *LOGITS])
def test_double_precision_is_kept_and_gradients_are_right(name):
    loss, shapes = (EMBEDDINGS | LOGITS)[name]
    inputs = features(shapes)
    value = loss(*inputs)
    assert value.dtype == torch.float64
    assert value.abs() > 0
    single = loss(*(x.float() for x in inputs))
    assert single.dtype == torch.float32
    assert value.item() != single.item()  # nothing in between is of single precision
    assert value.item() == pytest.approx(single.item(), rel=1e-4)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "all"])
def test_compiled_losses_give_what_they_give(name):
    loss, shapes = (EMBEDDINGS | LOGITS)[name]
    torch.compiler.reset()
    results = []
    for call in (loss, torch.compile(loss, backend="aot_eager")):
        inputs = features(shapes, torch.float32)
        value = call(*inputs)
        results.append([value, *torch.autograd.grad(value, inputs)])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_no_direction_no_gradient(name, dtype):
    """PyTorch divides by 1e-12 there, and half precision ends at 65504; next to nothing is not much better."""
    loss, shapes = EMBEDDINGS[name]
    inputs = features(shapes, dtype)
    zero = (0, 0) if name == "points" else (0, slice(None), slice(2))
    with torch.no_grad():
        for x in inputs:
            x[zero] = 0
    value = loss(*inputs)
    assert value.isfinite()
    for gradient in torch.autograd.grad(value, inputs):
        assert gradient.abs().max() < 1e3
        assert gradient.any()
        if name not in ("dense", "patches"):  # whose features are those between cells
            assert not gradient[zero].any()
    with torch.no_grad():
        for x in inputs:
            x[zero] = 1e-7
    for gradient in torch.autograd.grad(loss(*inputs), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [*EMBEDDINGS, "squares"])
def test_compiles_in_one_graph(name):
    """Without the checks of values, which a graph cannot hold."""
    loss, shapes = (EMBEDDINGS | LOGITS)[name]
    inputs = features(shapes)
    with torch.no_grad():
        inputs[0][0, :, 0] = 0  # without direction
    value = one_graph(loss)(*inputs)
    expected = loss(*inputs)
    torch.testing.assert_close(value, expected)
    for pair in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize(
    "options",
    [
        {"denominator": "all", "ignore_index": 2, "include_background": False},
        {"denominator": "negatives", "views": "each", "self_pairs": True},
        {"denominator": "ratio", "views": "across", "scope": "cross"},
        {"include_background": False, "sampler": StridePixels(2)},
        {"ignore_index": 1, "sampler": BlockPixels(2)},
    ],
)
@pytest.mark.parametrize("labels", [CLASSES, CLASSES.float(), torch.zeros_like(CLASSES)])
def test_supervised_contrast_compiles_with_every_option(options, labels):
    loss, (x, y) = PixelSupConLoss(**options), features([(2, 3, 4, 4)] * 2)
    value = one_graph(loss)(x, labels, y, labels.flip(2))
    expected = loss(x, labels, y, labels.flip(2))
    torch.testing.assert_close(value, expected)
    for pair in zip(torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        torch.testing.assert_close(*pair)


def test_contrast_of_patches_compiles_without_a_pair_and_with_unknown_labels():
    loss, [x] = PatchContrastLoss(3, patch_size=4, levels=2, positive=0.8), features([(2, 3, 4, 4)])
    graph = one_graph(loss)
    unknown = LABELS.clone()
    unknown[0, :, :, :5] = -1
    for labels in (unknown, torch.zeros_like(LABELS), torch.full_like(LABELS, -1)):
        value, expected = graph(x, labels), loss(x, labels)
        torch.testing.assert_close(value, expected)
        gradients = torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, x)[0]
        torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="`labels` must be from 0 to 2, or -1"):
        loss(x, LABELS + 1)


ARGUMENTS = {
    "ConsistencyLoss": {"supervised": None},
    "PatchContrastLoss": {"num_classes": 3},
    "DomainAdaptationLoss": dict.fromkeys(("supervised", "own", "contrast")),
}


@pytest.mark.parametrize("name", [name for name in losses.__all__ if name.endswith("Loss")])
def test_settings_are_shown_and_of_the_right_type(name):
    cls = getattr(losses, name)
    settings = inspect.signature(cls).parameters
    loss = cls(**ARGUMENTS.get(name, {}))
    assert all(f"{setting}={getattr(loss, setting)!r}" in repr(loss) for setting in settings if setting != "negative")
    numbers = [
        name for name, setting in settings.items() if "int" in setting.annotation or "float" in setting.annotation
    ]
    assert numbers or name == "HeatmapCrossEntropyLoss"
    for number in numbers:
        whole = "int" in settings[number].annotation
        for wrong in ("1", float("nan"), [1], True, *([1.5] if whole else [])):
            with pytest.raises(ValueError, match=rf"`.*{number}.*` must be "):
                cls(**ARGUMENTS.get(name, {}) | {number: wrong})
