"""The MONAI bundles that come with the package, and the network of a checkpoint that one of them has trained."""

from monai_infoaug.bundles.checkpoints import load_network, read_bundle, read_config
from monai_infoaug.bundles.finding import (
    bundle_overlays,
    copy_bundle,
    describe_bundles,
    find_bundle,
    training_command,
)
from monai_infoaug.bundles.settings import require_settings

__all__ = [
    "bundle_overlays",
    "copy_bundle",
    "describe_bundles",
    "find_bundle",
    "load_network",
    "read_bundle",
    "read_config",
    "require_settings",
    "training_command",
]
