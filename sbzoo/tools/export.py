"""Export a model to ONNX or torch.export, and compare the file with torch on real pictures."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sbzoo.tools import cli

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from sbzoo.zoo.export import Exportable, Exported
    from sbzoo.zoo.load import Detector, Translator

EXAMPLES = """
examples:
  python tools/export.py --card retinanet_gn_b2
  python tools/export.py work_dirs/retinanet_gn_b2 --nms --out detector.onnx
  python tools/export.py --card dcgan_in_b2 --format torch
  python tools/export.py mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py model.pth \\
      --input photos/ --size 800 1216
"""
SUFFIXES = dict(onnx='.onnx', torch='.pt2')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    cli.add_model(parser)
    add = parser.add_argument
    add('--format', choices=SUFFIXES, default='onnx', help='onnx (default), or torch.export')
    add('--out', type=Path, metavar='FILE', help='a new file (NAME.onnx or NAME.pt2)')
    add(
        '--nms',
        action='store_true',
        help='boxes, scores and labels in the place of raw heads, as two-stage detectors always',
    )
    add(
        '--size',
        nargs=2,
        type=cli.positive_int,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the input of a detector (that of the first picture)',
    )
    add('--input', nargs='+', metavar='PATH', help="pictures to compare on (the config's own)")
    add('--pictures', type=cli.positive_int, default=20, metavar='N', help='how many (20)')
    add('--tolerance', type=float, default=1e-3, help='largest difference from torch (0.001)')


def main(args: argparse.Namespace) -> None:
    from rich.console import Console

    from sbzoo.zoo.export import export

    out = output(args)
    given = exportable(args)
    exported = export(given, out, args.tolerance)
    console = Console(highlight=False, markup=False, emoji=False)  # paths are as they are
    console.print(table(given, exported))
    of = f'{len(given.inputs)} {"pictures" if "image" in given.input_names else "seeds"}'
    console.print(f'largest difference from torch on {of}: {exported.difference:.2g}')
    console.print(f'written: {out}', soft_wrap=True)
    console.print(f'next:    {how_to_run(given, out)}', soft_wrap=True)


def output(args: argparse.Namespace) -> Path:
    """The new file.

    Raises:
        UserError: It exists, or has the suffix of another format.
    """
    from sbzoo.errors import UserError

    suffix = SUFFIXES[args.format]
    name = args.card or Path((args.config or '').rpartition('://')[2]).stem
    out = args.out or Path(name + suffix)
    if out.suffix != suffix:
        raise UserError(f'--out {out}: the suffix of --format {args.format} is {suffix}')
    if out.exists():
        raise UserError(f'{out}: exists already; give a new file by --out')
    return out


def exportable(args: argparse.Namespace) -> Exportable:
    """The network and the inputs that the options name.

    Raises:
        UserError: They name none, or options of another kind of model.
    """
    from sbzoo.errors import UserError
    from sbzoo.zoo import export, load

    model = cli.load_model(args, 'cpu')
    given = [f'--{name}' for name in ('nms', 'size') if getattr(args, name)]
    if given and not isinstance(model, load.Detector):
        raise UserError(f'{given[0]}: of detectors, and this is a {type(model).__name__.lower()}')
    if isinstance(model, load.Generator):
        return export.of_generator(model, args.pictures)
    if isinstance(model, load.Translator):
        return export.of_translator(model, pictures(args, model))
    return export.of_detector(
        model, pictures(args, model), args.size and tuple(args.size), args.nms
    )


def pictures(args: argparse.Namespace, model: Detector | Translator) -> list[Tensor]:
    """What the model makes of the first pictures of `--input`, or of its validation set.

    Raises:
        UserError: There are none, or one cannot be read.
    """
    from sbzoo.data.frames import open_input
    from sbzoo.errors import UserError
    from sbzoo.zoo.export import validation_pictures

    if not args.input:
        return validation_pictures(model, args.pictures)
    source = open_input(args.input)
    found = [model.prepare(frame.pixels) for frame in islice(source, args.pictures)]
    if source.faults:
        raise UserError(source.faults[0])
    return [item['inputs'] if isinstance(item, dict) else item for item in found]


def table(given: Exportable, exported: Exported) -> Table:
    """Inputs and outputs with their shapes."""
    from rich.table import Table

    nodes = f', {exported.nodes} nodes' if exported.nodes else ''
    result = Table('', 'name', f'shape{nodes}')
    for name, shape in exported.shapes.items():
        kind = 'input' if name in given.input_names else 'output'
        found = given.finds and kind == 'output'
        result.add_row(kind, name, ' x '.join(map(str, ['K', *shape[1:]] if found else shape)))
    return result


def how_to_run(given: Exportable, out: Path) -> str:
    """The file in Python."""
    if out.suffix == SUFFIXES['torch']:
        return f'torch.export.load({str(out)!r}).module()({", ".join(given.input_names)})'
    inputs = ', '.join(f'{name!r}: {name}' for name in given.input_names)
    return f'onnxruntime.InferenceSession({str(out)!r}).run(None, {{{inputs}}})'
