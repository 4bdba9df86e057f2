"""What trainers that contrast two views share: embedding the pair, mixed precision, and gradient norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_infoaug._require import is_number, refusal, require_truth
from monai_infoaug._versions import accumulation_steps, with_length
from monai_infoaug.engines.precision import half_precision

__all__ = ["ContrastiveTrainer", "PairInferer"]


class EmbeddingNetwork(Protocol):
    """What trainers know of an embedding network beside that it is called."""

    @property
    def strides(self) -> Sequence[int]:
        """Voxels a cell of each level of the output."""


def unwrap(network: nn.Module) -> EmbeddingNetwork:
    """The embedding network inside of DistributedDataParallel or its like.

    Raises:
        ValueError: for a network without ``strides``.
    """
    embedding: Any = getattr(network, "module", network)
    if not hasattr(embedding, "strides"):
        raise refusal("network", type(embedding).__name__, "an embedding network with `strides`")
    return embedding


class PairInferer(Inferer):
    """Embeds pairs of views.

    Args:
        cpu_amp: whether to compute in bfloat16 where the processor does so safely (MONAI's ``amp`` is for GPUs only).
    """

    def __init__(self, cpu_amp: bool = False) -> None:
        require_truth(cpu_amp=cpu_amp)
        self.cpu_amp = cpu_amp

    def __call__(  # type: ignore[override] # MONAI's engines hand on what `prepare_batch` gives
        self,
        inputs: Sequence[tuple[Tensor, Tensor]],
        network: Callable[..., list[Tensor]],
        places: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Embed.

        Args:
            inputs: a pair of views for each input of the network.
            network: embedding network.
            places: (B, *P) of both views for each level: the pixels to embed; None: all.

        Returns:
            A pair of embeddings for each level.
        """

        def embed(views: Iterable[Tensor], at: Iterable[Tensor]) -> list[Tensor]:
            return network(*views) if places is None else network(*views, places=list(at))

        at = places or []
        with half_precision("cpu", self.cpu_amp):
            if all(view1.shape == view2.shape for view1, view2 in inputs):
                # one pass over both views: cheaper, and batch normalisation sees them together
                levels = embed(map(torch.cat, inputs), map(torch.cat, at))
                return [(first, second) for first, second in (level.chunk(2) for level in levels)]
            first, second = (embed(*([pair[view] for pair in pairs] for pairs in (inputs, at))) for view in range(2))
            return list(zip(first, second, strict=True))


class ContrastiveTrainer(SupervisedTrainer):
    """MONAI trainer on pairs of views: see :py:class:`PixelContrastiveTrainer` and :py:class:`LabelContrastiveTrainer`.

    Args:
        device: where to train.
        max_epochs: number of epochs.
        train_data_loader: batches of pairs.
        network: embedding network; the output is a list of levels.
        optimizer: optimizer of the network's parameters.
        loss_function: function of the list of pairs of levels and of what ``prepare_batch`` gives beside the views.
        prepare_batch: function from a batch to a list of pairs of views and their targets.
        max_grad_norm: norm that gradients are scaled down to; None leaves them.
        amp: mixed precision: MONAI's on a GPU, bfloat16 on the CPU, see
            :py:func:`monai_infoaug.engines.has_fast_half`.
        inferer: how to embed a pair; default ``PairInferer(cpu_amp=amp)``, GPUs excepted.
        kwargs: further arguments of ``SupervisedTrainer``. ``decollate`` is False: there is nothing to take apart.

    Raises:
        ValueError: for a ``max_grad_norm`` that is no number above 0.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[..., Tensor],
        prepare_batch: Callable[..., tuple],
        max_grad_norm: float | None = None,
        amp: bool = False,
        inferer: Inferer | None = None,
        **kwargs: Any,
    ) -> None:
        require_truth(amp=amp)
        if max_grad_norm is not None and not (is_number(max_grad_norm) and max_grad_norm > 0):
            raise refusal("max_grad_norm", max_grad_norm, "a number above 0, or None")
        on_cpu = torch.device(device).type == "cpu"
        super().__init__(
            device,
            max_epochs,
            train_data_loader,
            network,
            optimizer,
            loss_function,
            prepare_batch=prepare_batch,
            inferer=inferer or PairInferer(cpu_amp=amp and on_cpu),
            amp=amp and not on_cpu,
            decollate=False,
            **with_length(kwargs, train_data_loader),
        )
        if max_grad_norm is not None:
            self.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip_gradients, max_grad_norm)

    def _clip_gradients(self, max_norm: float) -> None:
        length, steps = self.state.epoch_length, accumulation_steps(self)
        batches = (self.state.iteration - 1) % length + 1 if length else self.state.iteration
        if batches % steps and batches != length:
            return  # MONAI will accumulate more gradients before it steps
        if self.amp and self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        # those that are trained: others may have gradients that an earlier stage has left
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, max_norm)
