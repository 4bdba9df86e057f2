"""Train without labels, then find points
======================================

A small network learns from pairs of views of 16 slices of the MNI152 T1 template, and then finds points of a slice
that it has not seen in a turned and deformed copy. Half a minute on two CPU cores; ``monai-infoaug demo`` is the
longer version with other methods beside it.
"""

# sphinx_gallery_thumbnail_number = 2

# %%
# Data
# ----
# The slices are cached up to the first random transform. :py:class:`~monai_infoaug.data.SeededDataset` makes the
# pairs of an item a function of seed, epoch and index alone, whatever the number of workers.
from importlib.resources import files

import matplotlib.pyplot as plt
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.transforms import LoadImage, Rand2DElastic
from monai.utils import set_determinism

from monai_infoaug.data import SeededDataset
from monai_infoaug.engines import PixelContrastiveTrainer
from monai_infoaug.handlers import EpochSetter
from monai_infoaug.inferers import LandmarkMatcher
from monai_infoaug.networks import PixelEmbeddingNet
from monai_infoaug.transforms import InformationMapd, InformationTiersd, RandPairedViewsd, RandTierIntensity

set_determinism(0)
BRAIN = files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
volume = LoadImage()(BRAIN).as_tensor()[:, 21:213, :160] / 255  # 1 mm a voxel


def pairs(slices: list[int], **views: object) -> SeededDataset:
    """Pairs of views of sagittal slices, (1, 192, 160) each."""
    items = [{"image": volume[None, x], "brain": (volume[None, x] > 0)} for x in slices]
    transforms = [
        InformationMapd("image", mask_key="brain"),
        InformationTiersd(mask_key="brain"),
        RandPairedViewsd("image", mask_key="brain", outputs=(), **views),
    ]
    return SeededDataset(CacheDataset(items, transforms, progress=False), seed=0)


training = pairs(
    list(range(60, 76)),
    roi_size=(128, 128),
    spatial=Rand2DElastic((32, 32), (0, 4), prob=1, rotate_range=0.3, scale_range=0.1, padding_mode="zeros"),
    intensity=RandTierIntensity("rich"),
    num_points=256,
    shares=(0.1, 0.45, 0.45),
)

# %%
# Training
# --------
# ``PixelContrastiveTrainer`` is MONAI's ``SupervisedTrainer``: its handlers, mixed precision and callbacks work as
# usual.
EPOCHS = 20
network = PixelEmbeddingNet(spatial_dims=2)
loader = DataLoader(training, batch_size=8, shuffle=True)
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
trainer = PixelContrastiveTrainer("cpu", EPOCHS, loader, network, optimizer, train_handlers=[EpochSetter([training])])

losses = []
trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item()))
untrained = {name: weights.clone() for name, weights in network.state_dict().items()}
trainer.run()

figure, axes = plt.subplots(figsize=(5, 2.4), layout="constrained")
axes.plot(losses)
axes.set(xlabel="step", ylabel="InfoNCE loss, nats")

# %%
# Matching
# --------
# A slice 12 mm away, and a copy of it turned by up to 20 degrees, deformed and changed in intensity. Its points and
# their true partners come from the same transform.
turn = Rand2DElastic((32, 32), (1, 3), prob=1, rotate_range=0.35, padding_mode="zeros")
test = pairs(
    [88], spatial=(None, turn), intensity=(None, RandTierIntensity("rich")), num_points=25, shares=(0, 0.5, 0.5)
)[0]
template, query, truth = test["image_view1"], test["image_view2"], test["points_view2"]
matcher = LandmarkMatcher(template[None], test["points_view1"][None])


def find() -> torch.Tensor:
    """Points (25, 2) in the query, in voxels of 1 mm."""
    return matcher(query[None], network.eval())["landmarks"][0]


found = {"trained": find()}
network.load_state_dict(untrained)
found["untrained"] = find()
for name, points in found.items():
    error = (points - truth).norm(dim=1)
    print(f"{name:10} mean error {error.mean():5.1f} mm, median {error.median():5.1f} mm")

# %%
# Circles are the true positions, crosses the found ones.
figure, panels = plt.subplots(1, 3, figsize=(9, 4), layout="constrained")
panels[0].set_title("template")
panels[0].imshow(template[0].T, origin="lower", cmap="gray")
panels[0].scatter(*test["points_view1"].T, c="tab:green", s=14)
for axis, name in zip(panels[1:], ("untrained", "trained"), strict=True):
    axis.set_title(name)
    axis.imshow(query[0].T, origin="lower", cmap="gray")
    for (x1, y1), (x2, y2) in zip(truth.tolist(), found[name].tolist(), strict=True):
        axis.plot([x1, x2], [y1, y2], color="tab:orange", lw=0.8)
    axis.scatter(*truth.T, facecolors="none", edgecolors="tab:green", s=30)
    axis.scatter(*found[name].T, c="tab:orange", marker="x", s=18)
for axis in panels:
    axis.axis("off")

# %%
# On your own images, the bundle of :doc:`/howto/bundles` does all this with checkpoints, validation and
# TensorBoard, and :doc:`/howto/match` writes the points that it finds for 3D Slicer.
