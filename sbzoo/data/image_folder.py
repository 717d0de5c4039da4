"""Image folders: validated and decoded once into RGB centre crops, kept in a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from sbzoo.errors import UserError
from sbzoo.files import replacing
from sbzoo.images import SHOWN, center_crop, find_images, to_rgb, upright_size
from sbzoo.paths import cache_dir

Size = tuple[int, int]  # width and height in pixels
VERSION = 2  # of the cache: increase it when the same file decodes to other pixels
_Reader = Callable[..., Any]  # of an open image and the half to take of it


@dataclass(frozen=True)
class ImageFolder:
    """The images below a folder, sorted by name.

    ``classes`` are the names of the sub-folders, if labels were asked for. ``half`` is the part of
    every file that is the image, where a file holds two images side by side.
    """

    root: Path
    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None = None
    half: Literal['left', 'right'] | None = None

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self.paths)

    @property
    def labels(self) -> list[int] | None:
        """The index into `classes` of every image."""
        if self.classes is None:
            return None
        index = {name: i for i, name in enumerate(self.classes)}
        return [index[self.name(path).split('/')[0]] for path in self.paths]

    def read_sizes(self) -> tuple[Size, ...]:
        """Width and height of every image, from its header.

        Raises:
            UserError: Headers that cannot be read, by name.
        """
        return tuple(_each(self, 'sizes', _header))

    def name(self, path: Path) -> str:
        """A path relative to the folder."""
        return path.relative_to(self.root).as_posix()


def read_image_folder(root: str | Path, labels: bool = False) -> ImageFolder:
    """Find the images in a folder and all folders below; names that begin with a dot are skipped.

    Args:
        root: The folder.
        labels: Whether its sub-folders are classes.

    Raises:
        UserError: No such folder, no images in it or, with labels, images outside of sub-folders.
    """
    root = Path(root)
    paths = find_images(root)
    return ImageFolder(root, paths, _classes(root, paths) if labels else None)


def _classes(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    parts = [path.relative_to(root).parts for path in paths]
    stray = [names[0] for names in parts if len(names) == 1]
    if stray:
        raise UserError(
            f'{root}: {listed(stray, "image")} in no sub-folder, so of no class; '
            f'labels are read from folders such as {root}/cat/1.png'
        )
    return tuple(sorted({names[0] for names in parts}))


def listed(names: list[str], what: str) -> str:
    """The number of things and the names of the first."""
    more = ', ...' * (len(names) > SHOWN)
    return f'{len(names)} {what}{"s" * (len(names) > 1)} ({", ".join(names[:SHOWN])}{more})'


def decode(folder: ImageFolder, size: int) -> np.ndarray:
    """All images of a folder as RGB centre crops, uint8 [N, size, size, 3].

    They are decoded once, which finds the broken ones, into one file of the cache
    (`decoded/*.npy`, 3 * size ** 2 bytes per image). It is memory-mapped, so that training does not
    wait for decoding and folders may be larger than memory. Its key is made of the names, sizes and
    modification times of the images.

    Args:
        folder: The images.
        size: The side in pixels.

    Raises:
        UserError: Images that cannot be decoded, by name.
    """
    file = cache_dir() / 'decoded' / f'{_key(folder, size)}.npy'
    if not file.exists():
        _write(file, folder, size)
    return np.load(file, mmap_mode='r')


def _key(folder: ImageFolder, size: int) -> str:
    """Versions are part of it, as a new one of Pillow or of ours may decode other pixels."""
    stats = [(os.path.abspath(path), os.stat(path)) for path in folder.paths]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return hashlib.sha256(
        repr((PIL.__version__, VERSION, size, folder.half, files)).encode()
    ).hexdigest()


def _write(file: Path, folder: ImageFolder, size: int) -> None:
    shape = (folder.num_images, size, size, 3)
    # Written, not memory-mapped: a full disk raises here, and crashes there.
    with replacing(file) as out:
        header = dict(descr='|u1', fortran_order=False, shape=shape)
        np.lib.format.write_array_header_1_0(out, header)
        for pixels in _each(folder, 'decoding', partial(_square, size=size)):
            out.write(pixels.tobytes())


def _each(folder: ImageFolder, what: str, read: _Reader) -> Iterator:
    """Read every image, and raise all faults as one error at the end."""
    faults = []
    tried = in_threads(
        partial(_try, read, half=folder.half), folder.paths, f'{what} {folder.root.name}'
    )
    for path, (found, fault) in zip(folder.paths, tried, strict=True):
        if fault:
            faults.append(f'{folder.name(path)}: {fault}')
        else:
            yield found
    if faults:
        more = [f'... and {len(faults) - SHOWN} more'] * (len(faults) > SHOWN)
        count = f'{len(faults)} of {folder.num_images} images cannot be read'
        raise UserError('\n  '.join([f'{folder.root}: {count}', *faults[:SHOWN], *more]))


def in_threads(read: Callable[[Any], Any], paths: Collection, what: str) -> Iterator:
    """What `read` returns for each path, in their order, under a progress bar."""
    pool = ThreadPoolExecutor()
    try:
        yield from track(pool.map(read, paths), what, total=len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C and a full disk do not wait for the rest


def _try(read: _Reader, path: Path, half: str | None) -> tuple[Any, str | None]:
    """What `read` returns for a file, and its fault."""
    try:
        with Image.open(path) as image:
            return read(image, half=half), None
    except UnidentifiedImageError:
        return None, 'empty' if path.stat().st_size == 0 else 'not an image'
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        return None, str(error) or type(error).__name__


def _header(image: Image.Image, half: str | None) -> Size:
    width, height = upright_size(image)
    return _part(width, half), height


def _part(width: int, half: str | None) -> int:
    if half and width % 2:
        raise ValueError(f'its width of {width} is odd, so it is not two images side by side')
    return width // 2 if half else width


def _square(image: Image.Image, half: str | None, size: int) -> np.ndarray:
    whole = to_rgb(image)
    width, height = _part(whole.width, half), whole.height
    if half:
        left = width if half == 'right' else 0
        whole = whole.crop((left, 0, left + width, height))
    return np.asarray(center_crop(whole, size))
