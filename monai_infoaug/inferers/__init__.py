"""Landmark matching, label maps carried by matches, and landmark detection by heat maps."""

from monai_infoaug.inferers.coordinates import to_voxels, to_world
from monai_infoaug.inferers.error_prediction import ErrorModel
from monai_infoaug.inferers.heatmap_detector import HeatmapDetector
from monai_infoaug.inferers.label_propagation import DenseMap, LabelPropagator, carry_labels, map_densely
from monai_infoaug.inferers.landmark_absence import absent_landmarks, share_inside
from monai_infoaug.inferers.landmark_layout import LandmarkLayout, LayoutPlaces
from monai_infoaug.inferers.landmark_matcher import LandmarkMatcher
from monai_infoaug.inferers.point_matching import match_points, match_votes
from monai_infoaug.inferers.template_choice import ChosenTemplates, choose_templates, salient_points
from monai_infoaug.inferers.votes import Consensus, robust_centre

__all__ = [
    "ChosenTemplates",
    "Consensus",
    "DenseMap",
    "ErrorModel",
    "HeatmapDetector",
    "LabelPropagator",
    "LandmarkLayout",
    "LandmarkMatcher",
    "LayoutPlaces",
    "absent_landmarks",
    "carry_labels",
    "choose_templates",
    "map_densely",
    "match_points",
    "match_votes",
    "robust_centre",
    "salient_points",
    "share_inside",
    "to_voxels",
    "to_world",
]
