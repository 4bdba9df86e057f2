"""Landmark matching, and landmark detection by heat maps."""

from monai_infoaug.inferers.heatmap_detector import HeatmapDetector
from monai_infoaug.inferers.landmark_matcher import LandmarkMatcher, match_points, to_voxels, to_world

__all__ = ["HeatmapDetector", "LandmarkMatcher", "match_points", "to_voxels", "to_world"]
