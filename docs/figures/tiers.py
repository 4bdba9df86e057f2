"""Histogram of the information inside the brain, its thirds, and the tiers."""

import matplotlib.pyplot as plt
import numpy as np
from brain import brain, item, tiers

from monai_infoaug.handlers import TIER_COLOURS, draw_tiers
from monai_infoaug.information import tier_thresholds

inside = np.asarray(item["information"][item["brain"]])
cuts = tier_thresholds(item["information"], mask=item["brain"])

figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained", width_ratios=(1.6, 1))
edges = np.linspace(0, 5, 101)
for (name, colour), low, high in zip(TIER_COLOURS.items(), (0, *cuts), (*cuts, 6), strict=True):
    left.hist(inside[(inside >= low) & (inside < high)], edges, color=colour, label=name)
for cut in cuts:
    left.axvline(cut, color="#808080", ls="--", lw=1)
    left.text(cut, left.get_ylim()[1], f" {cut:.2f}", va="top")
left.set(xlabel="information, bits", ylabel="pixels of the brain")
left.spines[["top", "right"]].set_visible(False)
draw_tiers(right, tiers, brain, origin="lower")
