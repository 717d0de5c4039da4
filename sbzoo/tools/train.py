"""Train a detector or a GAN, from a config of sbzoo or of MMDetection."""

import argparse
import logging
import sys

from sbzoo.errors import UserError
from sbzoo.norm import norm_table
from sbzoo.paths import command
from sbzoo.tools import cli

EXAMPLES = rf"""
norms (statistics are taken over ...):
{norm_table()}

examples:
  python tools/train.py configs/retinanet_gn_b2.py
  python tools/train.py configs/retinanet_gn_b2.py --norm ln --batch 1
  python tools/train.py configs/dcgan_in_b2.py --norm hybrid --batch 1
  python tools/train.py mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py \
      --norm gn --batch 2 --data /my/coco --scratch
"""

LOSS_NORMALIZERS = 'window', 'moving-average', 'batch'  # of `sbzoo.engine.loss_normalizers`
AUTO = 'auto'
BATCHES = 1, 2, 4  # of a dry run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    cli.add_config(parser)
    add = parser.add_argument
    add('--norm', metavar='SPEC', help='replace the normalization layers (table below)')
    add(
        '--batch',
        type=_batch,
        metavar='N',
        help='batch size per device; auto is the largest that fits into the memory, accumulated to '
        'the one that the config is for',
    )
    add(
        '--accumulate',
        type=cli.positive_int,
        metavar='N',
        help='gradient accumulation: micro-batches for one step of the optimizer',
    )
    add(
        '--loss-normalizer',
        choices=LOSS_NORMALIZERS,
        help="what divides a detector's losses: window (the default) is that of all micro-batches "
        'and ranks of a step, moving-average that of earlier images, as in detectron2, batch each '
        "micro-batch's own, as in MMDetection",
    )
    add(
        '--lr',
        metavar='LR',
        help='a number, auto for scaling by the rule of the optimizer, as with the two above, or '
        'linear for linear scaling of the learning rate alone',
    )
    add(
        '--epochs',
        type=cli.positive_int,
        metavar='N',
        help='length of training; the schedule is stretched to it',
    )
    add('--seed', type=cli.seed, metavar='N', help='of weights, order and augmentation')
    add(
        '--noise-scale',
        type=cli.positive_int,
        nargs='?',
        const=200,
        metavar='STEPS',
        help='measure the gradient noise scale every 200 steps (4%% more time)',
    )
    add('--scratch', action='store_true', help='random weights, nothing frozen, no download')
    add(
        '--load-from',
        metavar='CKPT',
        help='start from the weights of this model, of any classes: a file, card://NAME, '
        'hf://... or https://...',
    )
    add('--resume', nargs='?', const='auto', metavar='CKPT', help='resume from the last checkpoint')
    add('--amp', action='store_true', help='mixed precision (a GPU is needed)')
    add(
        '--lean',
        action='store_true',
        help='less memory: recompute cheap layers in the backward pass',
    )
    add(
        '--dry-run',
        action='store_true',
        help='measure memory and time at batch 1, 2 and 4, and write nothing',
    )
    cli.add_launcher(parser)
    cli.add_common_options(parser)


def _batch(text: str) -> int | str:
    try:
        return text if text == AUTO else cli.positive_int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text}: give a number or {AUTO}') from None


def when_stopped(args: argparse.Namespace) -> str:
    """What to say after Ctrl-C."""
    if args.dry_run or args.batch == AUTO:  # which is replaced before the training
        return 'stopped; nothing was written'
    return 'stopped; the same command with --resume goes on from the last checkpoint'


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.options.config import build_config
    from sbzoo.engine.ranks import one_voice
    from sbzoo.engine.train import next_command, show, train

    if args.dry_run or args.batch == AUTO:
        _check_can_measure(args)
    if args.batch == AUTO:
        _choose_batch(args)
    if args.dry_run:
        _measure(args)
        return
    with one_voice(args.launcher):
        runner, metrics = train(build_config(args), args.resume)
        show(runner, metrics, next_command(runner))


def _check_can_measure(args: argparse.Namespace) -> None:
    option = '--dry-run' if args.dry_run else f'--batch {AUTO}'
    if args.launcher != 'none':
        raise UserError(f'{option}: measure on one device, and give --batch N to all')
    if args.batch == AUTO and args.accumulate:
        raise UserError(f'--batch {AUTO}: it chooses --accumulate, so leave that out')


def _choose_batch(args: argparse.Namespace) -> None:
    """Put the largest batch size that fits in the place of `auto`."""
    from sbzoo.engine.dry_run import fit
    from sbzoo.engine.options.config import build_config

    logging.disable()  # the run itself will say it all
    found = fit(build_config(argparse.Namespace(**vars(args) | dict(batch=None))))
    logging.disable(logging.NOTSET)
    print(found.reason)
    args.batch, args.accumulate = found.batch, found.accumulate


def _measure(args: argparse.Namespace) -> None:
    from rich.console import Console

    from sbzoo.engine.dry_run import dry_run
    from sbzoo.engine.options.config import build_config

    own = {args.batch} if args.batch else set()
    report = dry_run(build_config(args), sorted({*BATCHES, *own}))
    words = [word for word in sys.argv[1:] if word not in ('train', '--dry-run')]
    if not own & set(report.fitting):
        words += ['--batch', AUTO]
    console = Console(highlight=False, markup=False)
    console.print(report.heading, soft_wrap=True)
    console.print(report.table)
    console.print(f'next:    {command("train", *words)}', soft_wrap=True)
