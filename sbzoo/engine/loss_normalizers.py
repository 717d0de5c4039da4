"""What a detector's losses are divided by where its batch is split into micro-batches or ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import MessageHub, print_log
from mmengine.optim import OptimWrapper
from torch import nn

from sbzoo.detection.normalizers import (
    Replace,
    ignores_predictions,
    replaced,
    unsupported,
    without_network,
    zeros_like,
)
from sbzoo.engine.runner import random_state_kept
from sbzoo.norm.precise_bn import buffers_kept

MOMENTUM, IMAGES = 0.9, 2  # of the moving average, for a step of two images on a device
INITIAL = 100 / IMAGES  # for each image: any number that is not too small
AVERAGES = 'loss_normalizers'  # in mmengine's message hub, which checkpoints keep


class BatchNormalizer:
    """MMDetection's own: each micro-batch is divided by what is in it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.obstacle: str | None = None  # known from the first update on

    @contextmanager
    def over(self, window: list[Any], wrapper: OptimWrapper) -> Iterator[None]:
        """While an update is computed, by one `train_step` for each micro-batch."""
        yield

    def _supported(self) -> bool:
        """Whether the losses of the model can be divided otherwise; if not, that is logged once."""
        if self.obstacle is None:
            self.obstacle = self._obstacle()
            if self.obstacle:
                print_log(
                    f'losses are divided by what is in each micro-batch: {self.obstacle}',
                    logger='current',
                )
        return not self.obstacle

    def _obstacle(self) -> str:
        unknown = unsupported(self.model)
        return f'the normaliser of {", ".join(unknown)} is not known' if unknown else ''

    def _summed(self, values: list[float]) -> list[float]:
        """Sums over ranks."""
        device = next(self.model.parameters()).device
        found = torch.tensor(values, dtype=torch.float64, device=device)
        all_reduce(found)
        return found.tolist()


class WindowNormalizer(BatchNormalizer):
    """That of all micro-batches of an update and all ranks, as if they were one batch.

    The gradient is then that of the whole batch. It costs a forward pass without gradient, of the
    same random numbers, in which the normalisers of the micro-batches are counted; where these do
    not depend on predictions, its targets alone, but for the first batch of a size. A single
    micro-batch on each rank needs none. A model with a part whose normalisers are not known is
    trained as MMDetection does, which is logged once.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.outputs: dict[torch.Size, Any] = {}  # of the head, by the size of a batch; zeros

    @contextmanager
    def over(self, window: list[Any], wrapper: OptimWrapper) -> Iterator[None]:
        """See `BatchNormalizer`."""
        parts = len(window) * get_world_size()
        if parts == 1 or not self._supported():
            yield
            return
        total = self._counted(window, wrapper) if len(window) > 1 else self._over_ranks
        with replaced(self.model, total, parts):  # as accumulation and ranks average over them
            yield

    def _counted(self, window: list[Any], wrapper: OptimWrapper) -> Replace:
        """Sums over micro-batches and ranks, from a forward pass that leaves no trace."""
        counts: Counter[str] = Counter()

        def count(name: str, value: float) -> float:
            counts[name] += value
            return value

        preprocess = deepcopy(self.model.data_preprocessor)  # some keep what they have drawn
        with traceless(self.model), replaced(self.model, count), wrapper.optim_context(self.model):
            for batch in window:
                self._assign(preprocess(deepcopy(batch), True))
        totals = dict(zip(counts, self._summed(list(counts.values())), strict=True))
        return lambda name, _: totals[name]

    def _assign(self, data: dict) -> None:
        """Assign targets to the predictions of a batch, by which heads normalise."""
        size = data['inputs'].shape
        if size in self.outputs:
            with without_network(self.model, self.outputs[size]):
                self.model._run_forward(data, mode='loss')
        elif ignores_predictions(self.model):

            def remember(_head: nn.Module, _args: tuple, outputs: Any) -> None:
                self.outputs[size] = zeros_like(outputs)

            with self.model.bbox_head.register_forward_hook(remember):
                self.model._run_forward(data, mode='loss')
        else:
            self.model._run_forward(data, mode='loss')

    def _over_ranks(self, _name: str, value: float) -> float:
        return self._summed([value])[0]


class MovingAverageNormalizer(BatchNormalizer):
    """A moving average over images, which varies less than what is in a small batch.

    It is that of detectron2 (Wu et al. 2019, `DenseDetector._ema_update`), whose momentum and
    initial value are for a step, taken for the two images that a step has on a device there. So it
    depends on neither batch size, accumulation nor ranks, over which it is one average. It is kept
    in checkpoints. Two-stage detectors sample as many RoIs of each image, and have no use for it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.images = 0  # of the micro-batch at hand

    @contextmanager
    def over(self, window: list[Any], wrapper: OptimWrapper) -> Iterator[None]:
        """See `BatchNormalizer`."""
        if not self._supported():
            yield
            return
        counted = self.model.register_forward_pre_hook(self._count, with_kwargs=True)
        with counted, replaced(self.model, self._averaged):
            yield

    def _obstacle(self) -> str:
        if isinstance(self.model, TwoStageDetector):
            return f'{type(self.model).__name__} samples as many RoIs of each image'
        return super()._obstacle()

    def _count(self, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.images = len(kwargs['inputs'] if 'inputs' in kwargs else args[0])

    def _averaged(self, name: str, value: float) -> float:
        hub = MessageHub.get_current_instance()
        averages = dict(hub.get_info(AVERAGES, {}))
        total, images = self._summed([value, self.images])
        kept = MOMENTUM ** (images / IMAGES)
        now = max(total, 1.0) / images
        averages[name] = kept * averages.get(name, INITIAL) + (1 - kept) * now
        hub.update_info(AVERAGES, averages)
        return averages[name] * self.images


@contextmanager
def traceless(model: nn.Module) -> Iterator[None]:
    """No gradients inside; buffers and random numbers are then as they were."""
    with buffers_kept(model.buffers()), random_state_kept(), torch.no_grad():
        yield


NORMALIZERS = {
    'window': WindowNormalizer,
    'moving-average': MovingAverageNormalizer,
    'batch': BatchNormalizer,
}
