"""One draw of the preset "rich" through each tier's transform, and blended; below, what each has changed."""

import matplotlib.pyplot as plt
import numpy as np
from brain import brain, image, item, show, tiers

from monai_infoaug.handlers import TIER_COLOURS, draw_change, draw_tiers
from monai_infoaug.transforms import RandTierIntensity

SEED = 14  # a strong change, so that it can be seen
whole = RandTierIntensity("rich", mode="anchor").set_random_state(seed=SEED)
changed = {}
for tier, name in enumerate(TIER_COLOURS):
    whole.set_random_state(seed=SEED)
    changed[name] = np.asarray(whole(image, tier=tier))
changed["blend"] = np.asarray(RandTierIntensity("rich").set_random_state(seed=SEED)(image, tiers=item["tiers"]))
changes = {name: (picture - np.asarray(image))[0] for name, picture in changed.items()}
most = max(np.percentile(abs(change[brain]), 99) for change in changes.values())

figure, (above, below) = plt.subplots(2, 5, figsize=(9.5, 4.1), layout="compressed")
show(above[0], image, "unchanged", vmin=0, vmax=1)
draw_tiers(below[0], tiers, brain, origin="lower")
for upper, lower, (name, picture) in zip(above[1:], below[1:], changed.items(), strict=True):
    title = "blend: each its own" if name == "blend" else f'anchor "{name}"'
    show(upper, picture, title, vmin=0, vmax=1)
    upper.title.set_color(TIER_COLOURS.get(name, "#808080"))
    mean = abs(changes[name][brain]).mean()
    shown = draw_change(lower, changes[name], most, brain, origin="lower")
    lower.set_title(f"change: {100 * mean:.0f} % on average", fontsize=8)
scale = figure.colorbar(shown, ax=below[1:], orientation="horizontal", shrink=0.5, aspect=40, pad=0.03)
scale.set_ticks([-most, 0, most], labels=[f"{100 * most:.0f} % darker", "unchanged", f"{100 * most:.0f} % brighter"])
