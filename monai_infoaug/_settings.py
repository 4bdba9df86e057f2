"""What an object was made with, to be shown."""

from __future__ import annotations

import inspect

from torch import nn


def settings(thing: object) -> str:
    """The arguments of an object's constructor, which it keeps under their names, as in a call.

    Args:
        thing: object.

    Returns:
        Names and values of those that are kept, without modules, which PyTorch shows by themselves.

    Example:
        >>> from monai_infoaug.losses import MaximumSquaresLoss
        >>> settings(MaximumSquaresLoss(alpha=0.5))
        'image_wise=False, alpha=0.5'
    """
    given = {name: getattr(thing, name) for name in inspect.signature(type(thing)).parameters if hasattr(thing, name)}
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if not isinstance(value, nn.Module))


class ShowsSettings:
    """Is shown as the call that makes it anew; a module, as PyTorch shows modules."""

    def extra_repr(self) -> str:
        """What stands between the brackets."""
        return settings(self)

    def __repr__(self) -> str:
        return nn.Module.__repr__(self) if isinstance(self, nn.Module) else f"{type(self).__name__}({settings(self)})"
