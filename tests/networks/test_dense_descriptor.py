from __future__ import annotations

import io

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch.nn.functional import normalize

from monai_infoaug._grid import level_features, level_shares, unravel_index
from monai_infoaug.inferers import match_points
from monai_infoaug.networks import DenseDescriptor, EmbeddingHeads, GlobalLocalEmbeddingNet, PixelEmbeddingNet
from tests.versions import needs_export, onnx_session


def network(dims: int = 2, seed: int = 0, both: bool = False) -> torch.nn.Module:
    """Levels of strides 2 and 8; with a second network at a third of the resolution also 6 and 24."""
    torch.manual_seed(seed)
    nets = [PixelEmbeddingNet(dims, features=(4, 6, 8), embedding_dim=5, strides=(2, 8)) for _ in range(1 + both)]
    return (GlobalLocalEmbeddingNet(nets, scales=[1, 3]) if both else nets[0]).eval()


def user_network() -> EmbeddingHeads:
    unet = BasicUNet(spatial_dims=2, features=(8, 8, 16, 16, 32, 8))
    return EmbeddingHeads(unet, layers=("upcat_3", "upcat_1"), embedding_dim=6, spatial_size=(64, 64))


def images(*size: int) -> torch.Tensor:
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))


def template_vectors(descriptor: DenseDescriptor, at_points: torch.Tensor) -> torch.Tensor:
    """(N, C) of a template's descriptor, each level's part scaled to the root of its weight, as the class says."""
    roots = torch.tensor([root for root in descriptor.roots if root])
    parts = at_points.unflatten(1, (len(roots), -1))
    return (normalize(parts, dim=2) * roots[:, None]).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("size", [(48, 56), (51, 45), (27, 33, 30)])
@pytest.mark.parametrize("stride", [None, 1, 2, 24])
@pytest.mark.parametrize("both", [False, True])
def test_dot_products_are_the_matching_score_at_the_cells(size, stride, both):
    net, weights = network(len(size), both=both), [3, 1, 2, 0][: 4 if both else 2]
    descriptor = DenseDescriptor(net, stride, weights).eval()
    pair = images(*size)
    maps, s = descriptor(pair), descriptor.stride
    cells = [-(-length // s) for length in size]
    assert maps.shape == (2, 5 * sum(w > 0 for w in weights), *cells)
    cell = [min(2, c - 1) for c in cells]
    (vector,) = template_vectors(descriptor, maps[(0, slice(None), *cell)][None])
    got = torch.einsum("f,f...->...", vector, maps[1])

    centres = torch.cartesian_prod(*(s * torch.arange(c) + (s - 1) / 2 for c in cells))
    point = s * torch.tensor(cell) + (s - 1) / 2
    expected = torch.zeros(len(centres))
    for level, level_stride, share in zip(net(pair), net.strides, level_shares(weights, len(weights)), strict=True):
        wanted = normalize(level_features(level[:1], point[None, None], level_stride)[0, 0], dim=0)
        expected += share * level_features(level[1:], centres[None], level_stride)[0] @ wanted
    torch.testing.assert_close(got.flatten(), expected, atol=1e-5, rtol=0)
    assert expected.std() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("size", [(42, 37), (24, 20, 29)])
@pytest.mark.parametrize("both", [False, True])
def test_matches_as_the_matcher_does(size, both):
    net = network(len(size), both=both)
    weights = [2, 1, 1, 3][: len(net.strides)]
    descriptor = DenseDescriptor(net, None, weights).eval()
    template, query = images(*size).split(1)
    cells = torch.tensor([[5, 6, 4], [1, 9, 9], [10, 3, 13]])[:, : len(size)]
    points = descriptor.stride * cells + (descriptor.stride - 1) / 2
    found, scores = match_points(net(template), points[None], net(query), net.strides, size, weights)

    vectors = template_vectors(descriptor, descriptor(template)[(0, slice(None), *cells.T)].T)
    best, where = torch.einsum("nf,f...->n...", vectors, descriptor(query)[0]).flatten(1).max(1)
    torch.testing.assert_close(best, scores[0], atol=1e-5, rtol=0)
    # the matcher goes on to a fraction of a cell
    peaks = unravel_index(where, descriptor(query).shape[2:]).T
    assert ((found[0] + 0.5) / descriptor.stride - 0.5 - peaks).abs().max() <= 0.5


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("stride", [None, 24])
def test_script(dims, both, stride):
    descriptor = DenseDescriptor(network(dims, both=both), stride).eval()
    loaded = saved_and_loaded(torch.jit.script(descriptor))
    for size in ((32, 48, 56), (29, 51, 30)):
        image = images(*size[:dims])
        torch.testing.assert_close(loaded(image), descriptor(image), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", [lambda: network(both=True), user_network])
def test_trace_takes_other_sizes(make):
    descriptor = DenseDescriptor(make()).eval()
    loaded = saved_and_loaded(torch.jit.trace(descriptor, images(48, 48)))
    for size in ((64, 96), (80, 48)):
        image = images(*size)
        torch.testing.assert_close(loaded(image), descriptor(image), atol=1e-5, rtol=0)


@torch.no_grad()
@needs_export
@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_onnx(dims):
    net = network() if dims == 2 else PixelEmbeddingNet(3, features=(4, 6), embedding_dim=5, strides=(2,)).eval()
    descriptor = DenseDescriptor(net).eval()
    session = onnx_session(descriptor, images(*[48, 40, 48][:dims]))
    for size in ((32, 48, 56), (29, 51, 30)):
        image = images(*size[:dims])[:1]
        (got,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), descriptor(image), atol=1e-5, rtol=0)


@torch.no_grad()
def test_weights_are_those_of_the_network():
    net, image = network(both=True), images(40, 48)
    descriptor = DenseDescriptor(network(seed=7, both=True)).eval()
    before = descriptor(image)
    descriptor.load_state_dict(net.state_dict())
    expected = DenseDescriptor(net).eval()(image)
    torch.testing.assert_close(descriptor(image), expected)
    assert not torch.allclose(before, expected, atol=1e-3)
    own = descriptor.state_dict()
    assert list(own) == [f"network.{name}" for name in net.state_dict()]
    other = DenseDescriptor(network(seed=8, both=True)).eval()
    for state in (own, dict(net.state_dict())):
        other.load_state_dict(state)
        torch.testing.assert_close(other(image), expected)
        assert list(state) in (list(own), list(net.state_dict()))  # as it was


def test_states_that_do_not_fit_are_refused():
    net = network(both=True)
    descriptor, state = DenseDescriptor(net), net.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        descriptor.load_state_dict({"network": state})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"odd\""):
        descriptor.load_state_dict(state | {"odd": torch.zeros(1)})
    first, *others = state
    with pytest.raises(RuntimeError, match=rf"Missing key\(s\) in state_dict: \"network.{first}\""):
        descriptor.load_state_dict({name: state[name] for name in others})


@pytest.mark.parametrize("stride", [0, -2, 3, 12, 1.5, "2"])
def test_stride_that_does_not_fit(stride):
    with pytest.raises(ValueError, match=r"`stride` must be a divisor or a multiple .* strides \(2, 8\), got"):
        DenseDescriptor(network(), stride)


def test_a_network_without_strides_is_named():
    with pytest.raises(ValueError, match="`network` must be an embedding network with `strides`, got Conv2d"):
        DenseDescriptor(torch.nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [0, 0], [1, -1]])
def test_weights_that_do_not_fit(weights):
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers"):
        DenseDescriptor(network(), level_weights=weights)
