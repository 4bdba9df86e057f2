"""Landmark matching."""

from monai_infoaug.inferers.landmark_matcher import LandmarkMatcher, match_points, to_voxels, to_world

__all__ = ["LandmarkMatcher", "match_points", "to_voxels", "to_world"]
