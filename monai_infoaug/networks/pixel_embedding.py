"""Networks that give every pixel a unit-norm embedding at several strides."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from monai.networks.blocks import Convolution, UpSample
from monai.networks.layers import get_act_layer, get_norm_layer
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

from monai_infoaug._grid import directions
from monai_infoaug._require import are_counts, is_count, listed, refusal, require_counts, require_truth
from monai_infoaug._versions import is_compiling
from monai_infoaug.networks.self_similarity import SelfSimilarity

__all__ = ["GlobalLocalEmbeddingNet", "PixelEmbeddingNet"]


def attribute_of(network: nn.Module, name: str) -> Any:
    """What an embedding network says of itself, such as its ``strides``.

    Raises:
        ValueError: for a network that does not.
    """
    value = getattr(network, name, None)
    if value is None:
        raise refusal("network", type(network).__name__, f"an embedding network with `{name}`")
    return value


def require_network(**networks: object) -> None:
    """Refuse arguments, given by their names, that are no networks.

    Raises:
        TypeError: naming the first of them.
    """
    for name, network in networks.items():
        if not isinstance(network, nn.Module):
            raise refusal(name, type(network).__name__, "a torch.nn.Module", TypeError)


def require_layer(argument: str, layer: object, make: Callable[[], object]) -> None:
    """Refuse the setting of a layer from which MONAI cannot make one, named ``argument``.

    Raises:
        ValueError: naming it.
    """
    try:
        make()
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        accepted = f"a name, or a name and arguments, from which MONAI makes a layer ({str(error)[:80]})"
        raise refusal(argument, repr(layer), accepted) from error


def pad_to_multiple(image: Tensor, divisor: int) -> Tensor:
    """Repeat the last voxels of (B, C, *S) until ``divisor`` divides every axis."""
    margins: list[int] = []
    for size in image.shape[:1:-1]:  # a plain loop, for TorchScript
        margins += [0, (divisor - size % divisor) % divisor]  # ONNX divides towards zero
    return pad(image, margins, mode="replicate")


def without_padding(level: Tensor, image: Tensor, stride: int) -> Tensor:
    """The cells (B, F, *ceil(S / stride)) of a level of the padded image that an image (B, C, *S) has."""
    for axis, size in enumerate(image.shape[2:], start=2):
        cells = (size + stride - 1) // stride
        # a gradient through it is a copy; a program that is exported shall not depend on what this image needs
        if torch.jit.is_tracing() or is_compiling() or cells < level.shape[axis]:
            level = level.narrow(axis, 0, cells)
    return level


def shrink(image: Tensor, scale: int) -> Tensor:
    """Mean of each ``scale`` x ``scale`` (x ``scale``) voxels of (B, C, *S); the last ones are repeated as needed."""
    if scale == 1:
        return image
    padded = pad_to_multiple(image, scale)
    return avg_pool2d(padded, scale) if image.ndim == 4 else avg_pool3d(padded, scale)


class Unshuffle(nn.Module):
    """(B, C, *S) of even size to (B, C * 2**D, *S/2): MONAI's ``pixelunshuffle``, but scriptable."""

    def forward(self, image: Tensor) -> Tensor:
        """Move each 2 x 2 (x 2) voxels to the channels."""
        x = image
        for axis in range(2, image.ndim):
            x = x.unflatten(axis, (-1, 2))
            x = x.movedim(axis + 1, x.ndim - 1)  # not -1, which ONNX export would write down as it is
        return x.flatten(image.ndim).movedim(image.ndim, 2).flatten(1, 2)


class PixelEmbeddingNet(nn.Module):
    """Encoder with an FPN-like decoder [1] that embeds every pixel at several strides.

    A pixel-unshuffle stem (stride 2) keeps the large tensors away from the processor; every further stage halves the
    resolution. The decoder adds each stage's features to the upsampled coarser ones, so that a fine embedding also
    knows its surroundings. Cell ``j`` of a level with stride ``s`` is centred on voxel ``s * j + (s - 1) / 2``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        features: channels of the stages, whose strides are 2, 4, 8, ...
        embedding_dim: channels of each embedding.
        strides: strides of the embeddings, from fine to coarse, each one of the stages'.
        norm: MONAI's normalisation of the convolutions (name, or name and arguments), or None.
        act: MONAI's activation.
        self_similarity: whether to look at :py:class:`SelfSimilarity` [2] instead of the grey levels, for images of
            several contrasts.

    Attributes:
        width: channels of the feature maps that the embedding heads see.

    Shape:
        (B, C, *S) to a list of (B, embedding_dim, *ceil(S / stride)), of unit norm over dimension 1. Sizes that the
        coarsest stage does not divide are padded at the end by repetition.

    Raises:
        ValueError: for strides that no stage has, or an input of another rank or channel number.

    References:
        1. Lin et al., "Feature pyramid networks for object detection", CVPR 2017.
        2. Heinrich et al., "MIND: modality independent neighbourhood descriptor for multi-modal deformable
           registration", Medical Image Analysis 16(7), 2012.

    Example:
        >>> net = PixelEmbeddingNet(spatial_dims=2, in_channels=1)
        >>> [tuple(level.shape) for level in net(torch.rand(1, 1, 96, 64))]
        [(1, 32, 48, 32), (1, 32, 12, 8), (1, 32, 3, 2)]
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        features: Sequence[int] = (32, 48, 64, 96, 128),
        embedding_dim: int = 32,
        strides: Sequence[int] = (2, 8, 32),
        norm: str | tuple | None = "instance",
        act: str | tuple = "relu",
        self_similarity: bool = False,
    ) -> None:
        super().__init__()
        require_truth(self_similarity=self_similarity)
        if not is_count(spatial_dims, 2) or spatial_dims > 3:
            raise refusal("spatial_dims", spatial_dims, "2 or 3")
        require_counts(in_channels=in_channels, embedding_dim=embedding_dim)
        if not are_counts(features, 1):
            raise refusal("features", features, "one or more whole numbers of at least 1")
        stage_strides = [2 ** (i + 1) for i in range(len(features))]
        if not are_counts(strides, 1) or list(strides) != sorted(set(strides) & set(stage_strides)):
            accepted = f"in increasing order and among the stages' strides {tuple(stage_strides)}"
            raise refusal("strides", strides, accepted)
        if norm is not None:
            require_layer("norm", norm, lambda: [get_norm_layer(norm, spatial_dims, width) for width in features])
        if act is not None:
            require_layer("act", act, lambda: get_act_layer(act))
        self.spatial_dims, self.in_channels, self.strides = spatial_dims, in_channels, tuple(strides)
        self.divisor = stage_strides[-1]

        def conv(inputs: int, outputs: int, kernel_size: int = 3) -> nn.Module:
            return Convolution(spatial_dims, inputs, outputs, 1, kernel_size, act=act, norm=norm, bias=norm is None)

        def down(inputs: int, outputs: int) -> nn.Module:
            # an even kernel: one of 3 would look half a cell aside, which adds up to 15 voxels at stride 32
            return Convolution(spatial_dims, inputs, outputs, 2, 4, padding=1, act=act, norm=norm, bias=norm is None)

        self.stem = nn.Sequential(SelfSimilarity(), Unshuffle()) if self_similarity else Unshuffle()
        channels = [in_channels * 2**spatial_dims * (2 * spatial_dims if self_similarity else 1), *features]
        self.encoder = nn.ModuleList(
            nn.Sequential((down if i else conv)(c_in, c_out), conv(c_out, c_out))
            for i, (c_in, c_out) in enumerate(zip(channels, features, strict=False))
        )
        self.width = width = features[len(features) // 2]
        finest, coarsest = stage_strides.index(strides[0]), len(features) - 1
        self.lateral = nn.ModuleDict(
            {str(i): conv(features[i], width, kernel_size=1) for i in range(finest, coarsest + 1)}
        )
        self.upsample = UpSample(spatial_dims, width, width, 2, mode="nontrainable", align_corners=False)
        self.smooth = nn.ModuleDict({str(stage_strides.index(s)): conv(width, width) for s in strides})
        self.heads = nn.ModuleDict(
            {
                str(stage_strides.index(s)): Convolution(
                    spatial_dims, width, embedding_dim, kernel_size=1, conv_only=True
                )
                for s in strides
            }
        )
        self.instance_norm = norm is not None and "instance" in norm
        if not self.instance_norm:  # it would copy to and fro; everything else is faster with channels last
            self.to(memory_format=torch.channels_last if spatial_dims == 2 else torch.channels_last_3d)  # type: ignore[call-overload]

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"spatial_dims={self.spatial_dims}, in_channels={self.in_channels}, strides={self.strides}"

    # what follows is written in the part of Python that TorchScript knows
    def forward(self, image: Tensor) -> list[Tensor]:
        """Embed an image, see Shape."""
        levels: list[Tensor] = []
        maps = self.feature_maps(image)
        for i, head in enumerate(self.heads.values()):
            levels.append(directions(head(maps[i]), 1))
        return levels

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """What the embedding heads see: (B, width, *ceil(S / stride)) for each of ``strides``."""
        if not torch.jit.is_scripting():
            self._require_image(image)
        x = self.stem(pad_to_multiple(image, self.divisor))
        stages: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            stages.append(x)
        features: list[Tensor] = []
        for i, lateral in self.lateral.items():
            features.append(lateral(stages[int(i)]))
        for k in range(len(features) - 1, 0, -1):
            features[k - 1] = features[k - 1] + self.upsample(features[k])
        maps: list[Tensor] = []
        for (i, smooth), stride in zip(self.smooth.items(), self.strides, strict=True):
            maps.append(without_padding(smooth(features[int(i) - len(stages)]), image, stride))
        return maps

    def _require_image(self, image: Tensor) -> None:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            accepted = f"(B, {self.in_channels}, *S) with {self.spatial_dims} spatial dimensions"
            raise refusal("image", f"shape {tuple(image.shape)}", accepted)
        if self.instance_norm and max(image.shape[2:]) <= self.divisor:
            accepted = f"larger than {self.divisor} along an axis, for instance normalisation at stride {self.divisor}"
            raise refusal("image", f"spatial size {tuple(image.shape[2:])}", accepted)


class GlobalLocalEmbeddingNet(nn.Module):
    """One embedding from several networks that see the image at several resolutions.

    A network on the whole image at low resolution knows where a pixel lies, one on crops at high resolution knows it
    precisely; the sum of their similarities has both.

    Args:
        networks: embedding networks, each with ``strides`` and a list of levels as its output.
        scales: for each network, by how much the image is shrunk before it sees it.
        roi_size: a network to which an image is larger than this sees it in windows of this size (MONAI's sliding
            windows, which overlap by an eighth or more and whose embeddings are blended), so that a large volume fits
            into memory; None: always the whole image. Instance normalisation then looks at a window, too. Exported
            networks always see the whole image.

    Attributes:
        strides: voxels of the image a cell, for each level.
        view_levels: for each level, the index of its network and its stride in voxels of that network's own input.

    Shape:
        One image (B, C, *S): every network gets it at its scale (matching). One image a network, in their order: each
        gets its own (training, where one sees whole images and another crops). The levels of all networks in order.

    Raises:
        ValueError: unless there is one positive scale, and one or ``len(networks)`` images, for the networks, and the
            axes of windows are multiples, at least the double, of what divides each network's input.

    Example:
        >>> local_net, global_net = PixelEmbeddingNet(strides=(2, 8)), PixelEmbeddingNet(strides=(2, 8))
        >>> GlobalLocalEmbeddingNet([local_net, global_net], scales=[1, 2]).strides
        (2, 8, 4, 16)
    """

    def __init__(
        self, networks: Sequence[nn.Module], scales: Sequence[int] = (1, 2), roi_size: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        nets = list(networks) if isinstance(networks, nn.ModuleList) else listed(networks)
        if not nets:
            raise refusal("networks", type(networks).__name__, "a sequence of one or more networks", TypeError)
        for net in nets:
            require_network(networks=net)
        if not are_counts(scales, 1) or len(scales) != len(nets):
            raise refusal("scales", scales, f"one factor of at least 1 for each of the {len(nets)} networks")
        if roi_size is not None:
            divisors = [attribute_of(net, "divisor") for net in nets]
            sizes = listed(roi_size)
            fits = all(is_count(n, 2 * divisor) and n % divisor == 0 for n in sizes for divisor in divisors)
            if not sizes or not fits:
                raise refusal("roi_size", roi_size, f"multiples, at least the double, of {divisors}")
        self.networks, self.scales = nn.ModuleList(nets), tuple(scales)
        self.roi_size = None if roi_size is None else tuple(roi_size)
        strides = [attribute_of(net, "strides") for net in nets]
        self.view_levels = tuple((i, stride) for i, own in enumerate(strides) for stride in own)
        self.strides = tuple(scales[i] * stride for i, stride in self.view_levels)

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"scales={self.scales}, roi_size={self.roi_size}, strides={self.strides}"

    def __prepare_scriptable__(self) -> nn.Module:
        """What :func:`torch.jit.script` compiles in place of it."""
        single = copy.copy(self)
        single.__class__ = _OfOneImage
        return single

    def forward(self, *images: Tensor) -> list[Tensor]:
        """Embed one image, or one for each network, see Shape."""
        if len(images) not in (1, len(self.networks)):
            raise refusal("images", len(images), f"1 or {len(self.networks)} tensors")
        if len(images) == 1:
            return self.embed(images[0])
        return [level for net, image in zip(self.networks, images, strict=True) for level in net(image)]

    @torch.jit.export
    def embed(self, image: Tensor) -> list[Tensor]:
        """The levels of one image (B, C, *S)."""
        levels: list[Tensor] = []
        for net, scale in zip(self.networks, self.scales, strict=True):
            small = shrink(image, scale)
            if torch.jit.is_scripting() or torch.jit.is_tracing():
                levels += net(small)
            else:
                levels += self._in_windows(net, small)
        return levels

    @torch.jit.unused
    def _in_windows(self, net: nn.Module, image: Tensor) -> list[Tensor]:
        if self.roi_size is None:
            return net(image)
        if len(self.roi_size) != image.ndim - 2:
            raise refusal("roi_size", self.roi_size, f"one size for each of the image's {image.ndim - 2} axes")
        if all(n <= roi for n, roi in zip(image.shape[2:], self.roi_size, strict=True)):
            return net(image)
        divisor: int = attribute_of(net, "divisor")
        fits = all(n % divisor == 0 for n in image.shape[2:])
        padded = image if fits else pad_to_multiple(image, divisor)  # so that windows begin where cells begin
        window = [min(n, roi) for n, roi in zip(padded.shape[2:], self.roi_size, strict=True)]
        steps = [7 * n // (8 * divisor) * divisor for n in window]
        overlap = [(n - step - 0.5) / n for n, step in zip(window, steps, strict=True)]  # MONAI rounds the step down
        blended: Any = sliding_window_inference(padded, window, 1, net, overlap, "gaussian")
        levels: list[Tensor] = list(blended) if isinstance(blended, tuple) else [blended]
        for level in levels:
            level.div_(level.norm(dim=1, keepdim=True))  # in place: it may take the better part of the memory
        batch = (slice(None), slice(None))
        return [
            level[(*batch, *(slice(-(-n // stride)) for n in image.shape[2:]))]
            for level, stride in zip(levels, attribute_of(net, "strides"), strict=True)
        ]

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """What the embedding heads of all networks see of one image (B, C, *S), one map a level."""
        maps: list[Tensor] = []
        for net, scale in zip(self.networks, self.scales, strict=True):
            maps += net.feature_maps(shrink(image, scale))  # type: ignore[operator]
        return maps


class _OfOneImage(GlobalLocalEmbeddingNet):
    """The network in a script, which knows no variable number of arguments."""

    def forward(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Embed one image."""
        return self.embed(image)
