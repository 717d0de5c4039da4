"""Base of the adversarial models: generator and discriminator, each with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from sbzoo.images import to_uint8

Losses = dict[str, Tensor]


class AdversarialModel(BaseModel):
    """A generator and a discriminator, trained in one `train_step` of mmengine's Runner.

    A `train_step` is given a batch or, where gradients are accumulated, the micro-batches of an
    update: first one network takes its step on all of them, then the other.
    """

    def __init__(self) -> None:
        super().__init__(data_preprocessor=dict(type='ImagePreprocessor'))

    def networks(self) -> dict[str, nn.Module]:
        """Generator and discriminator, by the name of their optimizer."""
        return dict(generator=self.generator, discriminator=self.discriminator)

    def window(self, data: dict | list[dict]) -> list[dict]:
        """The micro-batches of an update, on the device of the model and normalised."""
        batches = data if isinstance(data, list) else [data]
        return [self.data_preprocessor(batch, True) for batch in batches]


def update(losses: Losses, optim_wrapper: OptimWrapper, share: float = 1.0) -> Losses:
    """Step the optimizer on the sum of the losses, and return them for the log.

    Args:
        losses: Of a batch or a micro-batch, each a mean over its images.
        optim_wrapper: It steps at the last micro-batch of its `accumulative_counts`.
        share: See `shares`.
    """
    optim_wrapper.update_params(sum(losses.values()) * share)
    return {name: loss.detach() for name, loss in losses.items()}


def shares(sizes: list[int]) -> list[float]:
    """The images of micro-batches over their mean: a larger one counts for more in the update."""
    return [size * len(sizes) / sum(sizes) for size in sizes]


def mean(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of what micro-batches have logged; some values are not in all of them."""
    values = {name: [log[name] for log in logs if name in log] for log in logs for name in log}
    return {name: sum(each) / len(each) for name, each in values.items()}


def without_wrapper(model: nn.Module) -> nn.Module:
    """The model itself, out of the wrapper that distributed training puts around it."""
    return model.module if is_model_wrapper(model) else model


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Gradients flow through the modules, but their parameters get none."""
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def as_samples(images: Tensor, **fields: Tensor) -> list[BaseDataElement]:
    """One data sample for each of the images [N, 3, H, W], with uint8 pixels in `fake_img`.

    Args:
        images: Generated images in [-1, 1].
        fields: More images of the same samples, such as their sources.
    """
    columns = {k: to_uint8(v).cpu() for k, v in dict(fake_img=images, **fields).items()}
    rows = zip(*columns.values(), strict=True)
    return [BaseDataElement(**dict(zip(columns, row, strict=True))) for row in rows]
