"""What a run leaves behind: its numbers together with the protocol that they were made by."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import mmdet
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from sbzoo.engine.hooks.alpha import alphas
from sbzoo.engine.hooks.noise_scale import summary
from sbzoo.engine.hooks.resume import CHANGES
from sbzoo.engine.options.parts import dataset_of, wrappers_of
from sbzoo.files import write

FILE = 'result.json'
SCHEDULE = ('images_a_step', 'devices', 'accumulated', 'lr', 'epochs')
ALIKE = ('config', 'trained_on', 'data', *SCHEDULE)  # what runs have in common for a mean


def write_result(runner: Runner, metrics: dict[str, float]) -> Path:
    """Write metrics, protocol and learned alphas of a run to `result.json` in its work dir."""
    cfg = runner.cfg
    dataset = runner.test_dataloader.dataset
    wrappers = wrappers_of(cfg.optim_wrapper)
    rates = [wrapper.optimizer.lr for wrapper in wrappers]
    result = dict(
        config=Path(cfg.filename).stem,
        metrics={name: round(value, 6) for name, value in metrics.items()},
        trained_on=data_name(cfg),
        data=dict(name=getattr(dataset, 'name', type(dataset).__name__), images=len(dataset)),
        images_a_step=cfg.train_dataloader.batch_size,
        devices=get_world_size(),
        accumulated=wrappers[0].get('accumulative_counts', 1),
        lr=rates[0] if len(rates) == 1 else rates,
        epochs=runner.epoch,
        seed=runner.seed,
        changes=runner.message_hub.get_info(CHANGES, []),
        noise_scale=summary(runner.message_hub),
        alphas=_rounded(alphas(runner.model)),
        versions=dict(sbzoo=version('sbzoo'), torch=torch.__version__, mmdet=mmdet.__version__),
        machine=f'{platform.machine()}, {torch.get_num_threads()} threads',
    )
    path = Path(runner.work_dir) / FILE
    write(path, json.dumps(result, indent=1).encode())
    return path


def data_name(cfg: Config) -> str:
    """The name of the data that a model is trained on, or of the folder that all of it is in."""
    trained, tested = (dataset_of(cfg, split) for split in ('train', 'test'))
    if 'name' in trained:
        return trained.name
    folders = [folder for dataset in (trained, tested) if (folder := _folder(dataset))]
    return Path(os.path.commonpath(folders)).name if folders else trained.type


def _folder(dataset: dict) -> str:
    images = dataset.get('data_prefix', {}).get('img', '')
    folder = Path(dataset.get('data_root') or '', images)
    return os.path.abspath(folder) if folder.parts else ''


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
