"""One draw of the preset "rich" through each tier's transform, and blended."""

import matplotlib.pyplot as plt
from brain import image, item, show

from monai_infoaug.information import TIERS
from monai_infoaug.transforms import RandTierIntensity

figure, axes = plt.subplots(1, 5, figsize=(9.5, 2.6), layout="constrained")
show(axes[0], image, "image", vmin=0, vmax=1)
whole = RandTierIntensity("rich", mode="anchor").set_random_state(seed=8)
for tier, name in enumerate(TIERS):
    whole.set_random_state(seed=8)
    show(axes[tier + 1], whole(image, tier=tier), f'anchor "{name}"', vmin=0, vmax=1)
blend = RandTierIntensity("rich").set_random_state(seed=8)
show(axes[4], blend(image, tiers=item["tiers"]), "blend", vmin=0, vmax=1)
