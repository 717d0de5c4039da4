"""FD, KID, precision, recall and coverage of DCGAN by norm and batch size, and a picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks import arms
from benchmarks.arms import Arm
from sbzoo.engine.visualize import save_png

NORMS, BATCHES = ('bn', 'in', 'gn', 'ln', 'hybrid', 'none'), (1, 2, 8)
METRICS = 'FD-digits', 'KID-digits', 'precision', 'recall', 'coverage'
TILE, GAP, LABEL = 256, 8, 24  # pixels: samples of a norm, between them, above them
COLUMNS, DRAWN = 3, 2  # norms in a row of the picture; their batch size


def _norms(batch: int) -> Iterator[Arm]:
    for norm in NORMS:
        yield _arm(norm, batch)


def _arm(norm: str, batch: int) -> Arm:
    train = 'train', f'configs/dcgan_{norm}_b{min(batch, 2)}.py', '--batch', batch
    return Arm('DCGAN', norm, f'batch {batch}', train, METRICS)


STUDIES = {f'b{batch}': partial(_norms, batch) for batch in BATCHES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    arms.add_arguments(parser, 'gan', STUDIES)


def run(args: argparse.Namespace) -> None:
    """Train what is not trained yet; each result is on record as soon as it is there."""
    arms.run(args, STUDIES)
    if f'b{DRAWN}' in args.studies:
        picture = _draw(args.dir, args.seeds[0])
        print(f'samples: {save_png(picture, args.out.with_name("gan_digits.png"))}')


def _draw(folder: Path, seed: int) -> Image.Image:
    """The samples of one seed beside each other."""
    step, height = TILE + GAP, TILE + LABEL
    canvas = Image.new('RGB', (COLUMNS * step, -(-len(NORMS) // COLUMNS) * height), 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for index, norm in enumerate(NORMS):
        row, column = divmod(index, COLUMNS)
        work_dir = arms.folder_of(folder, _arm(norm, DRAWN), seed)
        draw.text((column * step, row * height), norm, 'black', font)
        canvas.paste(_some(work_dir / 'samples.png'), (column * step, row * height + LABEL))
    return canvas


def _some(path: Path) -> Image.Image:
    """A quarter of the samples, so that they can be seen."""
    samples = Image.open(path)
    side = samples.width // 2
    return samples.crop((0, 0, side, side)).resize((TILE, TILE), Image.Resampling.LANCZOS)
