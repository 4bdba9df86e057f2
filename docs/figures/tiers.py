"""Histogram of the information inside the brain, its thirds, and the tiers."""

import matplotlib.pyplot as plt
import numpy as np
from brain import item, show

from monai_infoaug.information import TIERS, tier_thresholds

inside = np.asarray(item["information"][item["brain"]])
cuts = tier_thresholds(item["information"], mask=item["brain"])
colours = plt.get_cmap("viridis")([0.0, 0.5, 1.0])

figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained", width_ratios=(1.6, 1))
edges = np.linspace(0, 5, 101)
for name, colour, low, high in zip(TIERS, colours, (0, *cuts), (*cuts, 6), strict=True):
    left.hist(inside[(inside >= low) & (inside < high)], edges, color=colour, label=name)
for cut in cuts:
    left.axvline(cut, color="#808080", ls="--", lw=1)
    left.text(cut, left.get_ylim()[1], f" {cut:.2f}", va="top")
left.set(xlabel="information, bits", ylabel="pixels of the brain")
left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
left.spines[["top", "right"]].set_visible(False)
show(right, np.ma.masked_where(~item["brain"].numpy(), item["tiers"].numpy()), cmap="viridis")
