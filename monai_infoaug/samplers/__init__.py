"""What chooses pixels to compare, and labels of a network's own that can be trusted."""

from monai_infoaug.samplers.distribution_alignment import DistributionAlignment
from monai_infoaug.samplers.pixel_samplers import BlockPixels, DrawnPixels, StridePixels
from monai_infoaug.samplers.reliable_pixels import ReliablePixels

__all__ = ["BlockPixels", "DistributionAlignment", "DrawnPixels", "ReliablePixels", "StridePixels"]
