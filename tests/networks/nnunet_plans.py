"""Small plans as nnU-Net writes them."""

from __future__ import annotations

from typing import Any

# strides of the third axis of nnU-Net's order are unlike the others', and so are kernels of the first
KERNELS = {3: [[1, 3, 3], [3, 3, 3], [3, 3, 3]], 2: [[3, 3], [3, 3], [3, 3]]}
STRIDES = {3: [[1, 1, 1], [1, 2, 1], [2, 2, 2]], 2: [[1, 1], [2, 2], [2, 2]]}


def plan(
    dims: int = 3, order: tuple[int, ...] = (2, 0, 1), network: str = "PlainConvUNet", channels: int = 1, **own: Any
) -> dict:
    """A plan with one configuration, its name that of nnU-Net's."""
    layers = "torch.nn.modules"
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"{layers}.conv.Conv{dims}d",
        "kernel_sizes": KERNELS[dims],
        "strides": STRIDES[dims],
        "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"{layers}.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "batch_size": 2,
        "patch_size": [12, 16, 8][:dims],
        "spacing": [3.0, 1.0, 2.0][:dims],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "architecture": architecture,
        "batch_dice": False,
    }
    name = "3d_fullres" if dims == 3 else "2d"
    return {"transpose_forward": list(order), "configurations": {name: configuration | own}}
