"""MMDetection's own configs under `--norm`: a training step with and without objects, and boxes."""

from __future__ import annotations

import argparse
import copy
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

import mmdet
import numpy as np
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from benchmarks import configs, output
from benchmarks.limits import Limits, limited
from sbzoo.engine.options.config import load_config, use_sbzoo
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.parts import dicts
from sbzoo.errors import UserError
from sbzoo.files import sha256, write
from sbzoo.paths import ROOT
from sbzoo.tools.cli import positive_int

BOXES = (20.0, 30.0, 70.0, 100.0), (60.0, 10.0, 120.0, 50.0)
SIDE, LARGE, MANY = 128, 256, 300  # a large picture has as many pixels as a DETR has queries
BRANCHES = 'sup', 'unsup_teacher', 'unsup_student'  # of semi-supervised detectors
FRAMES = 2
LIMITS = Limits(gigabytes=9, seconds=180)
INSTEAD = {  # nothing is downloaded, no box is below a threshold, and pictures stay small
    **dict.fromkeys(('init_cfg', 'pretrained', 'teacher_ckpt')),
    'score_thr': 0.0,
    'batch_augments': None,
}
SUMMARY = output.RESULTS / 'mmdet_runs.json'
STEPS = {
    'objects': 'loss and backward, two objects',
    'empty': 'loss and backward, no objects',
    'predict': 'prediction',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which norm, how many side by side, and where the runs are kept."""
    add = parser.add_argument
    add('--jobs', type=positive_int, default=2, help='configs side by side, a thread each')
    add('--norm', default='hybrid', metavar='SPEC')
    add('--dir', type=Path, default=ROOT / 'work_dirs/mmdet_runs', help='kept and gone on with')
    output.add_out(parser, SUMMARY.name)


def run(args: argparse.Namespace) -> None:
    """Run what was not run yet; what is done is on record at every moment."""
    args.dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    file = args.dir / f'{args.norm}.jsonl'
    results = output.read_lines(file)
    (names, count), done = buildable(args.norm), {result['config'] for result in results}
    todo = (name for name in _in_turn(names) if name not in done)
    calls = ((name, args.norm, _by_model(results)) for name in todo)
    for ended in limited(LIMITS, check, calls, args.jobs):
        results.append(dict(config=ended.arguments[0], **ended.or_reason('error')))
        output.add_line(file, results[-1])
        print(*results[-1].values(), flush=True)
        found = summary(results, args.norm, count)
        write(args.out, json.dumps(found, indent=1).encode() + b'\n')
    output.close(args.out)


def buildable(spec: str) -> tuple[list[str], int]:
    """The configs that may have a model whose norms are replaced, and how many have one.

    As `configs` has found.
    """
    found = json.loads(configs.SUMMARY.read_text())['norms'][spec]
    others = set(chain.from_iterable(found['exceptions'].values()))
    names = [name for name in configs.config_names() if name not in others]
    return names, found['counts']['turned']


def _in_turn(names: Iterable[str]) -> list[str]:
    """The configs, one of each folder after another."""
    return output.in_turn(
        list(names) for _, names in groupby(names, lambda name: name.partition('/')[0])
    )


def _by_model(results: Sequence[dict]) -> dict[str, str]:
    return {result['model']: result['config'] for result in results if 'failed' in result}


def check(name: str, spec: str, known: dict[str, str]) -> dict:
    """Run one config with another norm.

    Args:
        name: The config, below MMDetection's.
        spec: The norm.
        known: Configs that were run, by the hash of their model.

    Returns:
        `same_as` another config with an equal model; `no_model`; or `model`, its hash, and
        `failed`, a reason for each step that failed, with `as_it_is` where it fails so too
        without `--norm`.
    """
    try:
        cfg = model_config(name, spec)
    except UserError:
        return dict(no_model=True)
    key = sha256(json.dumps(cfg.model, sort_keys=True, default=str).encode())[:16]
    if key in known:
        return dict(same_as=known[key])
    failed = steps(cfg)
    as_it_is = steps(model_config(name, None)) if failed else {}
    return dict(
        model=key, failed=failed, as_it_is={k: v for k, v in as_it_is.items() if k in failed}
    )


def model_config(name: str, spec: str | None) -> Config:
    """A config of MMDetection for small pictures and random weights, and with another norm.

    Raises:
        UserError: It has no model.
    """
    cfg = load_config(f'mmdet::{name}')
    use_sbzoo(cfg)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if spec:
        set_norm(cfg, spec)
    for part in dicts(cfg.model):
        for key in INSTEAD.keys() & part.keys():
            if key != 'init_cfg' or 'checkpoint' in str(part[key]):
                part[key] = INSTEAD[key]
    return cfg


def steps(cfg: Config) -> dict[str, str]:
    """The steps that fail, with the reason."""
    failed = {}
    for what in ('iter', 'epoch'):  # some losses warm up
        MessageHub.get_current_instance().update_info(what, 0)
    try:
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(cfg.model))
        model.init_weights()
    except Exception as error:
        return dict(objects=output.line_of(error))
    for name, step in (
        ('objects', partial(_train, model, cfg, len(BOXES))),
        ('empty', partial(_train, model, cfg, 0)),
        ('predict', partial(_predict, model, cfg)),
    ):
        try:
            reason = step()
        except Exception as error:
            reason = output.line_of(error)
        if reason:
            failed[name] = reason
    return failed


def _train(model: nn.Module, cfg: Config, objects: int) -> str | None:
    model.train()
    model.zero_grad()
    data = model.data_preprocessor(batch(cfg, objects, training=True), training=True)
    loss, values = model.parse_losses(model(**data, mode='loss'))
    if not loss.isfinite():
        broken = [name for name, value in values.items() if not value.isfinite().all()]
        return f'not finite: {", ".join(broken)}'
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    broken = [name for name, grad in grads.items() if not grad.isfinite().all()]
    return f'gradient not finite: {broken[0]}' if broken else None


def _predict(model: nn.Module, cfg: Config) -> str | None:
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(batch(cfg, len(BOXES), training=False), training=False)
        found = model(**data, mode='predict')
    return None if len(found) == 1 else f'{len(found)} predictions for one picture'


def batch(cfg: Config, objects: int, training: bool) -> dict:
    """One picture, or one video, or one for each branch, as the model of a config wants it."""
    settings = cfg.model.data_preprocessor
    picture = dict(inputs=[_picture(cfg)], data_samples=[_sample(cfg, objects)])
    if settings.type == 'MultiBranchDataPreprocessor' and training:
        return {key: {b: copy.deepcopy(picture[key]) for b in BRANCHES} for key in picture}
    if settings.type == 'TrackDataPreprocessor' and not (
        training and settings.get('use_det_processor')
    ):
        frames = [_sample(cfg, objects, frame_id=i) for i in range(FRAMES)]
        meta = dict(key_frames_inds=[0], ref_frames_inds=[*range(1, FRAMES)])
        video = TrackDataSample(video_data_samples=frames, metainfo=meta)
        return dict(inputs=[torch.stack([_picture(cfg)] * FRAMES)], data_samples=[video])
    return picture


def _picture(cfg: Config) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, *_size(cfg)), generator=generator, dtype=torch.uint8)


def _size(cfg: Config) -> tuple[int, int]:
    own = (part['input_size'] for part in dicts(cfg.model) if 'input_size' in part)  # SSD's
    side = LARGE if cfg.model.get('num_queries', 0) > MANY else next(own, SIDE)
    return side, side


def _sample(cfg: Config, objects: int, frame_id: int = 0) -> DetDataSample:
    """Boxes, masks if its data have them, identities, proposals where nothing else makes them."""
    size = _size(cfg)
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0, img_path='')
    meta |= dict(
        flip=False, border=(0, size[0], 0, size[1]), homography_matrix=np.eye(3, dtype=np.float32)
    )
    meta |= dict(frame_id=frame_id, ori_video_length=FRAMES, video_length=FRAMES)
    boxes = torch.tensor(BOXES[:objects]).reshape(-1, 4)
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.zeros(objects, dtype=torch.long),
        instances_ids=torch.arange(objects),
    )
    if _has_masks(cfg):
        sample.gt_instances.masks = BitmapMasks(_filled(boxes.int().tolist(), size), *size)
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, *size, dtype=torch.long))
    if 'rpn_head' not in cfg.model:
        proposals = torch.tensor(BOXES) + 4
        sample.proposals = InstanceData(bboxes=proposals, scores=torch.ones(len(BOXES)))
    return sample


def _has_masks(cfg: Config) -> bool:
    loads = dicts(cfg.get('train_dataloader'))
    return any(x.get('with_mask', x.get('type') == 'LoadPanopticAnnotations') for x in loads)


def _filled(boxes: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return masks


def summary(results: list[dict], spec: str, count: int) -> dict:
    """Counts by step, and the configs that failed by reason; those that were not run are named."""
    with_model = (result for result in results if 'no_model' not in result)
    lines = sorted(with_model, key=itemgetter('config'))  # they end in any order
    by_name = {result['config']: result for result in lines}
    resolved = {name: by_name.get(r.get('same_as'), r) for name, r in by_name.items()}
    exceptions: dict[str, list[str]] = defaultdict(list)
    for name, result in resolved.items():
        for reason in _reasons(result):
            exceptions[reason].append(name)
    # equal models may have run side by side
    models = {line.get('model', line['config']) for line in lines if 'same_as' not in line}
    return dict(
        mmdet=mmdet.__version__,
        norm=spec,
        configs=count,
        run=len(lines),
        models=len(models),
        counts={step: sum(_passes(r, step) for r in resolved.values()) for step in STEPS},
        exceptions=exceptions,
        were_run=[*by_name],
    )


def _passes(result: dict, step: str) -> bool:
    return step not in result.get('failed', STEPS)


def _reasons(result: dict) -> Iterator[str]:
    if 'error' in result:
        yield result['error']
    alike = Counter(result.get('failed', {}).values())
    for reason in alike:
        at = [step for step, said in result['failed'].items() if said == reason]
        so_too = all(step in result['as_it_is'] for step in at)
        where = ', '.join(STEPS[step] for step in at)
        yield f'{"without --norm too" if so_too else "with --norm alone"}, {where}: {reason}'


def table(found: dict) -> str:
    """A Markdown table of the counts."""
    run = f'{found["run"]} of {found["configs"]} configs, {found["models"]} different models'
    rows = [f'| {meaning} | {found["counts"][step]} |' for step, meaning in STEPS.items()]
    return '\n'.join([f'| {run} | {found["norm"]} |', '|---|---|', *rows])


def failures(found: dict) -> Iterator[str]:
    """A line of Markdown for each reason, with its configs."""
    for reason, names in found['exceptions'].items():
        shown = ', '.join(f'`{name}`' for name in names)
        yield f'- {reason}: {len(names)}, {shown}'
