"""How long a training takes on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_infoaug.bundles import find_bundle
from monai_infoaug.engines import half_precision, has_fast_half

PART = 4  # of a batch that the time of a step is measured on
LOADING = 1.25  # how much longer a step takes than the network alone: loss, optimizer, and waiting for images


def seconds_of_step(bundle: str, settings: Mapping[str, Any], device: str = "cpu") -> float:
    """How long a step of training takes: measured on noise, with the network and sizes of the bundle."""
    config = ConfigParser()
    config.read_config(find_bundle(bundle) / "configs" / "train.json")
    config.update({name: value for name, value in settings.items() if name in config.get()})
    config.get_parsed_content("imports")
    network = config.get_parsed_content("network_def").to(device).train()
    own, count = config.get(), max(1, int(config.get("batch_size")) // PART)
    channels = int(config.get("in_channels"))
    if bundle == "landmark_pretraining":  # two views of the image, and two of it at half the resolution
        parts = [(network.networks[i], (2 * count, channels, *own["view_size"])) for i in (0, 1)]
    elif bundle == "landmark_matching_3d":
        sizes = own["view_size"], own["global_view_size"]
        parts = [(net, (2 * count, channels, *size)) for net, size in zip(network.networks, sizes, strict=True)]
    else:
        size = own["image_size"] if bundle == "landmark_detection" else own["roi_size"]
        parts = [(network, (count, channels, *size))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for cores which other work has would tell nothing
    took = []
    try:
        for _ in range(2):
            start = time.process_time() if device == "cpu" else time.perf_counter()
            for net, shape in parts:
                with half_precision(device, has_fast_half(device)):
                    out = net(torch.rand(shape, device=device))
                sum(x.float().square().mean() for x in (out if isinstance(out, list | tuple) else [out])).backward()
            if device != "cpu":
                torch.cuda.synchronize()
            took.append((time.process_time() if device == "cpu" else time.perf_counter()) - start)
    finally:
        torch.set_num_threads(threads)
    cores = max(1, min(threads, (os.cpu_count() or 1) - int(own["num_workers"]))) if device == "cpu" else 1
    return LOADING * min(took) * int(own["batch_size"]) / count / cores
