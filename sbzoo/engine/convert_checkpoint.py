"""From a trained checkpoint to one of the same network with another norm."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from sbzoo.detection.padding import layers_of_pictures, zero_behind_batch_norms
from sbzoo.engine.model import kind_of, load_model, scope_of
from sbzoo.engine.runner import some_batches
from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.norm import Calibration, Conversion, calibrate, convert_norm


def convert(
    cfg: Config, checkpoint: str | Path, spec: str, images: int, out: str | Path
) -> tuple[Conversion, Calibration | None]:
    """Write the checkpoint that `checkpoint` is with the norm that `spec` names.

    Args:
        cfg: The config that the checkpoint was trained with.
        checkpoint: Its model may have any norm.
        spec: See `sbzoo.norm.NORMS`.
        images: How many training images the new norms are calibrated on; 0 keeps their
            weights and biases as they are.
        out: Where the new checkpoint goes.

    Raises:
        UserError: The checkpoint is broken or of another model, or would be overwritten, or the
            model is a GAN.
    """
    if Path(out).exists():
        raise UserError(f'{out} is there already')
    if issubclass(kind_of(cfg), AdversarialModel):
        raise UserError(f'{cfg.filename}: a GAN; its norms are not calibrated, so train it anew')
    reference = load_model(cfg, checkpoint)
    model = copy.deepcopy(reference)
    conversion = convert_norm(model, spec)
    calibration = None
    if images:
        with scope_of(cfg):
            loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
            calibration = calibrate_on(loader, images, model, reference)
    content = io.BytesIO()
    torch.save(dict(state_dict=model.cpu().state_dict(), meta=dict(norm=spec)), content)
    write(out, content.getvalue())
    return conversion, calibration


def calibrate_on(
    loader: DataLoader, images: int, model: nn.Module, reference: nn.Module
) -> Calibration:
    """Calibrate a converted detector on so many images; the reference leaves padding out too."""
    if layers_of_pictures(model):
        zero_behind_batch_norms(reference)
    batches = list(some_batches(loader, images, seed=0))
    return calibrate(model, reference, batches, run_every_head)


def run_every_head(model: nn.Module, batch: dict) -> None:
    """Run a model up to the raw outputs of its heads, without what comes after them."""
    model(**model.data_preprocessor(batch, False), mode='tensor')
