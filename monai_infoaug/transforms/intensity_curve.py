"""Random grey-level curves that need not rise: one image stands for many contrasts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type
from torch import Tensor

from monai_infoaug._require import all_finite, is_count, refusal, require_shares_of_one
from monai_infoaug.information._arrays import plain_tensor
from monai_infoaug.transforms._keyed import KeyedTransform
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown

__all__ = ["RandIntensityCurve", "RandIntensityCurveD", "RandIntensityCurveDict", "RandIntensityCurved"]


class RandIntensityCurve(Shown, RandomizableTransform):
    """Pass grey levels in [0, 1] through a random curve that rises and falls and reaches 1 again.

    The curve is linear between equidistant knots of random height; 0 stays 0, since no contrast shows air bright. So a
    network that learns on one contrast learns to look at shapes. MONAI's ``RandIntensityRemap`` is close in spirit, but
    draws a height for each value that occurs, which is noise where nearly all values differ.

    Args:
        knots: number of knots, at least 2; with 2 the curve is the identity.
        prob: probability of any change, in [0, 1].

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> curve = RandIntensityCurve(knots=6, prob=1.0).set_random_state(0)
        >>> [round(level, 2) for level in curve(torch.linspace(0, 1, 6)[None])[0].tolist()]  # at its knots
        [0.0, 0.49, 0.69, 0.79, 1.0, 0.61]
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, knots: int = 6, prob: float = 0.1) -> None:
        if not is_count(knots, 2):
            raise refusal("knots", knots, "a whole number of at least 2")
        require_shares_of_one(prob=prob)
        RandomizableTransform.__init__(self, prob)
        self.knots, self._heights = knots, np.ones(knots - 1)

    def randomize(self, data: None = None) -> None:  # noqa: ARG002
        """Draw whether to change, and the heights of the knots after the first."""
        super().randomize(None)
        self._heights = 1 - self.R.uniform(size=self.knots - 1)  # above 0

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Change one image.

        Args:
            img: (C, *S) in [0, 1], finite; what lies outside is clipped.
            randomize: ``False`` repeats the last draw.

        Returns:
            The changed image, of the kind, shape and metadata of ``img``, and of its dtype if floating, else float32.

        Raises:
            ValueError: for an empty image, NaN or infinity.
            TypeError: for what is no array or tensor of real numbers.
        """
        img = up_to_date(img)
        x = plain_tensor(img, "img")
        if x.ndim < 2 or x.numel() == 0:
            raise refusal("img", f"shape {tuple(x.shape)}", "of shape (C, *S), not empty")
        if not all_finite(x):
            raise refusal("img", "NaN or infinity", "finite")
        dtype = x.dtype if x.is_floating_point() else torch.float32
        x = x if x.dtype == torch.float64 else x.float()
        if randomize:
            self.randomize()
        x = self.apply(x) if self._do_transform else x
        return convert_to_dst_type(x.clone(), img, dtype=dtype)[0]

    def apply(self, x: Tensor) -> Tensor:
        """Pass a floating-point tensor through the last curve that was drawn."""
        heights = torch.as_tensor([0, *self._heights / self._heights.max()], dtype=x.dtype, device=x.device)
        place = x.clamp(0, 1) * (self.knots - 1)
        knot = place.long().clamp(max=self.knots - 2)
        return heights[knot].lerp(heights[knot + 1], place - knot)


class RandIntensityCurved(Shown, RandomizableTransform, KeyedTransform):
    """Dictionary version of :py:class:`RandIntensityCurve`: one curve for all keys.

    Args:
        keys: keys of the images.
        knots, prob: see :py:class:`RandIntensityCurve`.
        allow_missing_keys: pass over keys that the data lacks.

    Raises:
        ValueError: as :py:class:`RandIntensityCurve`.
        KeyError: for a missing key.

    See Also:
        :py:class:`RandIntensityCurve`
    """

    backend = RandIntensityCurve.backend

    def __init__(
        self, keys: KeysCollection, knots: int = 6, prob: float = 0.1, allow_missing_keys: bool = False
    ) -> None:
        KeyedTransform.__init__(self, keys, allow_missing_keys)
        self.curve = RandIntensityCurve(knots, prob)
        RandomizableTransform.__init__(self, prob)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandIntensityCurved:
        """Seed the array transform too; see MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.curve.set_random_state(seed, state)
        return self

    def randomize(self, data: None = None) -> None:  # noqa: ARG002
        """Draw whether to change, and the curve, both from the array transform's state."""
        self.curve.prob = self.prob
        self.curve.randomize()
        self._do_transform = self.curve._do_transform

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the images of a dictionary, see :py:meth:`RandIntensityCurve.__call__`."""
        out = dict(data)
        self.randomize()
        for key in self.key_iterator(out):
            out[key] = self.curve(out[key], randomize=False)
        return out


RandIntensityCurveD = RandIntensityCurveDict = RandIntensityCurved
