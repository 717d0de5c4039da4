"""What the options of the tools mean: each is one change of a config.

The tools add nothing that a config cannot say; the config that a run leaves in its work
directory holds every change, and MMDetection's own tools run it.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope

from sbzoo.data.coco import CocoFolder, read_folder
from sbzoo.errors import UserError
from sbzoo.norm import norm_cfg
from sbzoo.norm.convert import WEIGHT_STD
from sbzoo.norm.kinds import is_for_images

HOOKS = ('EpochSeedHook', 'PretrainedHook', 'StopAtInvalidLossHook', 'AlphaHook')
TENSORBOARD = dict(type='TensorboardVisBackend')
DEVICES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def build_config(args: argparse.Namespace) -> Config:
    """The config that the options of a tool name.

    Raises:
        UserError: An option, the config or the data is wrong.
    """
    cfg = load_config(args.config)
    use_sbzoo(cfg)
    cfg.launcher = getattr(args, 'launcher', 'none')  # the learning rate counts its devices
    if args.cfg_options:
        cfg.merge_from_dict(_key_values(args.cfg_options))
    if args.data:
        set_data(cfg, read_folder(args.data, args.drop_empty_boxes))
    for option, change in CHANGES.items():
        value = getattr(args, option, None)
        if value is not None and value is not False:  # 0 is a seed
            change(cfg, value)
    if 'lr' in args and args.lr is None:
        _say_if_lr_is_for_another_batch(cfg)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    return cfg


def _key_values(options: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction)
    try:
        return parser.parse_args(['--options', *options]).options
    except ValueError as error:
        raise UserError(f'--cfg-options {" ".join(options)}: give KEY=VALUE') from error


def load_config(name: str) -> Config:
    """Read a config file, or one of an installed library as `mmdet::retinanet/....py`.

    Raises:
        UserError: There is none of this name, or it is no valid config.
    """
    path = _find(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, map(str, Path('configs').rglob('*.py')), n=3)
        hint = f'; did you mean {" or ".join(near)}?' if near else ''
        raise UserError(f'{name}: no such config{hint}')
    try:
        cfg = Config.fromfile(path)
    except (OSError, SyntaxError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f'{name}: not a config that can be read ({error})') from error
    if 'model' not in cfg:
        raise UserError(f'{name}: the config has no model')
    return cfg


def _find(name: str) -> Path:
    library, _, path = name.rpartition('::')
    if not library:
        return Path(path)
    spec = find_spec(library)
    if spec is None:
        raise UserError(f'{name}: {library} is not installed')
    return Path(spec.origin).parent / '.mim' / 'configs' / path


def use_sbzoo(cfg: Config) -> None:
    """Give any config what those of sbzoo have: import, hooks, whole checkpoints, TensorBoard."""
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    if 'sbzoo' not in imports['imports']:
        imports['imports'] = [*imports['imports'], 'sbzoo']
    cfg.custom_imports = imports
    hooks = cfg.get('custom_hooks') or []
    present = {hook['type'] for hook in hooks}
    cfg.custom_hooks = [*hooks, *(dict(type=t) for t in HOOKS if t not in present)]
    if 'checkpoint' in cfg.get('default_hooks', {}):
        cfg.default_hooks.checkpoint.setdefault('backend_args', dict(backend='atomic'))
    backends = cfg.get('visualizer', {}).get('vis_backends', [])
    if backends and TENSORBOARD not in backends:
        cfg.visualizer.vis_backends = [*backends, TENSORBOARD]


def set_norm(cfg: Config, spec: str) -> None:
    """Give every part of the model that has a norm the norm of `spec`.

    Where a `norm_cfg` (or `norm`, of sbzoo's own backbones) names a norm of images, or does so by
    default, it is replaced; a layer norm stays, and what is deliberately without (a RetinaNet
    head, say) stays so. The norms that no `norm_cfg` reaches are turned as the model is built, by
    `WithNorm`.

    Raises:
        UserError: Unknown spec.
    """
    wanted = norm_cfg(spec.removesuffix(WEIGHT_STD))
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    parts = [part for part in typed_dicts(cfg.model) if _norm_argument(part)]
    for part in parts:
        argument = _norm_argument(part)
        part[argument] = spec if argument == 'norm' else dict(wanted)
    if 'norm_cfg' in cfg:
        cfg.norm_cfg = dict(wanted)
    if cfg.model.type != 'WithNorm':
        cfg.model.update(type='WithNorm', architecture=cfg.model.type)
    cfg.model.norm = spec
    names = ', '.join(part['type'] for part in parts) or 'no norm_cfg is of images'
    print_log(f'norm {spec}: {names}', logger='current')


def typed_dicts(node: object) -> Iterator[ConfigDict]:
    """All dicts of a config that name a type, outermost first."""
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield node
        for value in node.values():
            yield from typed_dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from typed_dicts(value)


def _norm_argument(part: dict) -> str | None:
    """What names the norm of a part: `norm`, `norm_cfg`, or None if it has no norm of images."""
    built = _registered(part['type'])
    if isinstance(built, type) and 'norm' in signature(built.__init__).parameters:
        return 'norm'
    return 'norm_cfg' if _has_image_norm(part) else None


def _has_image_norm(part: dict) -> bool:
    norm = part['norm_cfg'] if 'norm_cfg' in part else _default_norm(part['type'])
    kind = _registered(norm['type']) if norm else None
    return isinstance(kind, type) and is_for_images(kind)


def _default_norm(name: str) -> dict | None:
    """The `norm_cfg` that a part is built with if it is told none; None if it takes none."""
    built = _registered(name)
    for cls in built.__mro__[:-1] if isinstance(built, type) else ():
        argument = signature(cls.__init__).parameters.get('norm_cfg')
        if argument is not None:
            return argument.default if isinstance(argument.default, dict) else None
    return None


def _registered(name: str) -> Callable | None:
    """The class or function that a type stands for in the default scope."""
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name)


def set_data(cfg: Config, folder: CocoFolder) -> None:
    """Train and validate on a COCO-format folder, with the config's own pipelines.

    Raises:
        UserError: The model predicts masks and the annotations have none.
    """
    predicts_masks = any('mask' in part['type'].lower() for part in typed_dicts(cfg.model))
    if predicts_masks and not (folder.train.has_masks and folder.val.has_masks):
        raise UserError(f'{folder.root}: the model predicts masks, the annotations have none')
    for name, split in (('train', folder.train), ('val', folder.val), ('test', folder.val)):
        dataset = _leaf(cfg[f'{name}_dataloader'].dataset)
        kept = {k: v for k, v in dataset.items() if k in ('pipeline', 'test_mode', 'indices')}
        dataset.clear()
        dataset.update(
            type='CocoDataset',
            data_root='',
            ann_file=str(split.ann_file),
            data_prefix=dict(img=f'{split.image_dir}/'),
            metainfo=dict(classes=folder.classes),
            **kept,
        )
        if name != 'train':
            metric = ['bbox', 'segm'] if predicts_masks else ['bbox']
            cfg[f'{name}_evaluator'] = dict(
                type='CocoAP', ann_file=str(split.ann_file), metric=metric
            )
    for part in typed_dicts(cfg.model):
        if 'num_classes' in part:
            part['num_classes'] = len(folder.classes)


def _leaf(dataset: ConfigDict) -> ConfigDict:
    """The innermost dataset of wrappers such as RepeatDataset."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def set_epochs(cfg: Config, epochs: int) -> None:
    """Train for `epochs`, with the schedule stretched to them.

    Raises:
        UserError: The config counts iterations.
    """
    old = cfg.train_cfg.get('max_epochs')
    if not old:
        raise UserError('--epochs: the config counts iterations; set train_cfg.max_iters instead')
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = min(cfg.train_cfg.get('val_interval', 1), epochs)
    for scheduler in cfg.get('param_scheduler') or []:
        if scheduler.get('by_epoch', True):
            _stretch(scheduler, epochs / old)


def _stretch(scheduler: dict, ratio: float) -> None:
    def stretched(epochs: float) -> float:
        exact = epochs * ratio
        return exact if scheduler.get('convert_to_iter_based') else round(exact)

    for key in {'begin', 'end', 'T_max', 'step_size'} & scheduler.keys():
        scheduler[key] = stretched(scheduler[key])
    if 'milestones' in scheduler:
        scheduler['milestones'] = [stretched(m) for m in scheduler['milestones']]


def set_lr(cfg: Config, lr: str) -> None:
    """Set the learning rate to a number, or scale the config's with `auto`.

    `auto` is the linear rule (Goyal et al. 2017, arXiv 1706.02677): devices x images a device x
    accumulated steps, over the `base_batch_size` that the config's learning rate is for.

    Raises:
        UserError: Neither a positive number nor `auto`.
    """
    optimizer = cfg.optim_wrapper.optimizer
    if lr != 'auto':
        optimizer.lr = _positive(lr)
        return
    base = cfg.get('auto_scale_lr', {}).get('base_batch_size')
    if not base:
        print_log('lr auto: the config names no base_batch_size, so its lr stays', logger='current')
        return
    images, factors = _images_a_step(cfg)
    old, optimizer.lr = optimizer.lr, optimizer.lr * images / base
    print_log(
        f'lr auto: {old:g} for {base} images a step, so {optimizer.lr:g} for {factors}',
        logger='current',
    )
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=images)


def _images_a_step(cfg: Config) -> tuple[int, str]:
    devices = _devices(cfg.get('launcher', 'none'))
    batch = cfg.train_dataloader.batch_size
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    factors = f'{devices} device(s) x {batch} image(s) x {accumulated} accumulated'
    return devices * batch * accumulated, factors


def _devices(launcher: str) -> int:
    """How many processes a launcher has started, which mmengine will know only later."""
    if launcher == 'none':
        return 1
    variable = DEVICES[launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {launcher}: {variable} is not set, so it did not start this')
    return int(os.environ[variable])


def _say_if_lr_is_for_another_batch(cfg: Config) -> None:
    base = cfg.get('auto_scale_lr', {}).get('base_batch_size')
    images, factors = _images_a_step(cfg)
    if base and base != images:
        lr = cfg.optim_wrapper.optimizer.lr
        print_log(
            f'lr {lr:g} stays, though the config means it for {base} images a step and this run '
            f'takes {factors}; --lr auto scales it',
            logger='current',
            level=logging.WARNING,
        )


def _positive(lr: str) -> float:
    try:
        value = float(lr)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise UserError(f'--lr {lr}: give a positive number or "auto"')
    return value


def set_scratch(cfg: Config, _: bool = True) -> None:
    """Train from random weights: nothing is downloaded and nothing stays frozen.

    A stage that stays frozen at random weights costs several AP, so no stage does, and batch
    norms learn their statistics.
    """
    for part in typed_dicts(cfg.model):
        part.pop('init_cfg', None)
        for key, value in (('frozen_stages', -1), ('norm_eval', False)):
            if key in part:
                part[key] = value
    cfg.load_from = None


def set_load_from(cfg: Config, path: str) -> None:
    """Start from the weights of a checkpoint of this very model; nothing else is downloaded."""
    for part in typed_dicts(cfg.model):
        part.pop('init_cfg', None)
    cfg.load_from = path


def set_batch(cfg: Config, batch: int) -> None:
    """Take `batch` images a step and device, with the learning rate scaled to them."""
    cfg.train_dataloader.batch_size = batch
    set_lr(cfg, 'auto')


def set_accumulate(cfg: Config, batches: int) -> None:
    """Add the gradients of `batches` batches up for one step of the optimizer."""
    cfg.optim_wrapper.accumulative_counts = batches
    set_lr(cfg, 'auto')


def set_noise_scale(cfg: Config, interval: int) -> None:
    """Measure the gradient noise scale every `interval` steps."""
    hook = dict(type='GradientNoiseScaleHook', interval=interval)
    cfg.custom_hooks = [h for h in cfg.custom_hooks if h['type'] != hook['type']] + [hook]


def set_seed(cfg: Config, seed: int) -> None:
    """Seed the weights, the order of the images and the augmentation."""
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def set_amp(cfg: Config, _: bool) -> None:
    """Train in mixed precision.

    Raises:
        UserError: There is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError('--amp: mixed precision needs a GPU, and torch sees none')
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')


def set_lean(cfg: Config, _: bool = True) -> None:
    """Train in less memory: a hook, and the focal loss that keeps its slope alone."""
    for part in typed_dicts(cfg.model):
        if part['type'] == 'FocalLoss':
            part['type'] = 'LeanFocalLoss'
    if not any(hook['type'] == 'LeanHook' for hook in cfg.custom_hooks):
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='LeanHook')]


CHANGES = dict(
    scratch=set_scratch,
    load_from=set_load_from,
    norm=set_norm,
    batch=set_batch,
    accumulate=set_accumulate,
    epochs=set_epochs,
    lr=set_lr,
    noise_scale=set_noise_scale,
    seed=set_seed,
    amp=set_amp,
    lean=set_lean,
)
