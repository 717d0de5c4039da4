"""What a study of a trained detector runs on: a model with its weights, and its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sbzoo.checkpoint.resolve import CARD
from sbzoo.detection.normalizers import Replace, replaced, unsupported
from sbzoo.engine.loss_normalizers import traceless
from sbzoo.engine.model import build_model, kind_of, load_model, scope_of
from sbzoo.engine.options.config import load_config
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.paths import ROOT


@dataclass(frozen=True)
class Subject:
    """A detector and its pictures, as its config loads them.

    Attributes:
        name: Of the card, or of the config.
        cfg: Its config.
        model: The detector, with its weights, on its device.
    """

    name: str
    cfg: Config
    model: nn.Module

    @property
    def batch_size(self) -> int:
        """That of its training, per device."""
        return self.cfg.train_dataloader.batch_size

    @cached_property
    def trained_on(self) -> DataLoader:
        """Its training pictures, augmented as in training."""
        return self._loader('train_dataloader')

    @cached_property
    def held_out(self) -> DataLoader:
        """Its validation pictures."""
        return self._loader('val_dataloader')

    def _loader(self, name: str) -> DataLoader:
        with scope_of(self.cfg):
            return Runner.build_dataloader(self.cfg[name], seed=0)

    def batch(self, loader: DataLoader, indices: Sequence[int], training: bool = False) -> dict:
        """Pictures of a loader as one batch, on the device and normalised."""
        data = loader.collate_fn([loader.dataset[int(i)] for i in indices])
        return self.model.data_preprocessor(data, training)

    def losses(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The losses of training pictures, as one batch in training mode."""
        data = self.batch(self.trained_on, indices, training=True)
        with DefaultScope.overwrite_default_scope(self.cfg.get('default_scope', 'mmdet')):
            return self.model.train()(**data, mode='loss')

    def loss(self, indices: Sequence[int]) -> Tensor:
        """The sum of its losses, a scalar."""
        return self.model.parse_losses(self.losses(indices))[0]

    @contextmanager
    def one_normalizer(self, indices: Sequence[int]) -> Iterator[None]:
        """Losses inside are sums over pictures, over the positives that a picture has on average.

        So that of a batch is the mean of those of its pictures, which by MMDetection's own
        normaliser it is not. A model of which the normalisers are not known keeps its own, which is
        logged.
        """
        if unknown := unsupported(self.model):
            print_log(f'losses keep their own normaliser: that of {", ".join(unknown)} is unknown')
            yield
            return
        counted: dict[str, float] = {}
        with traceless(self.model), replaced(self.model, _counting(counted)):
            self.losses(indices)
        images = 0

        def count(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            nonlocal images
            images = len(kwargs['inputs'])

        hook = self.model.register_forward_pre_hook(count, with_kwargs=True)
        with hook, replaced(self.model, lambda n, _: counted[n] * images / len(indices)):
            yield


def open_subject(cfg: Config, reference: str | None, name: str) -> Subject:
    """The detector of a config with the weights of a reference; None: as training would start.

    Raises:
        UserError: The weights are not found or of another model, or it is no detector.
    """
    if issubclass(kind_of(cfg), AdversarialModel):
        raise UserError(f'{name}: a GAN; studies of a model take a detector')
    return Subject(name, cfg, load_model(cfg, reference) if reference else build_model(cfg))


def embedded(config: str, card: str) -> Subject:
    """A card's weights on the data of one of the embedded sets, by the name of a config."""
    return open_subject(load_config(str(ROOT / f'configs/{config}.py')), f'{CARD}{card}', card)


def _counting(counted: dict[str, float]) -> Replace:
    def count(name: str, value: float) -> float:
        counted[name] = value
        return value

    return count


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a loss as one vector; of what it does not depend on it is 0."""
    parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])
