"""The MONAI bundles, configuration alone."""
