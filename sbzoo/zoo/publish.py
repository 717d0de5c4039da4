"""A card from work directories: the weights, their numbers with protocol and spread, a picture."""

from __future__ import annotations

import io
import json
import re
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from sbzoo import files
from sbzoo.checkpoint.cards import FILE, Card, Result
from sbzoo.checkpoint.io import load
from sbzoo.checkpoint.key_maps import GENERATOR
from sbzoo.checkpoint.resolve import resolve
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.parts import norm_of
from sbzoo.engine.result import ALIKE, data_name
from sbzoo.engine.result import FILE as RESULT
from sbzoo.errors import UserError
from sbzoo.gan.models.gan import GAN
from sbzoo.gan.models.image_to_image import Translation
from sbzoo.gan.networks.blocks import NO_NORM
from sbzoo.paths import ROOT
from sbzoo.zoo.evaluate import METRICS, evaluate, metric_name
from sbzoo.zoo.index import check_clone, published
from sbzoo.zoo.page import page, picture_of

WEIGHTS = 'model.safetensors'
AVERAGED = 'generator_ema.module.'
PICTURE_BYTES = 200_000
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._+-]*')  # of a card, and its folder


class Run(NamedTuple):
    """What a work directory holds."""

    folder: Path
    result: dict
    cfg: Config


def publish(
    work_dirs: Sequence[Path],
    name: str = '',
    half: bool = False,
    limits: Sequence[str] = (),
    overwrite: bool = False,
) -> Card:
    """Write `model_cards/NAME/`: weights, picture, and the card with the results of all runs.

    The weights are those of the lowest seed; of an adversarial model, the averaged generator.

    Args:
        work_dirs: Of runs of one config that differ in their seed.
        name: Of the card; that of the config by default, with the batch of the runs in it.
        half: Keep weights of two dimensions and more in half precision, and measure these.
        limits: Sentences on what the model does not do.
        overwrite: Put it in the place of a card of ours that has this name.

    Raises:
        UserError: This is no clone of the repository, a run is not complete, the runs are not of
            one config of the repository, or the name is none for a card or is taken.
    """
    check_clone()
    runs = sorted(map(read_run, work_dirs), key=lambda run: run.result['seed'])
    for run in runs:
        _kind(run)  # the model is that of the config
    _check_alike(runs)
    checkpoint = _checkpoint(runs[0])
    weights = save(dict(_weights(checkpoint['state_dict'], half)), _metadata(runs[0], checkpoint))
    card = _card(runs, name)
    _check_name(card, overwrite)
    card = replace(card, sha256=files.sha256(weights), limits=tuple(limits))
    if half:
        card = _measured(card, weights, runs[0].cfg)
    picture = picture_of(card.task)
    contents = {WEIGHTS: weights, picture: small_png(runs[0].folder / picture)}
    _write(card.folder, contents | {FILE: page(card).encode()})
    return card


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    """Write a card, which is there when it is complete; one that is replaced has its page last."""
    with nullcontext(folder) if folder.exists() else files.new_folder(folder) as place:
        for file, content in contents.items():
            files.write(place / file, content)


def _checkpoint(run: Run) -> dict:
    path = resolve(run.folder)
    checkpoint = load(path)
    epoch, measured = checkpoint['meta']['epoch'], run.result['epochs']
    if epoch != measured:
        raise UserError(f'{path}: it is of epoch {epoch}, and {RESULT} beside it of {measured}')
    return checkpoint


def _check_name(card: Card, overwrite: bool) -> None:
    if not NAME.fullmatch(card.name):
        raise UserError(f'{card.name}: no name of a card; give letters, digits and . _ + - alone')
    if card.name in (other.name for other in published()):
        raise UserError(f'{card.name}: a published checkpoint has this name; give --name another')
    if card.folder.exists() and not overwrite:
        raise UserError(f'{card.folder} is there already; give --replace or --name another')


def _card(runs: Sequence[Run], name: str) -> Card:
    """All but what the files say."""
    config, task = _kind(runs[0])
    result, cfg = runs[0].result, runs[0].cfg
    norm, data, batch = norm_of(cfg.model), data_name(cfg), result['images_a_step']
    return Card(
        name or re.sub(r'_b\d+(?=_|$)', f'_b{batch}', config.stem),
        task,
        f'{_model_name(cfg.model)}, trained on {data} at batch size {batch}.',
        data,
        results=tuple(_results(runs)),
        config=config.relative_to(ROOT).as_posix(),
        weights=WEIGHTS,
        norm=norm,
        batch=batch,
        devices=result['devices'],
        accumulated=result['accumulated'],
        seeds=tuple(run.result['seed'] for run in runs),
        training=f'{result["epochs"]} epochs, learning rate {_rates(result["lr"])}',
        license='apache-2.0',
    )


def _measured(card: Card, weights: bytes, cfg: Config) -> Card:
    """With the numbers of its own weights, which are no longer those of the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(weights)
        found = evaluate(cfg, str(path))
    results = (replace(result, value=_rounded(found[result.metric])) for result in card.results)
    return replace(card, results=tuple(results), half=True)


def _model_name(model: Config) -> str:
    """What the model is called, and its norm."""
    kind = model.generator.type.removesuffix('Generator') if model.type == 'GAN' else model.type
    norm = norm_of(model)
    return f'{kind} without norms' if norm in ('', NO_NORM) else f'{kind} with `{norm}`'


def _rates(lr: float | list[float]) -> str:
    """One number, or that of each player where they differ."""
    return ' and '.join(f'{rate:g}' for rate in dict.fromkeys(lr if isinstance(lr, list) else [lr]))


def read_run(folder: Path) -> Run:
    """What a work directory holds.

    Raises:
        UserError: It has no result or no config.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        raise UserError(f'{path}: missing; tools/train.py writes it at the end of a run')
    result = json.loads(path.read_text())
    cfg = load_config(str(Path(folder) / f'{result["config"]}.py'))
    return Run(Path(folder), dict(trained_on=data_name(cfg)) | result, cfg)


def _check_alike(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in ALIKE:
            if run.result[key] != first.result[key]:
                raise UserError(
                    f'{run.folder}: {key} is {run.result[key]}, in {first.folder} '
                    f'{first.result[key]}; a card is of runs that differ in their seed alone'
                )
    seeds = Counter(run.result['seed'] for run in runs)
    for seed, count in seeds.items():
        if count > 1:
            raise UserError(f'seed {seed}: {count} of the runs have it')


def _kind(run: Run) -> tuple[Path, str]:
    """The config of the repository that a run is of, and the task of its model."""
    name = f'{run.result["config"]}.py'
    found = [path for path in (ROOT / 'configs').rglob(name) if '_base_' not in path.parts]
    if len(found) != 1:
        raise UserError(f'{run.folder}: configs/ has {len(found)} files of the name {name}')
    if load_config(str(found[0])).model != run.cfg.model:
        raise UserError(
            f'{run.folder}: its model is not that of {found[0]}; '
            'what was changed by options needs a config of its own'
        )
    model = MODELS.module_dict.get(run.cfg.model.type, object)  # MMDetection's have their own
    tasks = {GAN: 'unconditional-image-generation', Translation: 'image-to-image'}
    kinds = (task for kind, task in tasks.items() if issubclass(model, kind))
    return found[0], next(kinds, 'object-detection')


def _weights(state_dict: dict[str, Tensor], half: bool) -> Iterator[tuple[str, Tensor]]:
    prefixes = (p for p in (AVERAGED, GENERATOR) if any(k.startswith(p) for k in state_dict))
    prefix = next(prefixes, '')
    for key, value in state_dict.items():
        if key.startswith(prefix):
            halved = half and value.is_floating_point() and value.dim() > 1
            name = (GENERATOR if prefix else '') + key.removeprefix(prefix)
            # a copy, as the format has no tensors that share memory (heads share convolutions)
            yield (
                name,
                (value.half() if halved else value).clone(memory_format=torch.contiguous_format),
            )


def _metadata(run: Run, checkpoint: dict) -> dict[str, str]:
    """What the file says of itself; the format has text alone."""
    meta, result = checkpoint['meta'], run.result
    values = dict(config=result['config'], epoch=meta['epoch'], step=meta['iter'])
    values |= dict(seed=result['seed'], commit=_commit(), metrics=json.dumps(result['metrics']))
    return {'format': 'pt'} | {name: str(value) for name, value in values.items()}


def _commit() -> str:
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _results(runs: Sequence[Run]) -> Iterator[Result]:
    for key, value in runs[0].result['metrics'].items():
        values = [run.result['metrics'][key] for run in runs]
        if key in METRICS or not key.startswith('coco/'):
            several = len(values) > 1
            yield Result(
                metric_name(key),
                _rounded(value),
                _protocol(runs[0], key),
                mean=_rounded(statistics.mean(values)) if several else None,
                std=_rounded(statistics.stdev(values)) if several else None,
            )


def _protocol(run: Run, key: str) -> str:
    images = run.result['data']['images']
    if key in METRICS:
        return f'COCO, {images} validation images of {run.result["data"]["name"]}'
    evaluator = run.cfg.test_evaluator
    if 'extractor' not in evaluator:
        return f'{images} images'
    return f'{images} samples against the training images, extractor {evaluator.extractor}'


def _rounded(value: float) -> float:
    return round(value, 4)  # finer than `tools/report.py --check` compares


def small_png(path: Path) -> bytes:
    """A picture in 200 kB at most: as it is, or in 256 colours, and then as large as possible.

    Raises:
        UserError: There is none.
    """
    if not path.is_file():
        raise UserError(f'{path}: missing; tools/train.py draws it at the end of a run')
    image = Image.open(path).convert('RGB')
    data = _png(image)
    while len(data) > PICTURE_BYTES:
        data = _png(image.quantize(256, dither=Image.Dither.NONE))
        image = image.resize((image.width * 7 // 8, image.height * 7 // 8), Image.Resampling.BOX)
    return data


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, 'PNG', optimize=True)
    return file.getvalue()
