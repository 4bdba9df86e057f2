"""Information-guided pixel augmentation and pixel-contrastive pre-training for MONAI."""

__version__ = "0.1.0"
