"""Networks that look at one class at a time, pointed to it by a coarse segmentation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from monai_infoaug._require import refusal, require_truth
from monai_infoaug.networks.pixel_embedding import attribute_of, require_network

__all__ = ["AttentionEmbedding", "AttentionSegmenter"]


class _Attention(nn.Module):
    """An image several times, each time with the mask of one class as another channel.

    Args:
        coarse: coarse network, see :py:class:`AttentionSegmenter`.
        background: whether it has the background, see there.
    """

    def __init__(self, coarse: nn.Module, background: bool = True) -> None:
        super().__init__()
        require_network(coarse=coarse)
        require_truth(background=background)
        self.coarse, self.background = coarse, background

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"background={self.background}"

    def train(self, mode: bool = True) -> _Attention:
        super().train(mode)
        self.coarse.eval()  # it is not trained here, whatever the rest does
        return self

    def attend(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images with masks (B * K, C + 1, *S), and whether the coarse network sees the class anywhere: (B, K)."""
        with torch.no_grad():
            logits = self.coarse(image)
            if not torch.jit.is_scripting():
                self._require_classes(logits, image)
            masks = logits.softmax(1)[:, 1:] if self.background else logits.sigmoid()
            masks = masks.to(image.dtype)
            present = (masks > 0.5).flatten(2).any(2)
        images = image.unsqueeze(1).expand([-1, masks.shape[1]] + [-1] * (image.ndim - 1))
        return torch.cat([images, masks.unsqueeze(2)], 2).flatten(0, 1), present

    def _require_classes(self, logits: Tensor, image: Tensor) -> None:
        if logits.shape[2:] != image.shape[2:] or logits.shape[1] <= int(self.background):
            accepted = "a network that gives each pixel a channel a class" + ", and the background" * self.background
            raise refusal("coarse", f"one that gives {tuple(logits.shape)}", accepted)


class AttentionSegmenter(_Attention):
    """Segments one class after another with one network, whose input is the image and a coarse mask of the class [1].

    The masks are the probabilities that a coarse network gives to the classes; it is not trained here, and always in
    eval mode.

    Args:
        coarse: network (B, C, *S) to logits (B, K, *S) of K classes, with one more, the first one, for the background.
        network: network (B, C + 1, *S) to one logit (B, 1, *S); the last channel of its input is the mask.
        background: whether ``coarse`` has the background; without it, classes may overlap.

    Shape:
        (B, C, *S) to logits (B, K, *S); with a background (B, K + 1, *S), and its logit is 0.

    Raises:
        ValueError: for a coarse network without a channel for a class, or a network of more or less than one channel.

    References:
        1. Lee et al., "Attention-guided supervised contrastive learning for semantic segmentation", arXiv:2106.01596.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> coarse = BasicUNet(2, in_channels=1, out_channels=3, features=(4, 4, 4, 4, 8, 4))
        >>> fine = BasicUNet(2, in_channels=2, out_channels=1, features=(8, 8, 16, 16, 32, 8))
        >>> AttentionSegmenter(coarse, fine)(torch.rand(2, 1, 32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """

    def __init__(self, coarse: nn.Module, network: nn.Module, background: bool = True) -> None:
        super().__init__(coarse, background)
        require_truth(background=background)
        require_network(network=network)
        self.network = network
        self.train(self.training)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, see Shape."""
        attended, present = self.attend(image)
        logits = self.network(attended)
        if not torch.jit.is_scripting() and logits.shape[1] != 1:
            raise refusal("network", f"one that gives {tuple(logits.shape)}", "a network of one channel")
        logits = logits.squeeze(1).unflatten(0, present.shape)
        return pad(logits, [0, 0] * (logits.ndim - 2) + [1, 0]) if self.background else logits


class AttentionEmbedding(_Attention):
    """Embeds an image once for each class: as seen with the coarse mask of that class [1].

    For :py:class:`monai_infoaug.engines.LabelContrastiveTrainer` with ``PixelSupConLoss(scope="batch")``: what one
    class is in different images, and in different views, belongs together. A class that the coarse network does not see
    in an image gets the embedding zero, which that loss leaves out.

    Args:
        coarse: coarse network, see :py:class:`AttentionSegmenter`.
        background: whether it has the background, see there.
        heads: embedding of (B, C + 1, *S), such as ``EmbeddingHeads(pooled=True)`` with one layer.

    Attributes:
        strides: ``(1,)``, one level.

    Shape:
        (B, C, *S) to a list of one level (B, F, K); the labels (B, 1, K) are the numbers of the classes.

    Raises:
        ValueError: for a coarse network without a channel for a class, or heads of more than one level.

    References:
        1. Lee et al., "Attention-guided supervised contrastive learning for semantic segmentation", arXiv:2106.01596.
    """

    def __init__(self, coarse: nn.Module, heads: nn.Module, background: bool = True) -> None:
        super().__init__(coarse, background)
        require_truth(background=background)
        levels = len(attribute_of(heads, "strides"))
        if levels != 1:
            raise refusal("heads", f"those of {levels} levels", "heads of one level")
        self.heads, self.strides = heads, (1,)
        self.train(self.training)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Embeddings of an image, see Shape."""
        attended, present = self.attend(image)
        embedding = self.heads(attended)[0].flatten(1).unflatten(0, present.shape)
        return [(embedding * present[..., None]).mT]
