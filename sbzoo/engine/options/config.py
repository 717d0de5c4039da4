"""What the options of the tools mean: each is one change of a config.

The tools add nothing that a config cannot say; the config that a run leaves in its work
directory holds every change, and MMDetection's own tools run it.
"""

from __future__ import annotations

import argparse
import difflib
import re
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, DictAction

from sbzoo.engine.options.data import set_data
from sbzoo.engine.options.memory import set_amp, set_lean
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.parts import section, typed_dicts
from sbzoo.engine.options.scaling import (
    set_lr,
    trust_base_batch_size,
    warn_if_lr_is_for_another_batch,
)
from sbzoo.engine.options.schedule import (
    set_accumulate,
    set_batch,
    set_epochs,
    set_loop,
    set_loss_normalizer,
)
from sbzoo.errors import UserError, did_you_mean

HOOKS = 'ExactResumeHook', 'PretrainedHook', 'RanksHook', 'StopAtInvalidLossHook', 'AlphaHook'
BATCH = re.compile(r'_b(\d+)(?=[_.])')  # in the name of a config
TENSORBOARD = dict(type='TensorboardVisBackend')


def load_config(name: str) -> Config:
    """Read a config file, or one of an installed library as `mmdet::retinanet/....py`.

    Raises:
        UserError: There is none of this name, or it is no valid config.
    """
    path = _find(name)
    if not path.is_file():
        raise UserError(f'{name}: no such config{_hint(name)}')
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


def _hint(name: str) -> str:
    library, mark, _ = name.rpartition('::')
    root = _find(library + mark)
    paths = (root if mark else root / 'configs').rglob('*.py')
    known = [f'{library}{mark}{path.relative_to(root)}' for path in paths]
    if same := [k for k in known if BATCH.sub('', k) == BATCH.sub('', name)]:
        return f'; batch size is an option: {max(same)} --batch {BATCH.search(name)[1]}'
    return did_you_mean(difflib.get_close_matches(name, known, n=3))


def build_config(args: argparse.Namespace) -> Config:
    """The config that the options of a tool name.

    Raises:
        UserError: An option, the config or the data is wrong.
    """
    cfg = load_config(args.config)
    if 'lr' in args and not cfg.get('train_dataloader'):
        raise UserError(
            f'{args.config}: it trains nothing (no train_dataloader); it is for test.py'
        )
    if cfg.get('resume'):  # of the run that left this config, not of the one to come
        cfg.resume, cfg.load_from = False, None
    use_sbzoo(cfg)
    cfg.launcher = getattr(args, 'launcher', 'none')  # the learning rate counts its devices
    if args.cfg_options:
        _merge(cfg, _key_values(args.cfg_options))
    if args.data:
        set_data(cfg, args.data, args.drop_empty_boxes, args.allow_leaks)
    for option, change in CHANGES.items():
        value = getattr(args, option, None)
        if value is not None and value is not False:  # 0 is a seed
            change(cfg, value)
    _scale(cfg, args)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    return cfg


def _scale(cfg: Config, args: argparse.Namespace) -> None:
    """To the batch size, when all options that it depends on are applied."""
    lr = getattr(args, 'lr', None)
    if lr is None and (getattr(args, 'batch', None) or getattr(args, 'accumulate', None)):
        lr = 'auto'
    if lr is not None:
        set_lr(cfg, lr)
    elif 'lr' in args:
        warn_if_lr_is_for_another_batch(cfg)


def _merge(cfg: Config, given: dict) -> None:
    cfg.merge_from_dict(given)
    if 'auto_scale_lr.base_batch_size' in given:
        trust_base_batch_size(cfg)


def _key_values(options: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction)
    try:
        return parser.parse_args(['--options', *options]).options
    except (ValueError, AssertionError, RecursionError) as error:  # mmengine's for such values
        valid = 'KEY=VALUE, where VALUE is a word, a number or a list of them; KEY.0.KEY in a list'
        raise UserError(f'--cfg-options {" ".join(options)}: give {valid}') from error


def use_sbzoo(cfg: Config) -> None:
    """Give any config what those of sbzoo have: import, loop, hooks, checkpoints, TensorBoard."""
    set_loop(cfg)
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    if 'sbzoo' not in imports['imports']:
        imports['imports'] = [*imports['imports'], 'sbzoo']
    cfg.custom_imports = imports
    hooks = cfg.get('custom_hooks') or []
    present = {hook['type'] for hook in hooks}
    cfg.custom_hooks = [*hooks, *(dict(type=t) for t in HOOKS if t not in present)]
    if 'checkpoint' in section(cfg, 'default_hooks'):
        cfg.default_hooks.checkpoint.setdefault('backend_args', dict(backend='atomic'))
    if section(cfg, 'train_dataloader').get('persistent_workers'):
        cfg.train_dataloader.persistent_workers = False  # a resumed run could not have theirs
    backends = section(cfg, 'visualizer').get('vis_backends') or []
    if backends and TENSORBOARD not in backends:
        cfg.visualizer.vis_backends = [*backends, TENSORBOARD]


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
    hook = next(hook for hook in cfg.custom_hooks if hook['type'] == 'PretrainedHook')
    hook['strict'] = True


def set_noise_scale(cfg: Config, interval: int) -> None:
    """Measure the gradient noise scale every `interval` steps.

    Raises:
        UserError: The config is of a GAN, which has no one gradient.
    """
    if 'optimizer' not in cfg.optim_wrapper:
        raise UserError(
            '--noise-scale: it is of one loss, and a GAN has two, of generator and discriminator'
        )
    hook = dict(type='GradientNoiseScaleHook', interval=interval)
    cfg.custom_hooks = [h for h in cfg.custom_hooks if h['type'] != hook['type']] + [hook]


def set_seed(cfg: Config, seed: int) -> None:
    """Seed the weights, the order of the images and the augmentation."""
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


CHANGES = dict(
    scratch=set_scratch,
    load_from=set_load_from,
    norm=set_norm,
    batch=set_batch,
    accumulate=set_accumulate,
    loss_normalizer=set_loss_normalizer,
    epochs=set_epochs,
    noise_scale=set_noise_scale,
    seed=set_seed,
    amp=set_amp,
    lean=set_lean,
)
