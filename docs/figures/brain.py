"""What the figures show: a sagittal slice of the MNI152 T1 template, with information and tiers."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from matplotlib.axes import Axes
from monai.transforms import LoadImage

from monai_infoaug.transforms import InformationMapd, InformationTiersd

volume = LoadImage()(files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz").as_tensor()
image = volume[None, 80, 21:213, :160] / 255  # 1 mm a pixel
item = InformationMapd("image", mask_key="brain")({"image": image, "brain": image > 0})
item = InformationTiersd(mask_key="brain")(item)
brain, tiers = item["brain"][0].numpy(), item["tiers"][0].numpy()


def show(axes: Axes, picture: np.ndarray, title: str = "", **kwargs: object) -> object:
    """Draw a channel-first picture (1, x, y) upright."""
    axes.axis("off")
    axes.set_title(title)
    return axes.imshow(np.ma.asanyarray(picture)[0].T, origin="lower", **{"cmap": "gray"} | kwargs)
