"""Published widths, and one function of each pixel alone."""

import pytest
import torch
from torch import nn

from monai_infoaug.networks import PixelProjectionHead


@pytest.mark.parametrize(
    ("widths", "channels"), [((256, 256, 256), [64, 256, 256, 256]), ((256, 128), [64, 256, 128]), ((5,), [64, 5])]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_widths(dims, widths, channels):
    head = PixelProjectionHead(dims, 64, widths)
    convolutions = [module for module in head.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    assert [conv.in_channels for conv in convolutions] == channels[:-1]
    assert [conv.out_channels for conv in convolutions] == channels[1:]
    assert sum(isinstance(module, nn.ReLU) for module in head) == len(widths) - 1 == len(head) // 2
    x = torch.randn(2, 64, *(4, 3, 2)[:dims])
    y = head(x)
    alone = head(x[(..., *(slice(1, 2),) * dims)])
    torch.testing.assert_close(alone, y[(..., *(slice(1, 2),) * dims)])


@pytest.mark.parametrize("widths", [(), (0, 4), 8, ("8",)])
def test_bad_widths_are_named(widths):
    with pytest.raises(ValueError, match="`widths` must be one or more"):
        PixelProjectionHead(2, 64, widths)
