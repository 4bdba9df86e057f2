"""Five minutes: from an image to two views
========================================

Three transforms turn an image into a pair of views for pixel-contrastive learning. This page runs them one after
the other on a slice of the MNI152 T1 template, which ships with nilearn, and looks at what each one adds.
"""

# %%
# An image
# --------
# Any MONAI pipeline will do that ends with a channel-first image of finite values. The transforms expect grey
# levels in [0, 1], which :py:class:`~monai_infoaug.transforms.ModalityPresetd` sees to. ``"mr"`` also finds the
# head, so that the air around it does not count.
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, Rand2DElastic

from monai_infoaug.handlers import draw_information, draw_tiers
from monai_infoaug.transforms import (
    InformationMapd,
    InformationTiersd,
    ModalityPresetd,
    RandPairedViewsd,
    RandTierIntensity,
)

BRAIN = files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"

load = Compose(
    [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Lambdad("image", lambda volume: volume[:, 80]),  # a sagittal slice, 1 mm a pixel
        ModalityPresetd("image", modality="mr"),
    ]
)
item = load({"image": str(BRAIN)})
print({key: tuple(value.shape) for key, value in item.items()})

# %%
# Information and tiers
# ---------------------
# The information of a pixel is the entropy of the grey levels in the window around it, in bits: 0 where all are
# equal, at most log2(32) = 5 with 32 grey-level bins. The tiers split the pixels of the foreground by it; without
# further arguments into thirds. Both are deterministic, so ``CacheDataset`` and ``PersistentDataset`` keep them.
measure = Compose([InformationMapd("image", window=9, mask_key="foreground"), InformationTiersd(mask_key="foreground")])
item = measure(item)


def show(axes, image, title, **kwargs):
    axes.imshow(np.asarray(image)[0].T, origin="lower", **{"cmap": "gray"} | kwargs)
    axes.set_title(title)
    axes.axis("off")


figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
show(axes[0], item["image"], "image")
inside = item["foreground"][0].numpy()
draw_information(axes[1], item["information"][0].numpy(), inside, most=5, origin="lower")
axes[1].set_title("information")
draw_tiers(axes[2], item["tiers"][0].numpy(), inside, origin="lower")
axes[2].set_title("tiers")

# %%
# Two views
# ---------
# :py:class:`~monai_infoaug.transforms.RandPairedViewsd` takes *your* spatial and intensity transforms. Only
# coordinates pass through the spatial ones, so it knows for each pixel of a view where in the source it lies,
# elastic changes included. ``"rich"`` is a preset of :py:class:`~monai_infoaug.transforms.RandTierIntensity`: gamma
# curve, bias field, blur and noise, weaker where there is little to destroy. ``shares`` says how many of the points
# come from each tier.
pair = RandPairedViewsd(
    "image",
    roi_size=(128, 128),
    spatial=Rand2DElastic(
        prob=1, spacing=(32, 32), magnitude_range=(1, 4), rotate_range=0.3, scale_range=0.1, padding_mode="zeros"
    ),
    intensity=RandTierIntensity("rich"),
    num_points=8,
    shares=(0, 0.5, 0.5),
    mask_key="foreground",
)
views = pair.set_random_state(seed=1)(item)
for key, value in views.items():
    print(f"{key:16} {tuple(value.shape)} {value.dtype}")

# %%
# Points of one colour show the same place of the brain.
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
for axis, view in zip(axes, ("view1", "view2"), strict=True):
    show(axis, views[f"image_{view}"], f"view {view[-1]}")
    axis.scatter(*views[f"points_{view}"].T, c=range(8), cmap="tab10", edgecolors="white", s=40)

# %%
# That they do is no estimate. ``coords_view1`` and ``coords_view2`` hold the source voxel of each view pixel; read
# at the two ends of a pair they agree:
rows, columns = views["points_view1"].long().T  # points of view 1 are pixels, their partners lie between pixels
place1 = views["coords_view1"][:, rows, columns].T

low = views["points_view2"].long()
fraction = views["points_view2"] - low
place2 = sum(
    weight[:, None] * views["coords_view2"][:, low[:, 0] + i, low[:, 1] + j].T
    for i in (0, 1)
    for j in (0, 1)
    for weight in [abs(1 - i - fraction[:, 0]) * abs(1 - j - fraction[:, 1])]
)
print(f"largest distance of a pair in the source: {(place1 - place2).norm(dim=1).max():.0e} voxels")

# %%
# In your own pipeline all of this is one ``Compose``: see :doc:`/howto/compose`. The next tutorial trains on such
# pairs.
