"""Information maps with windows of three sizes."""

import matplotlib.pyplot as plt
from brain import brain, image, show

from monai_infoaug.handlers import draw_information
from monai_infoaug.information import local_entropy

figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.2), layout="compressed")
show(axes[0], image, "image")
for axis, window in zip(axes[1:], (5, 9, 21), strict=True):
    bits = local_entropy(image, window, mask=image > 0)[0]
    shown = draw_information(axis, bits, brain, most=5, scale=False, origin="lower")
    axis.set_title(f"window {window}")
figure.colorbar(shown, ax=axes, label="information (bits)", shrink=0.7)
