"""What a study of a trained detector runs on: a model with its weights, and its data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sbzoo.checkpoint.resolve import CARD
from sbzoo.detection.normalizers import replaced, unsupported
from sbzoo.engine.loss_normalizers import traceless
from sbzoo.engine.model import build_model, kind_of, load_model, scope_of
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.parts import leaf
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.metrics.coco_ap import CocoAP
from sbzoo.norm.precise_bn import tracks_running
from sbzoo.paths import ROOT

LOADERS = 'train_dataloader', 'val_dataloader'


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
        return self._loader(self.cfg.train_dataloader)

    @cached_property
    def unaugmented(self) -> DataLoader:
        """Its training pictures, all of them, loaded as in validation."""
        loader = deepcopy(self.cfg.val_dataloader)
        changed = dict(pipeline=leaf(loader.dataset).pipeline, test_mode=True)
        loader.dataset = {**leaf(self.cfg.train_dataloader.dataset), **changed}
        return self._loader(loader)

    @cached_property
    def held_out(self) -> DataLoader:
        """Its validation pictures."""
        return self._loader(self.cfg.val_dataloader)

    def _loader(self, cfg: ConfigDict) -> DataLoader:
        with scope_of(self.cfg):
            return Runner.build_dataloader(cfg, seed=0)

    def with_model(self, model: nn.Module) -> Subject:
        """Another detector on the same pictures."""
        other = copy(self)
        vars(other)['model'] = model
        return other

    def batch(self, loader: DataLoader, indices: Sequence[int], training: bool = False) -> dict:
        """Pictures of a loader as one batch, on the device and normalised."""
        data = loader.collate_fn([loader.dataset[int(i)] for i in indices])
        return self.model.data_preprocessor(data, training)

    def losses(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The losses of training pictures, as one batch in training mode."""
        data = self.batch(self.trained_on, indices, training=True)
        with scope_of(self.cfg):
            return self.model.train()(**data, mode='loss')

    def loss(
        self, indices: Sequence[int], normalizers: Mapping[str, float] | None = None
    ) -> Tensor:
        """The sum of its losses, a scalar.

        Args:
            indices: Of training pictures.
            normalizers: What to divide by for each picture (see `normalizers`), so that the loss of
                a batch is the mean of those of its pictures; by default MMDetection's own.
        """
        if not normalizers:
            return self.model.parse_losses(self.losses(indices))[0]
        with replaced(self.model, lambda name, _: normalizers[name] * len(indices)):
            return self.loss(indices)

    def evaluation_loss(
        self, loader: DataLoader, indices: Sequence[int], training: bool = False
    ) -> Tensor:
        """The sum of the losses of pictures of a loader, in evaluation mode, a scalar.

        Args:
            loader: One of those above.
            indices: Of its pictures, which are one batch.
            training: Whether they are prepared as in training.
        """
        data = self.batch(loader, indices, training)
        with scope_of(self.cfg):
            return self.model.parse_losses(self.model.eval()(**data, mode='loss'))[0]

    @torch.no_grad()
    def average_precision(self, indices: Sequence[int]) -> float:
        """The AP on validation pictures, one by one."""
        dataset, found = self.held_out.dataset, []
        self.model.eval()
        for index in indices:
            data = self.batch(self.held_out, [index])
            found += [one.to_dict() for one in self.model(**data, mode='predict')]
        with TemporaryDirectory() as folder:
            chosen = [one['img_id'] for one in found]
            metric = CocoAP(_annotations(dataset.ann_file, chosen, folder))
        metric.dataset_meta = dataset.metainfo
        metric.process({}, found)
        return metric.compute_metrics(metric.results)['bbox_mAP']

    def normalizers(self, indices: Sequence[int]) -> dict[str, float]:
        """What its losses are divided by, for a picture on average over some.

        None are returned of a model of which they are not known, and that is logged.
        """
        if unknown := unsupported(self.model):
            print_log(f'losses keep their own normaliser: that of {", ".join(unknown)} is unknown')
            return {}
        counted: dict[str, float] = {}
        with traceless(self.model), replaced(self.model, counted.setdefault):
            self.losses(indices)
        return {name: value / len(indices) for name, value in counted.items()}


def _annotations(file: str, chosen: Sequence[int], folder: str) -> str:
    """A file with the annotations of some pictures."""
    content = json.loads(Path(file).read_text(encoding='utf-8'))
    content['images'] = [image for image in content['images'] if image['id'] in chosen]
    part = Path(folder) / 'part.json'
    part.write_text(json.dumps(content), encoding='utf-8')
    return str(part)


def open_subject(cfg: Config, reference: str | None, name: str) -> Subject:
    """The detector of a config with the weights of a reference; None: as training would start.

    Raises:
        UserError: The weights are not found or of another model, or it is no detector.
    """
    if issubclass(kind_of(cfg), AdversarialModel):
        raise UserError(f'{name}: a GAN; studies of a model take a detector')
    if missing := [loader for loader in LOADERS if not cfg.get(loader)]:
        raise UserError(f'{name}: studies take training and validation pictures; no {missing[0]}')
    return Subject(name, cfg, load_model(cfg, reference) if reference else build_model(cfg))


def embedded(config: str, card: str) -> Subject:
    """A card's weights on the data of one of the embedded sets, by the name of a config."""
    return open_subject(load_config(str(ROOT / f'configs/{config}.py')), f'{CARD}{card}', card)


def set_norms(model: nn.Module, training: bool) -> None:
    """Let batch norms take the statistics of the batch or not, whatever the mode of the model."""
    for module in model.modules():
        if tracks_running(module):
            module.train(training)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a loss as one vector; of what it does not depend on it is 0."""
    parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])
