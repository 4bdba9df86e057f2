"""Embedding networks and heads."""

from monai_infoaug.networks.dense_descriptor import DenseDescriptor
from monai_infoaug.networks.embedding_heads import EmbeddingHeads
from monai_infoaug.networks.pixel_embedding import GlobalLocalEmbeddingNet, PixelEmbeddingNet

__all__ = ["DenseDescriptor", "EmbeddingHeads", "GlobalLocalEmbeddingNet", "PixelEmbeddingNet"]
