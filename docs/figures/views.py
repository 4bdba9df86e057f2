"""A plain view and a turned, deformed one: matched points, and the density that they are drawn from."""

import matplotlib.pyplot as plt
import numpy as np
from brain import item, show
from monai.transforms import Rand2DElastic

from monai_infoaug.transforms import RandPairedViewsd, RandTierIntensity

pair = RandPairedViewsd(
    "image",
    spatial=(None, Rand2DElastic((32, 32), (3, 6), prob=1, rotate_range=0.5, padding_mode="zeros")),
    intensity=(None, RandTierIntensity("rich")),
    num_points=12,
    shares=(0.1, 0.45, 0.45),
    mask_key="brain",
).set_random_state(seed=4)
views = pair(item)

figure, axes = plt.subplots(1, 4, figsize=(9.5, 3), layout="constrained")
for axis, view in zip(axes, ("view1", "view2"), strict=False):
    show(axis, views[f"image_{view}"], f"view {view[-1]}")
    axis.scatter(*views[f"points_{view}"].T, c=range(12), cmap="tab20", edgecolors="white", s=30)
show(axes[2], views["sampling_view1"], "where points are drawn", cmap="magma")
source = np.where(views["valid_view2"], views["coords_view2"], np.nan)
axes[3].set_title("lines of the source in view 2")
axes[3].contour(source[0].T, list(range(0, 192, 16)), colors="tab:blue", linewidths=0.8)
axes[3].contour(source[1].T, list(range(0, 160, 16)), colors="tab:orange", linewidths=0.8)
axes[3].set_aspect("equal")
axes[3].axis("off")
