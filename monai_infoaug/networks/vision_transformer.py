"""A vision transformer that gives an image as a grid of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import TransformerBlock
from monai.networks.layers import Conv, DropPath
from torch import Tensor, nn
from torch.nn.functional import interpolate

from monai_infoaug._require import are_counts, is_count, listed, refusal, require_counts, require_shares_of_one
from monai_infoaug._versions import is_compiling

__all__ = ["VisionTransformer"]

LINEAR = {2: "bilinear", 3: "trilinear"}


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
        for name in ("cross_attn", "norm_cross_attn"):
            self.register_module(name, nn.Identity())
        self.attn.input_rearrange, self.attn.out_rearrange = _Split(num_heads), _Merge()
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def transformer_blocks(
    number: int, hidden_size: int, num_heads: int, dropout: float, drop_path: float
) -> nn.Sequential:
    """Blocks of which later ones are left out more often, the last one with probability ``drop_path``."""
    rates = [drop_path * index / max(1, number - 1) for index in range(number)]
    return nn.Sequential(*[_Block(hidden_size, num_heads, dropout, rate) for rate in rates])


def require_heads(num_heads: object, hidden_size: int) -> None:
    """Refuse a number of heads that does not divide the channels.

    Raises:
        ValueError: naming ``num_heads``.
    """
    if not is_count(num_heads, 1) or hidden_size % num_heads:  # type: ignore[operator]
        raise refusal("num_heads", num_heads, f"a divisor of the {hidden_size} channels")


def initialize(module: nn.Module) -> None:
    """As the published networks begin, for ``nn.Module.apply``."""
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
        ValueError: for sizes that are no multiples of the patch, a number of heads that does not divide F, or settings
            that are no such numbers, naming them.

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
        if not is_count(spatial_dims, 2) or spatial_dims > 3:
            raise refusal("spatial_dims", spatial_dims, "2 or 3")
        require_counts(in_channels=in_channels, hidden_size=hidden_size, num_layers=num_layers)
        require_counts(0, num_prefix=num_prefix)
        require_shares_of_one(dropout=dropout, drop_path=drop_path)
        size, patch = (listed(s) or [s] * spatial_dims for s in (img_size, patch_size))
        if not are_counts(patch, 1) or len(patch) != spatial_dims:
            raise refusal("patch_size", patch_size, "a whole number of at least 1, or one for each axis")
        self.patch_size: tuple[int, ...] = tuple(patch)
        fits = are_counts(size, 1) and len(size) == spatial_dims
        if not fits or not all(s % patch == 0 for s, patch in zip(size, self.patch_size, strict=True)):
            raise refusal("img_size", img_size, f"positive multiples of the patch {self.patch_size}")
        heads = max(1, hidden_size // 64) if num_heads is None else num_heads
        require_heads(heads, hidden_size)
        self.num_heads, self.mode = heads, LINEAR[spatial_dims]
        grid = [s // p for s, p in zip(size, self.patch_size, strict=True)]
        self.patches = Conv["conv", spatial_dims](in_channels, hidden_size, self.patch_size, self.patch_size)
        self.prefix = nn.Parameter(torch.empty(1, num_prefix, hidden_size))
        self.prefix_position = nn.Parameter(torch.empty(1, num_prefix, hidden_size))
        self.position = nn.Parameter(torch.empty(1, hidden_size, *grid))
        self.dropout = nn.Dropout(dropout)
        self.blocks = transformer_blocks(num_layers, hidden_size, heads, dropout, drop_path)
        self.norm = nn.LayerNorm(hidden_size)
        self.apply(initialize)
        for parameter in (self.prefix, self.prefix_position, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        grid, prefix = self.position.shape[2:], self.prefix.shape[1]
        size = tuple(cells * patch for cells, patch in zip(grid, self.patch_size, strict=True))
        return f"img_size={size}, patch_size={self.patch_size}, num_heads={self.num_heads}, num_prefix={prefix}"

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of an image, see Shape."""
        if not torch.jit.is_scripting():
            self._require_image(image)
        grid = self.patches(image)
        size = grid.shape[2:]
        # also to the same size, which changes nothing, so that an export knows all sizes
        position = interpolate(self.position, size, mode=self.mode, align_corners=False)
        tokens = (grid + position).flatten(2).transpose(1, 2)
        prefix = (self.prefix + self.prefix_position).expand(image.shape[0], -1, -1)
        tokens = self.norm(self.blocks(self.dropout(torch.cat([prefix, tokens], 1))))
        return tokens[:, self.prefix.shape[1] :].transpose(1, 2).reshape(grid.shape)

    def _require_image(self, image: Tensor) -> None:
        channels, dims = self.patches.in_channels, len(self.patch_size)
        if image.ndim != dims + 2 or image.shape[1] != channels:
            accepted = f"(B, {channels}, *S) with {dims} spatial dimensions"
            raise refusal("image", f"shape {tuple(image.shape)}", accepted)
        if torch.jit.is_tracing() or is_compiling():  # a condition on sizes would fix them
            return
        if any(size % patch for size, patch in zip(image.shape[2:], self.patch_size, strict=True)):
            raise refusal("image", f"spatial size {tuple(image.shape[2:])}", f"of multiples of {self.patch_size}")
