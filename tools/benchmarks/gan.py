"""FD, KID, precision and recall of DCGAN at batch size 2, by norm, and a sample grid."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks import runs
from sbzoo.engine.visualize import save_png
from sbzoo.report.tables import mean_std

NORMS, BATCH = ('bn', 'in', 'gn', 'ln', 'hybrid', 'none'), 2
METRICS = {'FD-digits': 2, 'KID-digits': 4, 'precision': 2, 'recall': 2}  # decimals
TILE = 256  # pixels of a norm's samples in the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    add = parser.add_argument
    add('--norms', nargs='+', default=NORMS, choices=NORMS, metavar='NORM')
    runs.add_arguments(parser, 'gan', 'gan_digits.jsonl')


def run(args: argparse.Namespace) -> None:
    """Train what is not trained yet, collect the results, print the table, draw the picture."""
    grid = product([args.dir], args.seeds, args.norms)
    results = runs.run_all(_train, grid, args.jobs)
    print(table(results, args.norms))
    print(f'samples: {_draw(args.dir, args.norms, args.seeds[0])}')
    runs.record(args.out, results)


def _train(folder: Path, seed: int, norm: str) -> dict:
    """One training run; a run that was cut off goes on."""
    config, work_dir = f'configs/dcgan_{norm}_b{BATCH}.py', folder / f'{norm}_s{seed}'
    return runs.result_of(work_dir, 'train', config, '--resume', '--seed', seed)


def table(results: list[dict], norms: Sequence[str]) -> str:
    """A Markdown table of mean ± standard deviation over the seeds."""
    rows = ['| | ' + ' | '.join(METRICS) + ' |', '|---' * (len(METRICS) + 1) + '|']
    for norm in norms:
        of_norm = [r['metrics'] for r in results if runs.norm_of(r) == norm]
        cells = (
            mean_std([metrics[name] for metrics in of_norm], digits)
            for name, digits in METRICS.items()
        )
        rows.append(f'| {norm} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(rows)


def _draw(folder: Path, norms: Sequence[str], seed: int) -> Path:
    """The samples of one seed beside each other, three norms in a row."""
    columns, label = 3, 24
    height = -(-len(norms) // columns) * (TILE + label)
    canvas = Image.new('RGB', (columns * (TILE + 8), height), 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for index, norm in enumerate(norms):
        row, column = divmod(index, columns)
        left, top = column * (TILE + 8), row * (TILE + label)
        samples = Image.open(folder / f'{norm}_s{seed}' / 'samples.png')
        side = samples.width // 2  # a quarter of the samples, so that they can be seen
        tile = samples.crop((0, 0, side, side)).resize((TILE, TILE), Image.Resampling.LANCZOS)
        draw.text((left, top), norm, 'black', font)
        canvas.paste(tile, (left, top + label))
    return save_png(canvas, folder / 'samples.png')
