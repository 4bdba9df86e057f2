"""Weights for other software: what ``monai-infoaug export`` does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_infoaug._console import say
from monai_infoaug._files import save_whole
from monai_infoaug._require import is_one_of, refusal
from monai_infoaug.handlers import load_weights, read_settings
from monai_infoaug.handlers.checkpoint import read_checkpoint
from monai_infoaug.networks import NnunetPlan

__all__ = ["export_weights"]

TARGETS = ("monai", "nnunet")
BACKBONE = "backbone."  # where `EmbeddingHeads` has the network that it embeds with


def export_weights(
    checkpoint: str | os.PathLike,
    to: str,
    out: str | os.PathLike | None = None,
    plans: str | os.PathLike | None = None,
    configuration: str | None = None,
) -> Path:
    """Write the weights of a network that was pre-trained with ``EmbeddingHeads``, without the heads.

    - ``"monai"``: a state dictionary for ``load_state_dict(torch.load(out, weights_only=True))`` of the network itself.
    - ``"nnunet"``: a file for ``nnUNetv2_train -pretrained_weights``, with all but the layers that segment, which
      nnU-Net trains from scratch.

    Args:
        checkpoint: of ``monai-infoaug pretrain``, or of ``ResumableCheckpoint`` with the ``EmbeddingHeads`` as its
            ``"network"``.
        to: whose weights to write.
        out: new file; None: ``monai.pt`` or ``nnunet.pth`` beside the checkpoint.
        plans: ``nnUNetPlans.json`` that nnU-Net will train by; None: that of the pre-training.
        configuration: of the plan; None: that of the pre-training, else 3d_fullres.

    Returns:
        ``out``.

    Raises:
        ValueError: for a checkpoint of something else or of another network than the plan's, or an ``out`` that exists.
        ImportError: for nnU-Net without the package that has its networks.
        OSError: naming ``out``, if it cannot be written.
    """
    if not is_one_of(to, TARGETS):
        raise refusal("to", repr(to), f"one of {TARGETS}")
    for name, value in (("plans", plans), ("configuration", configuration)):
        if to == "monai" and value is not None:
            raise refusal(name, repr(value), "left out unless for nnunet")
    path = Path(checkpoint).parent / ("monai.pt" if to == "monai" else "nnunet.pth") if out is None else Path(out)
    if path.exists():
        raise refusal("out", f"'{path}', which exists", "a new file")
    states = read_checkpoint(checkpoint)
    weights = _of_backbone(checkpoint, states)
    if to == "monai":
        content: dict[str, Any] = weights
    else:
        plan = _plan_of(checkpoint, states, plans, configuration)
        network = load_weights(plan.network(), checkpoint, checkpoint=weights)
        content = {"network_weights": plan.weights(network)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_whole(content, path)
    say(f"Wrote {path}.")
    return path


def _of_backbone(checkpoint: str | os.PathLike, states: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of the network below the heads.

    Raises:
        ValueError: for a checkpoint without heads.
    """
    state = states.get("network")
    weights = {
        name.removeprefix(BACKBONE): weight
        for name, weight in (state.items() if isinstance(state, dict) else ())
        if name.startswith(BACKBONE)
    }
    if not weights:
        accepted = "a checkpoint of a network with EmbeddingHeads, as of monai-infoaug pretrain"
        raise refusal(str(checkpoint), f"one with {[*(state if isinstance(state, dict) else states)][:3]}", accepted)
    return weights


def _plan_of(
    checkpoint: str | os.PathLike,
    states: Mapping[str, Any],
    plans: str | os.PathLike | None,
    configuration: str | None,
) -> NnunetPlan:
    """The plan to write for, whose network is that of the pre-training.

    Raises:
        ValueError: for none, or another one than that of the pre-training.
    """
    kept = read_settings(checkpoint, states)
    name = configuration or str(kept.get("configuration", "3d_fullres"))
    if "plans" not in kept:
        if plans is None:
            raise refusal("plans", "none, nor does the checkpoint say one", "the plan that nnU-Net will train by")
        return NnunetPlan(plans, name)
    own = NnunetPlan(json.loads(kept["plans"]), str(kept["configuration"]))
    given = own if plans is None else NnunetPlan(plans, name)
    told = [(each.architecture, each.axes, len(each.schemes)) for each in (own, given)]
    if told[0] != told[1]:
        got = f"{plans} with another network in {name}"
        raise refusal("plans", got, f"the network of {own.configuration} that {checkpoint} was trained as")
    return given
