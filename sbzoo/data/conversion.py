"""Folders of other formats in the COCO format: converted once, into the cache."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import track

from sbzoo.data.coco import SPLITS, CocoFolder, read_split, refuse, sound_folder
from sbzoo.data.coco_checks import SOURCE, Split
from sbzoo.data.embedded import ensure_built
from sbzoo.data.picture_headers import read_pictures
from sbzoo.errors import UserError
from sbzoo.paths import cache_dir

VERSION = 1  # of the cache: increase it when the same labels are converted otherwise
DECIMALS = 3  # of a pixel
_KEY = 16  # digits of a sha256
Size = tuple[int, int]  # width and height in pixels


class Fault(NamedTuple):
    """What is wrong with labels: where, what was read, and what would be valid."""

    place: str
    got: str
    valid: str

    def __str__(self) -> str:
        return f'{self.place}: {self.got}; {self.valid}'


class Object(NamedTuple):
    """One labelled object.

    ``place`` is the file and the line of it; ``box`` is x, y, width, height and ``polygon``
    x1, y1, x2, y2, ..., both in pixels. A crowd is left out of training and of evaluation.
    """

    place: str
    name: str
    box: list[float]
    polygon: list[float] | None = None
    is_crowd: bool = False


@dataclass
class Labels:
    """What a label file holds, and what is wrong in it."""

    objects: list[Object] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class Item(NamedTuple):
    """A picture and its label file, or None if the picture is background."""

    picture: Path
    labels: Path | None


@dataclass(frozen=True)
class Source:
    """A folder of another format.

    ``splits`` has the items of 'train' and 'val', and ``read`` returns what a label file holds,
    given the size of its picture. Where there are no ``classes``, they are the names that the
    training split has. ``faults`` are of the layout.
    """

    format: str
    root: Path
    splits: dict[str, list[Item]]
    read: Callable[[Path, Size], Labels]
    classes: tuple[str, ...] | None = None
    faults: tuple[Fault, ...] = ()

    def name(self, path: Path) -> str:
        """A path relative to the folder."""
        return os.path.relpath(path, self.root)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers.

    Raises:
        UserError: The file is not in UTF-8.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not a list in UTF-8: {error}') from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def missing_split(root: Path, split: str, wanted: str, cure: str) -> UserError:
    """That there is no split 'train' or 'val', what was looked for, and how to make one."""
    name = dict(train='training', val='validation')[split]
    return UserError(f'{root}: no {name} split (looked for {wanted}): {cure}')


def read_source(
    source: Source, drop_empty_boxes: bool = False, allow_leaks: bool = False
) -> CocoFolder:
    """Convert a folder unless it has been, and check it as one in the COCO format.

    The conversion is kept in the cache (`converted/*/`) under the names, sizes and modification
    times of labels and pictures. Pictures stay where they are.

    Raises:
        UserError: Labels or pictures are malformed; the message lists them, or the first of each
            kind and how many more there are.
    """
    _refuse(source, source.faults)
    folder = cache_dir() / 'converted' / f'{source.root.resolve().name}-{_key(source)}'
    ensure_built(folder, partial(_write, source))
    train, val = (_read_split(source, folder, split) for split in SPLITS)
    return sound_folder(source.root, train, val, drop_empty_boxes, allow_leaks, source.format)


def _refuse(source: Source, faults: Iterable[Fault]) -> None:
    """Raise all the faults as one error, a list for each kind."""
    kinds = defaultdict(list)
    for fault in faults:
        kinds[fault.valid].append(str(fault))
    refuse(source.root, f'{source.format} labels', kinds.values())


def _key(source: Source) -> str:
    files = [
        (split, *map(_stamp, item)) for split, items in source.splits.items() for item in items
    ]
    content = VERSION, source.format, os.path.abspath(source.root), source.classes, files
    return hashlib.sha256(repr(content).encode('utf-8', 'surrogateescape')).hexdigest()[:_KEY]


def _stamp(path: Path | None) -> tuple | None:
    if path is None:
        return None
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _read_split(source: Source, folder: Path, split: str) -> Split:
    return read_split(split, folder / f'{split}.json', [source.root], _pictures_key(source, split))


def _pictures_key(source: Source, split: str) -> str:
    return os.path.join(os.path.abspath(source.root), split)


def _write(source: Source, folder: Path) -> str:
    """Write an annotation file for each split, and return their sha256."""
    faults, images = [], {}
    for split in source.splits:
        images[split] = list(_read_images(source, split, faults))
    classes = source.classes or _classes(images['train'])
    _refuse(source, faults or _unknown(images['val'], classes))
    digest = hashlib.sha256()
    for split, found in images.items():
        text = json.dumps(_coco(found, classes))
        (folder / f'{split}.json').write_text(text, encoding='utf-8')
        digest.update(text.encode())
    return digest.hexdigest()


class _Image(NamedTuple):
    name: str
    size: Size
    objects: list[Object]


def _read_images(source: Source, split: str, faults: list[Fault]) -> Iterator[_Image]:
    """The sound images of a split; the faults of the others are put into the list."""
    items = source.splits[split]
    pictures = read_pictures((str(i.picture) for i in items), _pictures_key(source, split))
    for item in track(items, f'{source.format} {split}'):
        picture, name = pictures[str(item.picture)], source.name(item.picture)
        if picture.fault:
            faults.append(Fault(name, picture.fault, 'a picture has to be whole'))
            continue
        labels = source.read(item.labels, picture.size) if item.labels else Labels()
        faults += labels.faults
        yield _Image(name, picture.size, labels.objects)


def _classes(images: list[_Image]) -> tuple[str, ...]:
    """The names there are, by number or by alphabet."""
    names = {found.name for image in images for found in image.objects}
    return tuple(sorted(names, key=lambda n: (int(n) if n.isdecimal() else math.inf, n)))


def _unknown(images: list[_Image], classes: tuple[str, ...]) -> Iterator[Fault]:
    valid = f'the classes of the training split are {", ".join(classes) or "none"}'
    for image in images:
        for found in image.objects:
            if found.name not in classes:
                yield Fault(found.place, f'class {found.name!r}', valid)


def _coco(images: list[_Image], classes: tuple[str, ...]) -> dict[str, list[dict]]:
    ids = {name: i for i, name in enumerate(classes, 1)}
    boxes = [(i, found) for i, image in enumerate(images, 1) for found in image.objects]
    return dict(
        images=[_entry(i, image) for i, image in enumerate(images, 1)],
        annotations=[
            dict(id=n, image_id=i, category_id=ids[found.name], **_annotation(found))
            for n, (i, found) in enumerate(boxes, 1)
        ],
        categories=[dict(id=i, name=name) for name, i in ids.items()],
    )


def _entry(number: int, image: _Image) -> dict:
    width, height = image.size
    return dict(id=number, file_name=image.name, width=width, height=height)


def _annotation(found: Object) -> dict:
    box = [round(value, DECIMALS) for value in found.box]
    segmentation = {}
    area = box[2] * box[3]
    if found.polygon:
        segmentation = dict(segmentation=[[round(v, DECIMALS) for v in found.polygon]])
        area = polygon_area(found.polygon)
    crowd = int(found.is_crowd)
    return {'bbox': box, 'area': area, 'iscrowd': crowd, **segmentation, SOURCE: found.place}


def polygon_area(polygon: list[float]) -> float:
    """The area of x1, y1, x2, y2, ... by the shoelace formula."""
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
