"""Segmenter: a vision transformer whose tokens become per-pixel classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad

from monai_infoaug._require import is_count, is_one_of, refusal, require_counts, require_shares_of_one, require_truth
from monai_infoaug.networks.vision_transformer import VisionTransformer, initialize, require_heads, transformer_blocks

__all__ = ["MaskTransformer", "Segmenter", "TokenClassifier"]

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
COSINE_SCALE = 10.0  # at first
UNUSED = r"encoder\.(head|head_dist|pre_logits)\."  # of classifiers of whole images


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
        require_counts(hidden_size=hidden_size, out_channels=out_channels)
        self.head = nn.Linear(hidden_size, out_channels)
        self.apply(initialize)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens, see Shape."""
        return self.head(tokens)


class ScaledCosines(nn.Module):
    """Logits (..., K) of cosines: times a scale, plus a bias a class, both learnt."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, cosines: Tensor) -> Tensor:
        return self.scale * cosines + self.bias


class MaskTransformer(nn.Module):
    """The mask transformer of Segmenter [1]: tokens of patches and of classes attend to each other, then are compared.

    Their cosines become logits by a layer norm over the classes, as published for 19 to 150 of them. It bounds logits
    by the square root of the number of classes: for three, the largest probability is 0.8 until the norm's weights have
    grown. For few classes, and from scratch, take a scale and a bias that are learnt [2].

    Args:
        hidden_size: number F of channels of a token.
        out_channels: number K of classes, at least 2.
        num_layers: number of transformer blocks.
        num_heads: number of heads of the attention, a divisor of ``hidden_size``.
        dropout: probability of dropout.
        logits: what makes logits of the cosines, "normalized" or "scaled".

    Shape:
        (B, N, F) to logits (B, N, K).

    Raises:
        ValueError: for settings that are no such numbers, naming them.

    References:
        1. Strudel et al., "Segmenter: transformer for semantic segmentation", ICCV 2021, arXiv:2105.05633.
        2. Gidaris & Komodakis, "Dynamic few-shot visual learning without forgetting", CVPR 2018, arXiv:1804.09458.
    """

    def __init__(
        self,
        hidden_size: int,
        out_channels: int,
        num_layers: int = 2,
        num_heads: int = 3,
        dropout: float = 0.1,
        logits: str = "normalized",
    ) -> None:
        super().__init__()
        if not is_one_of(logits, ("normalized", "scaled")):
            raise refusal("logits", repr(logits), "'normalized' or 'scaled'")
        require_counts(hidden_size=hidden_size)
        if not is_count(out_channels, 2):
            raise refusal("out_channels", out_channels, "a whole number of at least 2, to be normalised over")
        require_counts(0, num_layers=num_layers)
        require_heads(num_heads, hidden_size)
        require_shares_of_one(dropout=dropout)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.classes = nn.Parameter(torch.empty(1, out_channels, hidden_size))
        self.blocks = transformer_blocks(num_layers, hidden_size, num_heads, dropout, 0.0)
        self.norm = nn.LayerNorm(hidden_size)
        self.of_patches = nn.Parameter(hidden_size**-0.5 * torch.randn(hidden_size, hidden_size))
        self.of_classes = nn.Parameter(hidden_size**-0.5 * torch.randn(hidden_size, hidden_size))
        self.mask_norm = nn.LayerNorm(out_channels) if logits == "normalized" else ScaledCosines(out_channels)
        self.apply(initialize)
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
        decoder_logits: what makes the mask decoder's logits, see :py:class:`MaskTransformer`; published weights of a
            whole Segmenter are for "normalized".
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
        decoder_logits: str = "normalized",
        **encoder: Any,
    ) -> None:
        super().__init__()
        require_truth(overlapping=overlapping)
        if not is_one_of(decoder, ("mask", "linear")):
            raise refusal("decoder", repr(decoder), "'mask' or 'linear'")
        require_counts(out_channels=out_channels)
        require_counts(0, decoder_layers=decoder_layers)
        require_shares_of_one(decoder_dropout=decoder_dropout)
        self.encoder = VisionTransformer(spatial_dims, in_channels, img_size, **encoder)
        self.overlapping, out_channels = overlapping, out_channels + overlapping
        size, heads = self.encoder.prefix.shape[-1], self.encoder.num_heads
        self.decoder = (
            MaskTransformer(size, out_channels, decoder_layers, heads, decoder_dropout, decoder_logits)
            if decoder == "mask"
            else TokenClassifier(size, out_channels)
        )

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"overlapping={self.overlapping}"

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
        require_truth(decoder=decoder)
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
