"""Information maps with windows of three sizes."""

import matplotlib.pyplot as plt
from brain import image, show

from monai_infoaug.information import local_entropy

figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.9), layout="constrained")
show(axes[0], image, "image")
for axis, window in zip(axes[1:], (5, 9, 21), strict=True):
    shown = show(axis, local_entropy(image, window, mask=image > 0), f"window {window}", cmap="magma", vmin=0, vmax=5)
figure.colorbar(shown, ax=axes, label="bits", shrink=0.7)
