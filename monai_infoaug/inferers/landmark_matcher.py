"""Landmarks in new images from a few annotated ones, by nearest embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_infoaug._grid import level_shares
from monai_infoaug._require import all_finite, is_number, listed, refusal, require_counts, require_truth
from monai_infoaug.inferers._patch_search import Levels
from monai_infoaug.inferers.coordinates import to_tensor, to_voxels, to_world
from monai_infoaug.inferers.point_matching import match_points, match_votes, require_search
from monai_infoaug.inferers.votes import robust_centre

__all__ = ["LandmarkMatcher"]


class LandmarkMatcher(Inferer):
    """Inferer that finds the landmarks of annotated templates in new images.

    It compares directions of embeddings: those of the network need not be of unit norm.

    Args:
        templates: images (T, C, *S), or one (C, *S), preprocessed like the images to come.
        landmarks: (T, L, D), or (L, D) for one template, in voxels; NaN where a template lacks a landmark.
        world: whether the landmarks are in millimetres of the templates' affines instead.
        level_weights: weight of each level's similarity, default all equal.
        chunk, patch_radius: see :py:func:`monai_infoaug.inferers.match_points`, which says how the templates decide
            together.
        consensus: millimetres, the ``scale`` of :py:func:`monai_infoaug.inferers.robust_centre`, which then decides
            instead: each template has a vote.

    Raises:
        ValueError: for shapes that do not fit each other, a ``patch_radius`` or ``consensus`` that is no number above
            0, a landmark outside of its template, an image that is not finite, or a network without strides or one a
            weight.

    Example:
        >>> from monai_infoaug.networks import PixelEmbeddingNet
        >>> image, landmarks = torch.rand(1, 64, 64), torch.tensor([[20.0, 30.0], [40.5, 12.0]])
        >>> matcher = LandmarkMatcher(image, landmarks)
        >>> found = matcher(image[None], PixelEmbeddingNet())
        >>> found["landmarks"].shape, found["scores"].shape
        (torch.Size([1, 2, 2]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        templates: Tensor,
        landmarks: Tensor,
        world: bool = False,
        level_weights: Sequence[float] | None = None,
        chunk: int | None = None,
        patch_radius: float | None = None,
        consensus: float | None = None,
    ) -> None:
        require_truth(world=world)
        landmarks = convert_to_tensor(to_tensor("landmarks", landmarks)).float()
        templates = to_tensor("templates", templates)
        dims = landmarks.shape[-1] if landmarks.ndim else 0
        if templates.ndim == dims + 1:
            templates = templates[None]
        if landmarks.ndim == 2:
            landmarks = landmarks[None]
        if not (landmarks.ndim == 3 and dims in (2, 3) and landmarks.numel() > 0):
            raise refusal("landmarks", f"shape {tuple(landmarks.shape)}", "(T, L, D) with D 2 or 3")
        if templates.ndim != dims + 2 or len(templates) != len(landmarks):
            raise refusal(
                "templates",
                f"shape {tuple(templates.shape)}",
                f"(T, C, *S) with {dims} spatial dimensions and T = {len(landmarks)} like `landmarks`",
            )
        if not all_finite(templates):
            raise refusal("templates", "NaN or infinite values", "finite")
        if world:
            landmarks = to_voxels(landmarks, templates)
        templates = convert_to_tensor(templates)
        size = torch.tensor(templates.shape[2:], device=landmarks.device)
        outside = ((landmarks < -0.5) | (landmarks > size - 0.5)).any(-1).nonzero().tolist()
        if outside:
            raise refusal(
                "landmarks",
                f"(template, landmark) {outside} outside",
                f"inside of the image of {tuple(size.tolist())} voxels",
            )
        require_search(chunk, patch_radius)
        if consensus is not None and not (is_number(consensus) and consensus > 0):
            raise refusal("consensus", consensus, "a number of millimetres above 0, or None")
        if level_weights is not None:
            level_shares(level_weights, max(1, len(listed(level_weights))))
        self.templates, self.landmarks = templates, landmarks
        self.level_weights, self.chunk, self.patch_radius = level_weights, chunk, patch_radius
        self.consensus = consensus
        self._network: nn.Module | None = None
        self._state: object = None
        self._levels: list[Tensor] = []

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Find the landmarks in images.

        Args:
            inputs: (B, C, *S); a MetaTensor's affine gives millimetres, otherwise a voxel is taken as one.
            network: embedding network with ``strides``, in evaluation mode.
            args: not used; MONAI's inferers take them.
            kwargs: not used, either.

        Returns:
            ``landmarks`` (B, L, D) in voxels, ``world`` (B, L, D) in millimetres, ``scores`` (B, L) in [-1, 1].
            With a consensus also ``spreads`` (B, L), millimetres, and ``votes`` (B, L), how many.
        """
        if inputs.ndim != self.templates.ndim or inputs.shape[1] != self.templates.shape[1]:
            raise refusal(
                "inputs",
                f"shape {tuple(inputs.shape)}",
                f"(B, C, *S) like the templates' {tuple(self.templates.shape)}",
            )
        if not all_finite(inputs):
            raise refusal("inputs", "NaN or infinite values", "finite")
        strides = getattr(getattr(network, "module", network), "strides", None)
        if not isinstance(network, nn.Module) or strides is None:
            raise refusal("network", type(network).__name__, "an embedding network with `strides`")
        images = convert_to_tensor(inputs)  # a MetaTensor would carry its metadata through every layer
        given = (
            self._embedded(network, images),
            self.landmarks.to(images.device),
            self._levels_of(network, images),
            strides,
            images.shape[2:],
            self.level_weights,
            self.chunk,
            self.patch_radius,
        )
        if self.consensus is None:
            found, scores = match_points(*given)
            return {"landmarks": found, "world": to_world(found, inputs), "scores": scores}
        votes, scores = match_votes(*given)
        agreed = robust_centre(torch.stack([to_world(vote, inputs) for vote in votes]), scores, self.consensus)
        return {
            "landmarks": to_voxels(agreed.points, inputs),
            "world": agreed.points,
            "scores": agreed.scores,
            "spreads": agreed.spreads,
            "votes": agreed.votes,
        }

    def with_pseudo_templates(
        self, images: Iterable[Tensor], network: Callable[..., Any], count: int, consensus: float = 3.0
    ) -> LandmarkMatcher:
        """A matcher with more templates, which nobody has annotated: images with the landmarks that this one finds.

        A template that resembles an image finds its landmarks well, which the mean score tells. Those images that score
        best are templates, too, and then no single one decides.

        Args:
            images: (C, *S) like the templates, other images of the same anatomy.
            network: see above.
            count: number of images that become templates; all where there are fewer.
            consensus: see above.

        Returns:
            The matcher of the templates and pseudo-templates, which finds landmarks by their consensus.
        """
        require_counts(count=count)
        scored = []
        for image in images:
            found = self(image[None], network)
            scored.append((found["scores"].nanmean().item(), image, found["landmarks"]))
            scored = sorted(scored, key=lambda item: item[0], reverse=True)[:count]
        templates = torch.cat([self.templates, *(convert_to_tensor(image)[None].cpu() for _, image, _ in scored)])
        landmarks = torch.cat([self.landmarks, *(points.to(self.landmarks) for *_, points in scored)])
        return LandmarkMatcher(
            templates, landmarks, False, self.level_weights, self.chunk, self.patch_radius, consensus
        )

    def _levels_of(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = network(images)
        return levels if self.patch_radius is None else Levels(levels)

    def _embedded(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Levels of the templates, computed anew only for another network, changed weights or another device.

        PyTorch counts the changes of a tensor, those through ``tensor.data`` excepted.
        """
        tensors = [*network.parameters(), *network.buffers()]
        versions = [(id(t), t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]
        state = network.training, images.device, images.dtype, versions
        if self._network is not network or self._state != state:
            self._levels = self._levels_of(network, self.templates.to(images))
            self._network, self._state, self._tensors = network, state, tensors  # kept alive, so that no id comes twice
        return self._levels
