"""Base of the adversarial models: generator and discriminator, each with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from sbzoo.images import to_uint8

Losses = dict[str, Tensor]


class AdversarialModel(BaseModel):
    """A generator and a discriminator, trained in one `train_step` of mmengine's Runner."""

    def __init__(self) -> None:
        super().__init__(data_preprocessor=dict(type='ImagePreprocessor'))

    def networks(self) -> dict[str, nn.Module]:
        """Generator and discriminator, by the name of their optimizer."""
        return dict(generator=self.generator, discriminator=self.discriminator)

    def steps(self, network: str, start: int, stop: int) -> int:
        """Optimizer steps of a network in iterations `start` to `stop - 1`."""
        return stop - start


def update(losses: Losses, optim_wrapper: OptimWrapper) -> Losses:
    """Step the optimizer on the sum of the losses, and return them for the log."""
    optim_wrapper.update_params(sum(losses.values()))
    return {name: loss.detach() for name, loss in losses.items()}


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
