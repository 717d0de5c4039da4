"""FID between two sets of images, and other distances, on pytorch-fid's weights or on others."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from sbzoo.tools import cli

if TYPE_CHECKING:
    from sbzoo.metrics.compare import Comparison

EXAMPLES = r"""
REAL and FAKE are folders, .npz files of statistics in pytorch-fid's format or of images as
tools/generate.py writes them (uint8 [N, H, W, 3]), or card://NAME for samples of the generator of a
model card. FID is biased by the number of images: compare figures of
the same number alone. With fewer than a few thousand, read --kid instead.

Images are found and read as in training. On 8-bit RGB files in one folder that is what pytorch-fid
does. Elsewhere it differs: it leaves out .gif, .PNG in capitals and the folders inside, turns no
photograph upright by its EXIF, takes transparent pixels for opaque (here: on white) and clips 16
bits to 8 (here: scaled).

examples:
  python tools/fid.py photographs samples
  python tools/fid.py photographs samples --kid --prdc
  python tools/fid.py photographs --save-stats photographs.npz
  python tools/fid.py photographs.npz samples --json
  python tools/fid.py photographs samples.npz
  python tools/fid.py digits/test samples --extractor digits --kid
  python tools/fid.py digits/train card://dcgan_in_b2 --num 299 --extractor digits
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    add = parser.add_argument
    add('real', metavar='REAL', help='the real images')
    add('fake', metavar='FAKE', nargs='?', help='the generated images')
    add(
        '--num',
        type=cli.positive_int,
        default=5000,
        metavar='N',
        help='images of a card, from the seeds 0 to N - 1 (5,000)',
    )
    add('--extractor', default='inception', metavar='NAME', help='inception, digits or timm:MODEL')
    add('--weights', metavar='FILE', help='of the extractor; else where they usually are')
    add('--dims', type=int, choices=(64, 192, 768, 2048), help='of Inception; 2048 is FID')
    add('--batch-size', type=cli.positive_int, default=50, metavar='N', help='images (50)')
    add('--num-workers', type=cli.count, default=min(8, os.cpu_count()), metavar='N')
    add('--save-stats', metavar='OUT.npz', help='keep the statistics of REAL')
    add('--kid', action='store_true', help='KID (unbiased MMD), for few images too')
    add('--prdc', action='store_true', help='k-NN precision and recall, density, coverage')
    add(
        '--infinity',
        action='store_true',
        help='FID-infinity: of infinitely many generated images',
    )
    cli.add_launcher(parser)
    add('--json', action='store_true', help='print JSON instead of a table')


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.ranks import join, one_voice

    with one_voice(args.launcher):
        join(args.launcher)
        with redirect_stdout(sys.stderr):  # what libraries say is not the result
            comparison = _compare(args)
        if args.json:
            warning = '; '.join(comparison.warnings) or None
            report = dict(metrics=comparison.metrics, protocol=comparison.protocol, warning=warning)
            print(json.dumps(report, indent=1))
        else:
            print(comparison)


def _compare(args: argparse.Namespace) -> Comparison:
    """What the options compare."""
    from sbzoo.metrics.compare import compare
    from sbzoo.zoo.samples import open_card

    return compare(
        *(open_card(source, args.num) for source in (args.real, args.fake) if source),
        extractor=f'{args.extractor}:{args.dims}' if args.dims else args.extractor,
        weights=args.weights,
        kid=args.kid,
        prdc=args.prdc,
        infinity=args.infinity,
        save_stats=args.save_stats,
        batch_size=args.batch_size,
        workers=args.num_workers,
    )
