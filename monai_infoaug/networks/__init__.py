"""Embedding networks, heads, and what is built on them."""

from monai_infoaug.networks.attention import AttentionEmbedding, AttentionSegmenter
from monai_infoaug.networks.dense_descriptor import DenseDescriptor
from monai_infoaug.networks.embedding_heads import EmbeddingHeads
from monai_infoaug.networks.landmark_heatmap import LandmarkHeatmapNet
from monai_infoaug.networks.nnunet import NnunetPlan
from monai_infoaug.networks.pixel_embedding import GlobalLocalEmbeddingNet, PixelEmbeddingNet
from monai_infoaug.networks.pixel_projection_head import PixelProjectionHead
from monai_infoaug.networks.segmenter import MaskTransformer, Segmenter, TokenClassifier
from monai_infoaug.networks.self_similarity import SelfSimilarity
from monai_infoaug.networks.vision_transformer import VisionTransformer

__all__ = [
    "AttentionEmbedding",
    "AttentionSegmenter",
    "DenseDescriptor",
    "EmbeddingHeads",
    "GlobalLocalEmbeddingNet",
    "LandmarkHeatmapNet",
    "MaskTransformer",
    "NnunetPlan",
    "PixelEmbeddingNet",
    "PixelProjectionHead",
    "Segmenter",
    "SelfSimilarity",
    "TokenClassifier",
    "VisionTransformer",
]
