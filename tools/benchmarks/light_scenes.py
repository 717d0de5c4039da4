"""A picture of the light scenes, plain and each in its own light."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from PIL import Image, ImageOps

from benchmarks import output
from sbzoo.data.embedded.digit_scenes import SPLITS
from sbzoo.data.embedded.light_scenes import scenes
from sbzoo.engine.visualize import save_png

COUNT, COLUMNS, TILE, GAP = 24, 12, 80, 4  # tiles in pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    output.add_out(parser, 'light_scenes.png')


def run(args: argparse.Namespace) -> None:
    """Draw the first validation pictures at strength 0 above, and at strength 1 below."""
    rows, step = COUNT // COLUMNS, TILE + GAP
    sheet = Image.new('RGB', (COLUMNS * step, 2 * rows * step + GAP), 'white')
    for half, percent in enumerate((0, 100)):
        for index, tile in enumerate(_tiles(percent)):
            row, column = divmod(index, COLUMNS)
            sheet.paste(tile, (column * step, (half * rows + row) * step + half * GAP))
    print(save_png(sheet, args.out))


def _tiles(percent: int) -> Iterator[Image.Image]:
    split = replace(SPLITS[1], num_images=COUNT)
    for scene in scenes(split, percent):
        picture = ImageOps.contain(Image.fromarray(scene.pixels), (TILE, TILE))
        yield ImageOps.pad(picture, (TILE, TILE), color='white')
