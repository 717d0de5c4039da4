#!/usr/bin/env python
"""Generate images: sample a GAN, walk between its samples, or translate a folder."""

import argparse
from pathlib import Path

from torch import nn

from sbzoo.engine import cli

EXAMPLES = """
examples:
  python tools/generate.py configs/dcgan_in_b2.py work_dirs/dcgan_in_b2 --num 64 --out samples.png
  python tools/generate.py configs/dcgan_in_b2.py work_dirs/dcgan_in_b2 --num 5000 --out samples/
  python tools/generate.py configs/dcgan_in_b2.py work_dirs/dcgan_in_b2 --num 5 --interpolate 8
  python tools/generate.py configs/cyclegan_in_b1.py work_dirs/cyclegan_in_b1 --input photos/

Image number i comes from seed SEED + i alone, so it is the same in any batch and on any device.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    cli.add_config(parser)
    add = parser.add_argument
    add('checkpoint', help='a checkpoint, or a work directory for its newest')
    add('--num', type=cli.positive_int, default=64, metavar='N', help='how many (64)')
    add('--seed', type=int, default=0, metavar='N', help='of the first image (0)')
    add(
        '--out',
        type=Path,
        default=Path('samples.png'),
        help='FILE.png for a grid, FILE.npz for pixels [N, H, W, 3], a new folder for a PNG each',
    )
    add('--labels', nargs='+', type=int, metavar='CLASS', help='of a conditional GAN; go round')
    add('--truncation', type=float, metavar='PSI', help='0 to 1: likelier, less varied (StyleGAN2)')
    add(
        '--interpolate',
        type=cli.positive_int,
        metavar='STEPS',
        help='walk from each of the NUM seeds to the next',
    )
    add('--input', type=Path, metavar='DIR', help='translate the images of this folder')
    add('--debug', action='store_true', help='show tracebacks and warnings')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.configs import load_config
    from sbzoo.engine.generate import load_model, save

    model = load_model(load_config(args.config), args.checkpoint)
    images, num, columns = pictures(model, args)
    out = save(images, num, args.out, columns)
    print(f'{num} images: {out}')
    if out.is_dir():
        print(f'next:    python tools/fid.py REAL_FOLDER {out}')


def pictures(model: nn.Module, args: argparse.Namespace) -> tuple:
    """The images that the options ask for, how many, and in how many columns of a grid."""
    from sbzoo.data.images import image_files

    from sbzoo.engine import generate
    from sbzoo.errors import UserError
    from sbzoo.gan.translation import Translation

    if isinstance(model, Translation):
        if not args.input:
            raise UserError(f'{args.config}: a translation model; give --input DIR')
        files = image_files(args.input)
        return generate.translate(model, files, model.image_size), len(files), generate.COLUMNS
    if args.input:
        raise UserError('--input: this GAN makes images of noise; leave it out')
    options = {} if args.truncation is None else dict(truncation=args.truncation)
    seeds = range(args.seed, args.seed + args.num)
    if args.interpolate:
        if args.num < 2:
            raise UserError('--interpolate: give --num 2 or more, the images to walk between')
        images = generate.interpolate(model, seeds, args.interpolate, **options)
        return images, (args.num - 1) * args.interpolate, args.interpolate
    return generate.sample(model, seeds, args.labels, **options), args.num, generate.COLUMNS


if __name__ == '__main__':
    arguments = parse_args()
    cli.run(lambda: main(arguments), arguments.debug)
