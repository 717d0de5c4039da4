"""How much memory and time a training takes, measured.

A measurement is a training of a few steps in a process of its own, on synthetic pictures of
the largest shape that the config's pipeline can make. It has the model, optimizer and average of
the config; nothing is downloaded, evaluated or written.
"""

from __future__ import annotations

import time
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from math import isinf
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from sbzoo.data.largest_shape import ANY, Size, largest_batch
from sbzoo.engine import peak_memory
from sbzoo.engine.child import in_child
from sbzoo.engine.model import kind_of, scope_of
from sbzoo.engine.options.parts import leaf, typed_dicts, wrappers_of
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.gan.models.image_to_image import Translation

STEPS = 2  # of an epoch; the second epoch is timed, as allocators and caches fill in the first
BOXES = 20  # in each picture, where the data does not tell
HELD = 'EMA', 'Teacher', 'Lean'  # in the names of hooks that change how much memory is held


class Scene(NamedTuple):
    """What a data set is made of, as far as memory goes."""

    sizes: frozenset[Size]
    boxes: int


class Cost(NamedTuple):
    """What a training takes: bytes at its peak, and seconds for a batch."""

    peak: int
    seconds: float


def scene_of(cfg: Config) -> Scene:
    """The sizes of the training pictures and the most boxes in one, if the data is there."""
    dataset = leaf(cfg.train_dataloader.dataset)
    if issubclass(kind_of(cfg), AdversarialModel):
        side = dataset.get('image_size') or cfg.model.generator.image_size
        return Scene(frozenset([(side, side)]), 0)
    try:
        infos = _infos(cfg, dataset)
    except FileNotFoundError:
        infos = []
    sizes = {(info['height'], info['width']) if 'height' in info else ANY for info in infos}
    boxes = max((len(info.get('instances', ())) for info in infos), default=BOXES)
    return Scene(frozenset(sizes or [ANY]), boxes or BOXES)


def _infos(cfg: Config, dataset: dict) -> list[dict]:
    """What a data set knows of its pictures."""
    MMLogger.get_current_instance()  # on the real standard output
    with scope_of(cfg), redirect_stdout(StringIO()):  # where COCO's reader prints
        built = DATASETS.build({**dataset, 'pipeline': []})
    return [built.get_data_info(index) for index in range(len(built))]


def shape_of(cfg: Config, scene: Scene, batch: int) -> tuple[int, int]:
    """Height and width in pixels of the largest batch that a config makes.

    Raises:
        UserError: It keeps the size of the pictures, which are not there.
    """
    shape = largest_batch(
        cfg.train_dataloader, cfg.model.get('data_preprocessor') or {}, scene.sizes, batch
    )
    if any(map(isinf, shape)):
        raise UserError(
            'the training pipeline keeps the size of the pictures, and the data that would tell it '
            'is not there; give --data'
        )
    return tuple(map(int, shape))


def short_training(cfg: Config, scene: Scene, batch: int) -> Config:
    """A config that trains as another does, for a few steps and for nothing but to be measured."""
    short = deepcopy(cfg)
    for part in typed_dicts(short.model):
        part.pop('init_cfg', None)
    if short.model.get('data_preprocessor'):
        short.model.data_preprocessor.pop('batch_augments', None)  # their largest shape is given
    for wrapper in wrappers_of(short.optim_wrapper):
        wrapper.optimizer.lr = 1e-9  # without warm-up the loss would be lost
        wrapper.accumulative_counts = min(wrapper.get('accumulative_counts', 1), STEPS)
    short.train_dataloader = _loader(cfg, scene, batch)
    short.train_cfg = _loop(cfg.train_cfg)
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if any(h in hook['type'] for h in HELD)]
    short.custom_hooks = hooks
    short.default_hooks = dict(logger=None, checkpoint=None)
    short.visualizer = dict(type='Visualizer', vis_backends=[])
    nothing = 'load_from', 'param_scheduler', 'auto_scale_lr'
    tests = (f'{name}_{part}' for name in ('val', 'test') for part in PARTS)
    short.update(dict.fromkeys([*nothing, *tests]))
    short.update(resume=False, launcher='none', log_level='ERROR')
    return short


PARTS = 'dataloader', 'cfg', 'evaluator'


def _loop(train_cfg: dict) -> dict:
    """Of the same kind, in epochs."""
    kind = train_cfg.get('type') or 'EpochBasedTrainLoop'
    kept = {key: train_cfg[key] for key in ('loss_normalizer',) if key in train_cfg}
    return dict(kept, type=kind.replace('Iter', 'Epoch'), max_epochs=2)


def _loader(cfg: Config, scene: Scene, batch: int) -> dict:
    shape, length = shape_of(cfg, scene, batch), batch * STEPS
    kind = kind_of(cfg)
    if issubclass(kind, AdversarialModel):
        data = dict(type='SyntheticImages', pairs=issubclass(kind, Translation))
    else:
        classes = [part['num_classes'] for part in typed_dicts(cfg.model) if 'num_classes' in part]
        masks = any(part.get('with_mask') for part in typed_dicts(cfg.train_dataloader))
        data = dict(
            type='SyntheticScenes', boxes=scene.boxes, classes=min(classes, default=1), masks=masks
        )
    return dict(
        batch_size=batch,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(data, shape=shape, length=length),
    )


class _Clock(Hook):
    """Takes the time of each epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        self._tick()

    def after_train_epoch(self, runner: Runner) -> None:
        self._tick()

    def _tick(self) -> None:
        if peak_memory.on_gpu():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def measure(cfg: Config, most: int) -> Cost | None:
    """Train a config of `short_training` in this process, which is left limited to `most` bytes.

    Returns:
        None if that is not enough.
    """
    before, clock = peak_memory.reset_peak(), _Clock()
    peak_memory.limit(most)
    try:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(clock)
        runner.train()
    except Exception as error:
        if peak_memory.is_too_large(error):
            return None
        raise
    *_, start, stop = clock.times
    return Cost(peak_memory.peak() - before, (stop - start) / STEPS)


class Costs:
    """What a config takes at any batch size, each measured once and in a process of its own.

    Args:
        cfg: A complete config.
        scene: What its pictures are like.
        most: The bytes that may be taken.
    """

    def __init__(self, cfg: Config, scene: Scene, most: int) -> None:
        self.cfg, self.scene, self.most = cfg, scene, most
        self.known: dict[int, Cost | None] = {}

    def __getitem__(self, batch: int) -> Cost | None:
        if batch not in self.known:
            self.known[batch] = self._measured(batch)
        return self.known[batch]

    def _measured(self, batch: int) -> Cost | None:
        short = short_training(self.cfg, self.scene, batch)
        with TemporaryDirectory() as folder:
            short.work_dir = folder
            try:
                return in_child(measure, short, self.most)
            except ChildProcessError:  # the system was asked for too much
                return None
