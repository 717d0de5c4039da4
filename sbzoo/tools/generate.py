"""Generate images: sample a GAN, interpolate between its samples, or translate a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sbzoo.paths import command
from sbzoo.tools import cli

if TYPE_CHECKING:
    from mmengine.config import Config

    from sbzoo.gan.models.base import AdversarialModel

EXAMPLES = """
examples:
  python tools/generate.py configs/dcgan_in_b2.py work_dirs/dcgan_in_b2 --num 64 --out samples.png
  python tools/generate.py configs/dcgan_in_b2.py work_dirs/dcgan_in_b2 --num 5000 --out samples/
  python tools/generate.py configs/dcgan_in_b2.py work_dirs/dcgan_in_b2 --num 5 --interpolate 8
  python tools/generate.py --card dcgan_in_b2 --num 64 --out samples.png
  python tools/generate.py --card sngan_hybrid_b2 --labels 3 7 --out samples.png
  python tools/generate.py configs/cyclegan_in_b1.py work_dirs/cyclegan_in_b1 --input photos/

Image number i comes from seed SEED + i alone, so it is the same in any batch and on any device.
"""

SAMPLING = 'num', 'seed', 'labels', 'truncation', 'interpolate'  # options of GANs alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    add = parser.add_argument
    add('config', nargs='?', help='a config file')
    add('checkpoint', nargs='?', help='a checkpoint, or a work directory for its newest')
    add('--card', metavar='NAME', help='a model card instead; `sbzoo cards` lists them')
    add('--num', type=cli.positive_int, metavar='N', help='how many (64)')
    add('--seed', type=cli.seed, metavar='N', help='of the first image (0)')
    add(
        '--out',
        type=Path,
        default=Path('samples.png'),
        help='FILE.png for a grid, FILE.npz for pixels [N, H, W, 3], a new folder for a PNG each; '
        'translations keep the names of their sources',
    )
    add(
        '--labels',
        nargs='+',
        metavar='CLASS',
        help='classes of a conditional GAN by name or number, cycled; an unknown one lists them',
    )
    add(
        '--truncation',
        type=float,
        metavar='PSI',
        help='truncation, 0 to 1: higher fidelity, less variety (StyleGAN2)',
    )
    add(
        '--interpolate',
        type=cli.positive_int,
        metavar='STEPS',
        help='interpolate from each of the NUM seeds to the next, in one class',
    )
    add('--input', type=Path, metavar='DIR', help='translate the images of this folder')


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.sampling import save

    images, names, columns = pictures(*load(args), args)
    out = save(images, names, args.out, columns)
    print(f'{len(names)} images: {out}')
    if out.suffix != '.png':
        print(f'next:    {command("fid", "REAL_FOLDER", out)}')


def load(args: argparse.Namespace) -> tuple[Config, AdversarialModel]:
    """The config and the model that the options name."""
    from sbzoo.checkpoint.cards import card
    from sbzoo.checkpoint.resolve import CARD
    from sbzoo.engine.model import config_of
    from sbzoo.engine.options.config import load_config
    from sbzoo.engine.sampling import load_generator
    from sbzoo.errors import UserError

    if bool(args.card) == bool(args.config) or bool(args.config) != bool(args.checkpoint):
        raise UserError('give a config and a checkpoint, or --card NAME')
    cfg = config_of(card(args.card)) if args.card else load_config(args.config)
    return cfg, load_generator(cfg, f'{CARD}{args.card}' if args.card else args.checkpoint)


def pictures(cfg: Config, model: AdversarialModel, args: argparse.Namespace) -> tuple:
    """The images that the options ask for, their names, and the columns of a grid of them."""
    from sbzoo.engine import sampling
    from sbzoo.errors import UserError
    from sbzoo.gan.models.image_to_image import Translation

    name, translates = args.card or args.config, isinstance(model, Translation)
    if translates != bool(args.input):
        cure = 'translates images: give --input DIR' if translates else 'samples: leave out --input'
        raise UserError(f'{name} {cure}')
    given = [f'--{name}' for name in SAMPLING if getattr(args, name) is not None]
    if args.input and given:
        raise UserError(f'{" ".join(given)}: --input translates each image of its folder, once')
    if args.input:
        return translations(cfg, model, args.input)
    options = {} if args.truncation is None else dict(truncation=args.truncation)
    num, seed = args.num or 64, args.seed or 0
    seeds = range(seed, seed + num)
    if not args.interpolate:
        images = sampling.sample(model, seeds, args.labels, **options)
        return images, sampling.numbered(num), sampling.COLUMNS
    if num < 2:
        raise UserError('--interpolate: give --num 2 or more, the images to interpolate between')
    images = sampling.interpolate(model, seeds, args.interpolate, args.labels, **options)
    return images, sampling.numbered((num - 1) * args.interpolate), args.interpolate


def translations(cfg: Config, model: AdversarialModel, root: Path) -> tuple:
    """The images of a folder, translated at the size that the model was trained for."""
    from sbzoo.data.image_folder import read_image_folder
    from sbzoo.engine import sampling
    from sbzoo.engine.options.parts import leaf

    folder = read_image_folder(root)
    size = leaf(cfg.test_dataloader.dataset).image_size
    return sampling.translate(model, folder, size), sampling.names_of(folder), sampling.COLUMNS
