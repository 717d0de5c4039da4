"""Droplets of pix2pix by the norms of its generator, and a picture of them."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn

from benchmarks import output, runs
from sbzoo import records
from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.resolve import CARD
from sbzoo.engine.model import config_of, load_model, scope_of
from sbzoo.engine.options.config import load_config
from sbzoo.engine.visualize import first_samples, image_grid, save_png
from sbzoo.records import Measurement
from sbzoo.report.measurements import by_machine, note
from sbzoo.report.tables import Cell, ResultTable, mean_std

CONFIG, CYCLEGAN = 'configs/pix2pix_ln_b1.py', 'cyclegan_in_b1'
NORMS = {  # options of the generator
    'in': ('norm=in',),
    'gn': ('norm=gn',),
    'ln': ('norm=ln',),
    'hybrid': ('norm=hybrid',),
    'none': ('norm=none',),
    'in, last level none': ('norm=in', 'last_norm=none'),
}
WINDOW, NEAR = 5, 1  # pixels
FLAT, DROPLET = 8, 64  # levels of 255
FIGURES = {  # heads of the table, and decimals
    'droplets': ('droplets', 0),
    'one_place': ('at one place', 0),
    'peak': ('peak / std', 1),
    'highest_peak': ('at most', 1),
    'L1': ('L1', 2),
}
SHOWN, LABEL = 8, 150  # outlines in the picture, and pixels for the names of its rows


class Translations:
    """What a model makes of its test pictures.

    Attributes:
        epochs: Of the training.
        shown: uint8 [N, 3, H, W] of `source`, `target` (if the pictures are paired) and `fake`.
        peaks: [N], the largest value over the standard deviation of the map [C, H, W] that the
            last convolution of the generator reads.
    """

    def __init__(self, cfg: Config, reference: str) -> None:
        model, self.epochs = load_model(cfg, reference), cfg.train_cfg.max_epochs
        with scope_of(cfg):
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
        maps = _last_maps(model.generator)
        samples = first_samples(model, dataset, len(dataset))
        self.peaks = torch.cat([x.abs().amax(1) / x.std(1) for x in maps])
        self.shown = {
            name: torch.stack([sample.get(f'{name}_img') for sample in samples])
            for name in ('source', 'target', 'fake')
            if f'{name}_img' in samples[0]
        }

    def figures(self) -> dict[str, float]:
        """The figures of a line."""
        fakes, targets = self.shown['fake'], self.shown.get('target')
        largest, places = spots(fakes, targets)
        near = (places[:, None] - places).abs().amax(2) <= NEAR
        found = dict(
            one_place=near.sum(1).max().item(),
            peak=self.peaks.median().item(),
            highest_peak=self.peaks.max().item(),
        )
        if targets is not None:
            distance = (fakes.float() - targets.float()).abs().mean().item()
            found |= dict(droplets=(largest > DROPLET).sum().item(), L1=distance)
        return found


def _last_maps(generator: nn.Module) -> list[Tensor]:
    """What the last convolution will have read, a tensor [N, C * H * W] for each batch."""
    maps: list[Tensor] = []
    convs = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    convs[-1].register_forward_pre_hook(lambda _, read: maps.append(read[0].cpu().flatten(1)))
    return maps


def spots(images: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far the pixel that stands out most is from the median of its 5 x 5 neighbourhood.

    Args:
        images: uint8 [N, 3, H, W].
        targets: As many; a pixel counts only where the target is flat over its neighbourhood.

    Returns:
        The difference in levels of 255, of the channel where it is largest [N], and row and column
        of the pixel [N, 2].
    """
    neighbours = _neighbourhoods(images)
    found = (images.float() - neighbours.median(4).values).abs().amax(1)
    if targets is not None:
        around = _neighbourhoods(targets)
        found = found * ((around.amax(4) - around.amin(4)).amax(1) <= FLAT)
    largest, index = found.flatten(1).max(1)
    return largest, torch.stack([index // images.shape[3], index % images.shape[3]], dim=1)


def _neighbourhoods(images: Tensor) -> Tensor:
    """From [N, 3, H, W] to [N, 3, H, W, 25]."""
    padded = F.pad(images.float(), [WINDOW // 2] * 4, mode='replicate')
    return padded.unfold(2, WINDOW, 1).unfold(3, WINDOW, 1).flatten(4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    add = parser.add_argument
    add('--norms', nargs='+', default=[*NORMS], choices=NORMS, metavar='NORM')
    runs.add_arguments(parser, 'droplets', 'droplets.jsonl')
    parser.set_defaults(seeds=(0,))


def run(args: argparse.Namespace) -> None:
    """Train what is not trained yet, measure it and CycleGAN's card, and draw the first seed."""
    grid = list(product(args.norms, args.seeds))
    trained = runs.run_all(_train, [(args.dir, *entry) for entry in grid], args.jobs)
    made = {
        entry: Translations(load_config(config), str(Path(config).parent))
        for entry, config in zip(grid, trained, strict=True)
    }
    measured = [_line('pix2pix', *entry, each) for entry, each in made.items()]
    translator = card(CYCLEGAN)
    stripes = Translations(config_of(translator), f'{CARD}{CYCLEGAN}')
    measured.append(_line(f'{CYCLEGAN} (card)', translator.norm, *translator.seeds, stripes))
    records.record(args.out, measured)
    output.show(args.out, tables(measured))
    shown = {norm: made[norm, args.seeds[0]].shown for norm in args.norms}
    print(f'picture: {_draw(shown, args.out.with_name("pix2pix_droplet.png"))}')


def _train(folder: Path, norm: str, seed: int) -> str:
    """The config of a training run, in its work directory; a run that was cut off goes on."""
    work_dir = folder / f'{norm.replace(", ", "_").replace(" ", "-")}_s{seed}'
    options = '--cfg-options', *(f'model.generator.{option}' for option in NORMS[norm])
    result = runs.result_of(work_dir, 'train', CONFIG, '--resume', '--seed', seed, *options)
    return f'{work_dir}/{result["config"]}.py'


def _line(model: str, norm: str, seed: int, made: Translations) -> Measurement:
    protocol = dict(epochs=made.epochs, images=len(made.peaks))
    return records.measurement(
        dict(model=model, norm=norm, seed=seed), made.figures(), protocol, threads=1
    )


def tables(measured: Sequence[Measurement]) -> list[ResultTable]:
    """The figures of each generator, by mean and deviation over seeds."""
    return [_table(group) for group in by_machine(measured).values()]


def _table(measurements: Sequence[Measurement]) -> ResultTable:
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for m in measurements:
        found[m.row['model'], m.row['norm']].append(m.figures)
    rows = [
        tuple(map(Cell, (*names, *(_cell(each, *entry) for entry in FIGURES.items()))))
        for names, each in found.items()
    ]
    heads = 'generator', 'norm', *(head for head, _ in FIGURES.values())
    return ResultTable('droplets', heads, rows, note(measurements))


def _cell(figures: list[dict[str, float]], name: str, shown: tuple[str, int]) -> str:
    return mean_std([each[name] for each in figures if name in each], shown[1])


def _draw(shown: dict[str, dict[str, Tensor]], path: Path) -> Path:
    """The first outlines in columns: source, target, and what each norm makes of them."""
    first = next(iter(shown.values()))
    rows = {name: first[name] for name in ('source', 'target')}
    rows |= {norm: images['fake'] for norm, images in shown.items()}
    grid = image_grid(torch.cat([images[:SHOWN] for images in rows.values()]), SHOWN)
    canvas = Image.new('RGB', (LABEL + grid.width, grid.height), 'white')
    canvas.paste(grid, (LABEL, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for index, name in enumerate(rows):
        draw.text((4, (index + 0.5) * grid.height / len(rows)), name, 'black', font, anchor='lm')
    return save_png(ImageOps.posterize(canvas, 6), path)  # for two thirds of the bytes
