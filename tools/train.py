#!/usr/bin/env python
"""Train a detector. First run: python tools/train.py configs/retinanet_gn_b2.py"""

import argparse

from sbzoo.engine import cli
from sbzoo.norm import norm_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f'norms:\n{norm_table()}\n\n'
        'examples:\n'
        '  python tools/train.py configs/retinanet_gn_b2.py --norm ln --batch 1\n'
        '  python tools/train.py mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py \\\n'
        '      --norm gn --batch 2 --data /my/coco --scratch\n',
    )
    add = parser.add_argument
    add('config', help='a config file, or mmdet::FOLDER/FILE.py for one of MMDetection')
    add('--data', metavar='DIR', help='a COCO-format folder; its annotations are checked first')
    add('--drop-empty-boxes', action='store_true', help='boxes without area are no error')
    add('--norm', metavar='SPEC', help='turn every norm of the model (table below)')
    add('--batch', type=cli.positive_int, metavar='N', help='images a step and device')
    add('--lr', metavar='LR', help='a number, or auto for linear scaling; auto with --batch')
    add('--epochs', type=cli.positive_int, metavar='N', help='the schedule is stretched to them')
    add('--seed', type=int, metavar='N', help='of weights, order and augmentation')
    add('--scratch', action='store_true', help='random weights, nothing frozen, no download')
    add('--work-dir', metavar='DIR', help='default: work_dirs/CONFIG')
    add('--resume', nargs='?', const='auto', metavar='CKPT', help='go on from the last checkpoint')
    add('--amp', action='store_true', help='mixed precision (a GPU is needed)')
    add('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    add('--cfg-options', nargs='+', metavar='K=V', help='any other change of the config')
    add('--debug', action='store_true', help='show tracebacks and warnings')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.detection import show, train
    from sbzoo.engine.recipe import build_config

    cfg = build_config(args)
    runner, metrics = train(cfg, args.resume)
    show(runner, metrics, f'python tools/test.py {args.config} {runner.work_dir}')


if __name__ == '__main__':
    arguments = parse_args()
    cli.run(lambda: main(arguments), arguments.debug)
