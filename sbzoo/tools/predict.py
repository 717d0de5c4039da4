"""Find objects in pictures or a video: drawn, as COCO results, and on a page to look through."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sbzoo.paths import command
from sbzoo.tools import cli

if TYPE_CHECKING:
    from rich.table import Table

    from sbzoo.zoo.load import Detector
    from sbzoo.zoo.predict import Shown

EXAMPLES = """
examples:
  python tools/predict.py work_dirs/retinanet_gn_b2 --input photos/ --out found
  python tools/predict.py --card retinanet_gn_b2 --input photo.jpg
  python tools/predict.py configs/retinanet_gn_b2.py epoch_3.pth --input 'photos/**/*.jpg'
  python tools/predict.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py model.pth --input film.mp4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    cli.add_model(parser)
    add = parser.add_argument
    add(
        '--input',
        nargs='+',
        required=True,
        metavar='PATH',
        help='images, folders with all below, globs in quotes, or one video',
    )
    add('--out', type=Path, default=Path('predictions'), metavar='DIR', help='a new folder')
    add('--score', type=float, default=0.3, help='detections below it are left out (0.3)')
    add('--batch', type=cli.positive_int, default=1, metavar='N', help='pictures at once (1)')
    add('--device', help='such as cpu or cuda:1 (the GPU, if there is one)')


def main(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import track

    from sbzoo.data.frames import open_input
    from sbzoo.errors import UserError
    from sbzoo.zoo.predict import PAGE, RESULTS, categories, predict, write_predictions

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f'{args.out}: exists already; give a new folder by --out')
    source = open_input(args.input)
    detector = load(args)
    predicted = predict(detector, source, args.score, args.batch)
    predicted = track(predicted, 'pictures', total=len(source))
    shown = write_predictions(detector, source, predicted, args.out)
    console = Console(highlight=False, markup=False, emoji=False)  # paths are as they are
    console.print(table(shown, categories(detector)))
    page = args.out / PAGE
    console.print(
        f'written: {page if page.exists() else args.out / shown[0].drawing}', soft_wrap=True
    )
    console.print(f'results: {args.out / RESULTS}', soft_wrap=True)
    console.print(f'next:    {next_command(args, detector)}', soft_wrap=True)
    if source.faults:
        left = f'{len(source.faults)} of {len(source)} pictures could not be read'
        raise UserError('\n'.join([left, *source.faults]))


def load(args: argparse.Namespace) -> Detector:
    """The detector that the options name.

    Raises:
        UserError: They name none, or a model of another kind.
    """
    from sbzoo.errors import UserError
    from sbzoo.zoo.load import Detector

    model = cli.load_model(args, args.device)
    if not isinstance(model, Detector):
        raise UserError(
            f'{args.card or args.config}: a {type(model).__name__.lower()}, no detector'
        )
    return model


def table(shown: list[Shown], names: dict[int, str]) -> Table:
    """How many detections of each class there are, and in how many pictures."""
    from rich.table import Table

    result = Table('class', 'detections', 'pictures')
    counted = [picture.counts(names) for picture in shown]
    for name in names.values():
        counts = [counts[name] for counts in counted if name in counts]
        if counts:
            result.add_row(name, str(sum(counts)), str(len(counts)))
    total = sum(sum(counts.values()) for counts in counted)
    result.add_row('all', str(total), str(len(shown)), style='bold')
    return result


def next_command(args: argparse.Namespace, detector: Detector) -> str:
    """The test of the same weights on annotated pictures."""
    if detector.card:
        config = detector.card.config.replace('configs/', 'sbzoo::', 1)
        return command('test', config, '--card', detector.card.name)
    if args.checkpoint:
        return command('test', args.config, args.checkpoint)
    return command('test', detector.model.cfg.filename, Path(args.config))
