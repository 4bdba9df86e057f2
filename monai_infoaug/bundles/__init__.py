"""The MONAI bundles that come with the package, and the network of a checkpoint that one of them has trained."""

from monai_infoaug.bundles.advice import Advice, choose_recipe
from monai_infoaug.bundles.checkpoints import load_network, read_bundle, read_config
from monai_infoaug.bundles.finding import (
    bundle_overlays,
    copy_bundle,
    describe_bundles,
    find_bundle,
    inputs_of,
    say_what_next,
    training_command,
    using_command,
)
from monai_infoaug.bundles.settings import require_settings

__all__ = [
    "Advice",
    "bundle_overlays",
    "choose_recipe",
    "copy_bundle",
    "describe_bundles",
    "find_bundle",
    "inputs_of",
    "load_network",
    "read_bundle",
    "read_config",
    "require_settings",
    "say_what_next",
    "training_command",
    "using_command",
]
