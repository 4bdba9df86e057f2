"""Segmenter: a vision transformer whose tokens become per-pixel classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.networks.blocks import TransformerBlock
from monai.networks.layers import Conv, DropPath
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad

from monai_infoaug._require import is_count, refusal

__all__ = ["MaskTransformer", "Segmenter", "TokenClassifier", "VisionTransformer"]

LINEAR = {2: "bilinear", 3: "trilinear"}
PUBLISHED = {  # parts of the names in published checkpoints: of timm's ViT and DeiT, and of Segmenter's own code
    "patch_embed.proj.": "patches.",
    "attn.proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.linear1.",
    "mlp.fc2.": "mlp.linear2.",
    "proj_dec.": "projection.",
    "cls_emb": "classes",
    "proj_patch": "of_patches",
    "proj_classes": "of_classes",
    "decoder_norm.": "norm.",
}
UNUSED = r"encoder\.(head|head_dist|pre_logits)\."  # of classifiers of whole images


class _Split(nn.Module):
    """(B, N, 3 F) to queries, keys and values (3, B, heads, N, F / heads)."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


class _Merge(nn.Module):
    """(B, heads, N, F / heads) to (B, N, F)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).flatten(2)


class _Block(TransformerBlock):
    """MONAI's block with stochastic depth, without the parameters of a cross-attention that it does not have.

    einops, which rearranges tokens there, would fix their number in an export to ONNX.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, drop_path: float) -> None:
        super().__init__(hidden_size, 4 * hidden_size, num_heads, dropout, qkv_bias=True)
        self.register_module("norm_cross_attn", nn.Identity())
        self.attn.input_rearrange, self.attn.out_rearrange = _Split(num_heads), _Merge()
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def _blocks(number: int, hidden_size: int, num_heads: int, dropout: float, drop_path: float) -> nn.Sequential:
    """Blocks of which later ones are left out more often, the last one with probability ``drop_path``."""
    rates = [drop_path * index / max(1, number - 1) for index in range(number)]
    return nn.Sequential(*[_Block(hidden_size, num_heads, dropout, rate) for rate in rates])


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class VisionTransformer(nn.Module):
    """Encoder of images as a grid of tokens [1], for images of any size.

    Position embeddings are learnt for ``img_size`` and interpolated linearly for other sizes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: number C of channels of an image.
        img_size: size of the images that the position embeddings are for, multiples of the patch.
        patch_size: pixels of a token along each axis.
        hidden_size: number F of channels of a token.
        num_layers: number of transformer blocks.
        num_heads: number of heads of the attention, a divisor of ``hidden_size``; None: one every 64 channels.
        num_prefix: number of tokens besides those of patches: 1, the class token, or 2 for distilled networks.
        dropout: probability of dropout.
        drop_path: stochastic depth, the probability to leave out the last block; earlier ones stay more often.

    Shape:
        (B, C, *S), with S multiples of the patch, to (B, F, *S / patch): the final norm of the tokens of patches.

    Raises:
        ValueError: for sizes that are no multiples of the patch, or a number of heads that does not divide F.

    References:
        1. Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at scale", ICLR 2021.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        img_size: int | Sequence[int],
        patch_size: int | Sequence[int] = 16,
        hidden_size: int = 192,
        num_layers: int = 12,
        num_heads: int | None = None,
        num_prefix: int = 1,
        dropout: float = 0.0,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise refusal("spatial_dims", spatial_dims, "2 or 3")
        size, self.patch_size = ensure_tuple_rep(img_size, spatial_dims), ensure_tuple_rep(patch_size, spatial_dims)
        if not all(is_count(patch, 1) for patch in self.patch_size):
            raise refusal("patch_size", patch_size, "a whole number of at least 1, or one for each axis")
        if not all(is_count(s, 1) and s % patch == 0 for s, patch in zip(size, self.patch_size, strict=True)):
            raise refusal("img_size", img_size, f"positive multiples of the patch {self.patch_size}")
        heads = max(1, hidden_size // 64) if num_heads is None else num_heads
        if not is_count(heads, 1) or hidden_size % heads:
            raise refusal("num_heads", heads, f"a divisor of the {hidden_size} channels")
        self.num_heads, self.mode = heads, LINEAR[spatial_dims]
        grid = [s // p for s, p in zip(size, self.patch_size, strict=True)]
        self.patches = Conv["conv", spatial_dims](in_channels, hidden_size, self.patch_size, self.patch_size)
        self.prefix = nn.Parameter(torch.empty(1, num_prefix, hidden_size))
        self.prefix_position = nn.Parameter(torch.empty(1, num_prefix, hidden_size))
        self.position = nn.Parameter(torch.empty(1, hidden_size, *grid))
        self.dropout = nn.Dropout(dropout)
        self.blocks = _blocks(num_layers, hidden_size, heads, dropout, drop_path)
        self.norm = nn.LayerNorm(hidden_size)
        self.apply(_initialize)
        for parameter in (self.prefix, self.prefix_position, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of an image, see Shape."""
        grid = self.patches(image)
        size = grid.shape[2:]
        position: Tensor = self.position
        if size != position.shape[2:]:
            position = interpolate(position, size, mode=self.mode, align_corners=False)
        tokens = (grid + position).flatten(2).transpose(1, 2)
        prefix = (self.prefix + self.prefix_position).expand(len(image), -1, -1)
        tokens = self.norm(self.blocks(self.dropout(torch.cat([prefix, tokens], 1))))
        return tokens[:, self.prefix.shape[1] :].transpose(1, 2).unflatten(2, size)


class TokenClassifier(nn.Module):
    """The linear decoder of Segmenter [1]: each token by itself.

    Args:
        hidden_size: number F of channels of a token.
        out_channels: number K of classes.

    Shape:
        (B, N, F) to logits (B, N, K).

    References:
        1. Strudel et al., "Segmenter: transformer for semantic segmentation", ICCV 2021, arXiv:2105.05633.
    """

    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(hidden_size, out_channels)
        self.apply(_initialize)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens, see Shape."""
        return self.head(tokens)


class MaskTransformer(nn.Module):
    """The mask transformer of Segmenter [1]: tokens of patches and of classes attend to each other, then are compared.

    The logits are normalised over the classes by a layer norm.

    Args:
        hidden_size: number F of channels of a token.
        out_channels: number K of classes.
        num_layers: number of transformer blocks.
        num_heads: number of heads of the attention, a divisor of ``hidden_size``.
        dropout: probability of dropout.

    Shape:
        (B, N, F) to logits (B, N, K).

    References:
        1. Strudel et al., "Segmenter: transformer for semantic segmentation", ICCV 2021, arXiv:2105.05633.
    """

    def __init__(
        self, hidden_size: int, out_channels: int, num_layers: int = 2, num_heads: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.classes = nn.Parameter(torch.empty(1, out_channels, hidden_size))
        self.blocks = _blocks(num_layers, hidden_size, num_heads, dropout, 0.0)
        self.norm = nn.LayerNorm(hidden_size)
        self.of_patches = nn.Parameter(hidden_size**-0.5 * torch.randn(hidden_size, hidden_size))
        self.of_classes = nn.Parameter(hidden_size**-0.5 * torch.randn(hidden_size, hidden_size))
        self.mask_norm = nn.LayerNorm(out_channels)
        self.apply(_initialize)
        # As far apart as the tokens of patches. The published 0.02 suits a trained encoder; from scratch what all the
        # classes attend to outweighs it, and what is then normalised over the classes is hardly more than noise.
        nn.init.normal_(self.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens, see Shape."""
        number, classes = self.classes.shape[1], self.classes.expand(tokens.shape[0], -1, -1)
        tokens = self.norm(self.blocks(torch.cat([self.projection(tokens), classes], 1)))
        patches, classes = tokens[:, :-number] @ self.of_patches, tokens[:, -number:] @ self.of_classes
        return self.mask_norm(normalize(patches, dim=-1) @ normalize(classes, dim=-1).transpose(1, 2))


class Segmenter(nn.Module):
    """Segments images of any size with a vision transformer and a linear or a mask decoder [1].

    Published widths (``hidden_size``, ``num_layers``), with patches of 16: Tiny 192, 12; Small 384, 12; Base 768, 12;
    Large 1024, 24. Train it with stochastic gradient descent and ``torch.optim.lr_scheduler.PolynomialLR(power=0.9)``.
    For contrast of pixels, take the tokens as the layer of ``EmbeddingHeads(segmenter, "encoder", ...)``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: number C of channels of an image.
        out_channels: number K of classes.
        img_size: size of the images, see :py:class:`VisionTransformer`; images of other sizes are padded with zeros to
            whole patches.
        decoder: what makes logits of the tokens, "mask" or "linear".
        overlapping: whether a pixel may be of several classes, or of none: each logit is then relative to that of one
            class more, which stands for none. (Logits that are normalised over the classes cannot all be low at once.)
        decoder_layers: number of blocks of the mask decoder.
        decoder_dropout: probability of dropout in the mask decoder.
        encoder: other settings of :py:class:`VisionTransformer`, such as ``patch_size`` and ``hidden_size``.

    Shape:
        (B, C, *S) to logits (B, K, *S), interpolated linearly between the tokens.

    Raises:
        ValueError: for another decoder, and see :py:class:`VisionTransformer`.

    References:
        1. Strudel et al., "Segmenter: transformer for semantic segmentation", ICCV 2021, arXiv:2105.05633.

    Example:
        >>> segmenter = Segmenter(2, in_channels=1, out_channels=6, img_size=64, hidden_size=64, num_layers=2)
        >>> segmenter(torch.rand(1, 1, 50, 70)).shape
        torch.Size([1, 6, 50, 70])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int],
        decoder: str = "mask",
        overlapping: bool = False,
        decoder_layers: int = 2,
        decoder_dropout: float = 0.1,
        **encoder: Any,
    ) -> None:
        super().__init__()
        if decoder not in ("mask", "linear"):
            raise refusal("decoder", repr(decoder), "'mask' or 'linear'")
        self.encoder = VisionTransformer(spatial_dims, in_channels, img_size, **encoder)
        self.overlapping, out_channels = overlapping, out_channels + overlapping
        size, heads = self.encoder.prefix.shape[-1], self.encoder.num_heads
        self.decoder = (
            MaskTransformer(size, out_channels, decoder_layers, heads, decoder_dropout)
            if decoder == "mask"
            else TokenClassifier(size, out_channels)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, see Shape."""
        rests = [0, 0]
        for axis, patch in enumerate(self.encoder.patch_size):
            rests = [0, -image.shape[axis + 2] % patch] + rests  # noqa: RUF005, for TorchScript
        padded = pad(image, rests[:-2])
        logits = self.decoder(self.encoder(padded).flatten(2).transpose(1, 2)).transpose(1, 2)
        logits = logits.unflatten(2, [padded.shape[i + 2] // patch for i, patch in enumerate(self.encoder.patch_size)])
        if self.overlapping:
            logits = logits[:, 1:] - logits[:, :1]
        logits = interpolate(logits, padded.shape[2:], mode=self.encoder.mode, align_corners=False)
        for axis in range(2, image.ndim):
            logits = logits.narrow(axis, 0, image.shape[axis])
        return logits

    def load_published(self, checkpoint: Mapping[str, Any], decoder: bool = True) -> Segmenter:
        """Take weights with the names of timm's ViT and DeiT, encoder only, or of Segmenter's own code.

        Position embeddings are interpolated to this network's grid, and the weights of other than as many channels are
        shared out evenly. Norms have the epsilon of Segmenter's code, 1e-5.

        Args:
            checkpoint: state dictionary of a 2D network, or one with it under "model"; of a file with
                ``torch.load(file, weights_only=True)``.
            decoder: whether to take the decoder, too, if there is one.

        Returns:
            This network.

        Raises:
            ValueError: for weights of another network, with some of the names that differ in it.
        """
        state = checkpoint.get("model", checkpoint)
        whole = any(name.startswith("decoder.") for name in state)
        state = {name if whole else f"encoder.{name}": value for name, value in state.items()}
        state = {_renamed(name): value for name, value in state.items() if not re.match(UNUSED, name)}
        needed = {f"encoder.{name}" for name in ("cls_token", "pos_embed", "patches.weight")}
        if not needed <= set(state):
            raise refusal("checkpoint", f"one with {sorted(state)[:3]}", "one of ViT, DeiT or Segmenter")
        tokens = [state.pop(name) for name in ("encoder.cls_token", "encoder.dist_token") if name in state]
        position, number, own = state.pop("encoder.pos_embed"), len(tokens), self.state_dict()
        state["encoder.prefix"], state["encoder.prefix_position"] = torch.cat(tokens, 1), position[:, :number]
        state["encoder.position"] = _resized(position[:, number:], own["encoder.position"].shape[2:])
        weight, channels = state["encoder.patches.weight"], own["encoder.patches.weight"].shape[1]
        if weight.shape[1] != channels:
            shared = weight.sum(1, keepdim=True) / channels
            state["encoder.patches.weight"] = shared.repeat(1, channels, *[1] * (weight.ndim - 2))
        if not (decoder and whole):
            state = {name: value for name, value in state.items() if name.startswith("encoder.")}
            state |= {name: value for name, value in own.items() if not name.startswith("encoder.")}
        odd = sorted(set(state) ^ set(own)) or [name for name in own if own[name].shape != state[name].shape]
        if odd:
            raise refusal("checkpoint", f"one of another network, see {odd[:3]}", "one of a network like this")
        self.load_state_dict(state)
        return self


def _renamed(name: str) -> str:
    for theirs, ours in PUBLISHED.items():
        name = name.replace(theirs, ours)
    return name


def _resized(position: Tensor, size: Sequence[int]) -> Tensor:
    """Embeddings (1, N, F) of a square as a grid (1, F, *size)."""
    side = math.isqrt(position.shape[1])
    if side**2 != position.shape[1]:
        raise refusal("checkpoint", f"one of {position.shape[1]} positions", "one of a square")
    grid = position.mT.unflatten(2, (side, side))
    same = len(size) != 2 or tuple(size) == (side, side)
    return grid if same else interpolate(grid, size, mode="bilinear", align_corners=False)
