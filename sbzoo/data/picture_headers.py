"""What a detector will read of each picture, seen before training and kept in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import mmcv
import PIL

from sbzoo.data.image_folder import in_threads
from sbzoo.files import write
from sbzoo.images import ENDS, read_header
from sbzoo.paths import cache_dir

VERSION = 1  # of the cache: increase it when the same file is read otherwise
Size = tuple[int, int]  # width and height in pixels


class Picture(NamedTuple):
    """The size that a detector reads, or what is wrong with the file, and whether EXIF turns it."""

    size: Size
    turned: bool
    fault: str = ''


def read_pictures(paths: Iterable[str], name: str) -> dict[str, Picture]:
    """What MMDetection reads of each picture.

    JPEG and PNG are told by `read_header`, turned upright by their EXIF. All others, and what EXIF
    turns, are decoded once by mmcv, which makes of them what it will make of them in training.

    Sound pictures are kept in the cache (`pictures/*.json`) under path, size and modification time,
    so that the next start looks at new ones alone.

    Args:
        paths: The files.
        name: Of the set, for the cache and the progress bar.
    """
    file = cache_dir() / 'pictures' / f'{_key(name)}.json'
    stamps = {path: _stamp(path) for path in paths}
    kept = {
        path: Picture(tuple(size), turned)
        for path, (stamp, size, turned) in _load(file).items()
        if stamp == stamps.get(path)
    }
    new = [path for path in stamps if path not in kept]
    if new:
        found = in_threads(_read, new, f'headers {os.path.basename(name)}')
        kept |= zip(new, found, strict=True)
        sound = {p: (stamps[p], kept[p].size, kept[p].turned) for p in stamps if not kept[p].fault}
        write(file, json.dumps(sound).encode())
    return kept


def _key(name: str) -> str:
    return sha256(repr((VERSION, PIL.__version__, mmcv.__version__, name)).encode()).hexdigest()


def _stamp(path: str) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


def _load(file: Path) -> dict[str, tuple]:
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):  # none yet, or damaged: made anew
        return {}


def _read(path: str) -> Picture:
    try:
        header = read_header(path)
        turned = header.orientation != 1
        if header.format in ENDS and not turned:
            return Picture(header.size, turned)
        pixels = mmcv.imread(path)
    except Exception as error:  # OpenCV's are of no common kind
        return Picture((0, 0), False, str(error))
    if pixels is None:
        return Picture((0, 0), turned, f'OpenCV cannot decode it ({header.format})')
    return Picture(pixels.shape[1::-1], turned)
