"""Image files: found in a folder, read as RGB, centre cropped, scaled to [-1, 1] and back.

Training, evaluation and FID read every picture by these functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sbzoo.errors import UserError

EXTENSIONS = ('jpg', 'jpeg', 'png', 'bmp', 'webp', 'tif', 'tiff', 'ppm', 'pgm', 'gif')
SUFFIXES = tuple(f'.{extension}' for extension in EXTENSIONS)
SHOWN = 10  # names in a message
TAIL = 2**16  # bytes at the end of a file
ENDS = dict(JPEG=b'\xff\xd9', MPO=b'\xff\xd9', PNG=b'IEND\xaeB`\x82')


def find_images(root: Path) -> tuple[Path, ...]:
    """The images in a folder and all folders below, sorted; names with a dot first are left out.

    Links are followed. Each folder is read once, however many links lead to it, and an image that a
    link repeats counts under its own name.

    Raises:
        UserError: No such folder, or no images in it.
    """
    if not root.is_dir():
        raise UserError(f'{root}: {"not a folder" if root.exists() else "no such folder"}')
    paths = tuple(sorted(_find(root)))
    if not paths:
        held = ', '.join(sorted(os.listdir(root))[:SHOWN]) or 'nothing'
        wanted = ', '.join(EXTENSIONS)
        raise UserError(f'{root}: no images ({wanted}); the folder holds {held}')
    return paths


def _find(root: Path) -> Iterator[Path]:
    found, links = {}, []
    for folder, names in _folders(root):
        real = os.path.realpath(folder)
        for name in names:
            if not name.lower().endswith(SUFFIXES) or name[0] == '.':
                continue
            path = os.path.join(folder, name)
            if os.path.islink(path):
                links.append(path)
            else:
                found[os.path.join(real, name)] = path
    alone = (link for link in links if os.path.realpath(link) not in found)
    yield from map(Path, (*found.values(), *alone))


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder once, with its files: those below by their own names, then those of links."""
    seen, tops = {str(above) for above in root.resolve().parents}, [str(root)]
    for top in tops:  # which grows
        for folder, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if name[0] != '.')
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            tops += (p for name in folders if os.path.islink(p := os.path.join(folder, name)))
            yield folder, files


def read_rgb(path: Path) -> Image.Image:
    """The image of a file in RGB; see `to_rgb`.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:  # Pillow says in many ways that bytes make no image
        raise UserError(f'{path}: cannot be read ({error})') from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB: upright by its EXIF, on white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I'):
        image = _eight_bits(image)
    if image.mode == 'F':
        raise ValueError('its pixels are floating-point numbers of no known range')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that `to_rgb` gives, from the header alone."""
    lies = _orientation(image) >= 5  # a quarter turn, mirrored or not
    return image.size[::-1] if lies else image.size


def _orientation(image: Image.Image) -> int:
    """How EXIF turns the pixels as they are read: 1 is not at all."""
    if image.format == 'TIFF':  # Pillow turns it by itself
        return 1
    exif = Image.Image.getexif(image)  # a PNG's own method would decode it
    return exif.get(ExifTags.Base.Orientation, 1)


class Header(NamedTuple):
    """What an image file says of itself: width and height as stored, and how EXIF turns them."""

    format: str
    size: tuple[int, int]
    orientation: int


def read_header(path: str | Path) -> Header:
    """The header of an image file, of which nothing is decoded.

    Of JPEG and PNG the end is looked for too. What is damaged in between is not seen, nor the end
    of other formats, nor EXIF that comes after the pixels of a PNG.

    Raises:
        ValueError: It is no image, its header is broken, it has more pixels than Pillow opens (179
            million), or it is cut short.
    """
    try:
        with open(path, 'rb') as file, Image.open(file) as image:
            whole = _has_end(file, ENDS.get(image.format, b''))
            found = Header(image.format, image.size, _orientation(image))
    except UnidentifiedImageError as error:
        reason = 'not an image' if os.path.getsize(path) else 'the file is empty'
        raise ValueError(reason) from error
    except Exception as error:  # Pillow says in many ways that bytes make no image
        raise ValueError(f'cannot be read ({error})') from error
    if not whole:
        raise ValueError('the file is cut short')
    return found


def _has_end(file: BinaryIO, end: bytes) -> bool:
    """Whether the marker comes after the header: in the tail, or before what a camera appends."""
    start = file.tell()
    size = file.seek(0, os.SEEK_END)
    for first in (max(start, size - TAIL), start):
        file.seek(first)
        if end in file.read():
            return True
    return False


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f'its grey values of {values.min()} to {values.max()} are not of 16 bits')
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def renamed(names: Sequence[str], suffix: str) -> list[str]:
    """The names of files that are made of images: with another suffix.

    It comes after their own suffixes if some of them differ in these alone.
    """
    stems = [Path(name).with_suffix('').as_posix() for name in names]
    distinct = len(set(stems)) == len(stems)
    return [f'{name}{suffix}' for name in (stems if distinct else names)]


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of an image, a square, at `size` pixels by Lanczos' filter (antialiased)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """The pixels of an RGB image, uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_plus_minus_one(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 in [-1, 1], as generators and discriminators take them."""
    return pixels / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as pixels of 0 to 255, uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
