"""YOLO format, as Ultralytics reads it: finds splits, pictures and labels, and reads label files.

A line of a label file is `class cx cy w h`, a box by its centre, or `class x1 y1 x2 y2 x3 y3 ...`,
a polygon. Coordinates are fractions of the width and height of the picture, upright by its EXIF.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from sbzoo.data.coco import SPLITS
from sbzoo.data.conversion import (
    Fault,
    Item,
    Labels,
    Object,
    Size,
    Source,
    missing_split,
    numbered_lines,
)
from sbzoo.errors import UserError
from sbzoo.images import find_images

FORMAT = 'YOLO'
LAYOUTS = 'images/{}', '{}/images'  # each with `labels` in the place of `images`
NAMES = 'classes.txt', 'labels/classes.txt', 'obj.names'  # of classes, one a line
ROUNDING = 1e-3  # of a picture, by which a coordinate may be past it
LINE = 'a line is class cx cy w h (a box) or class x1 y1 x2 y2 x3 y3 ... (a polygon)'
FRACTION = 'coordinates are fractions of width and height, 0 to 1'


@dataclass(frozen=True)
class _Layout:
    """Where the pictures of each split are, folders or lists of files, and the names of classes."""

    root: Path
    splits: dict[str, list[Path]]
    classes: tuple[str, ...] | None
    cure: str  # for a split that is missing


def find(root: Path) -> Source | None:
    """The data set of a folder, or of its data.yaml; None if it is in another format.

    Without a data.yaml the pictures are in `images/train` and `images/val` or `train/images` and
    `val/images` (`valid`, `validation`, `test`), and the names of classes in `classes.txt` or
    `obj.names`; without these the numbers in the labels are the names.

    Raises:
        UserError: data.yaml is malformed, or a split is missing or has no pictures.
    """
    layout = _layout(root)
    if layout is None:
        return None
    for split, names in SPLITS.items():
        if not layout.splits[split]:
            raise missing_split(root, split, ', '.join(names), layout.cure)
    splits = {split: _items(places) for split, places in layout.splits.items()}
    faults = (f for s in splits for f in _misplaced(layout, s, splits[s]))
    read = partial(read_labels, root=layout.root, classes=layout.classes)
    return Source(FORMAT, layout.root, splits, read, layout.classes, tuple(faults))


def _layout(root: Path) -> _Layout | None:
    files = [root] if root.is_file() else sorted([*root.glob('*.yaml'), *root.glob('*.yml')])
    given = {file: content for file in files if _is_data(content := _yaml(file))}
    if len(given) > 1:
        names = ', '.join(file.name for file in given)
        raise UserError(f'{root}: several of {names}; give one: --data {next(iter(given))}')
    for file, content in given.items():
        return _from_yaml(file, content)
    if root.is_file():
        raise UserError(f'{root}: not a data.yaml, which has names, train and val')
    return _from_folders(root)


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding='utf-8'))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f'{file}: not readable as YAML: {" ".join(str(error).split())}') from error


def _is_data(content: Any) -> bool:
    return isinstance(content, dict) and {'names', 'train'} <= content.keys()


def _from_yaml(file: Path, content: dict) -> _Layout:
    bases = [file.parent / str(content.get('path') or ''), file.parent]
    splits = {
        split: [
            _existing(file, key, place, bases)
            for key in [name for name in names if content.get(name)][:1]
            for place in _listed(content[key])
        ]
        for split, names in SPLITS.items()
    }
    cure = f'{file.name} has to name another folder of pictures, as in `val: images/val`'
    return _Layout(file.parent, splits, _classes(file, content), cure)


def _listed(value: Any) -> list[str]:
    return [str(place) for place in value] if isinstance(value, list) else [str(value)]


def _existing(file: Path, key: str, place: str, bases: list[Path]) -> Path:
    """The folder or list, also where `../` is meant of another folder, as in Roboflow's exports."""
    tried = [base / p for p in (place, place.lstrip('./')) for base in bases]
    for path in tried:
        if path.exists():
            return Path(os.path.normpath(path))
    raise UserError(f'{file}: {key} is {place!r}, and there is no {os.path.normpath(tried[0])}')


def _classes(file: Path, content: dict) -> tuple[str, ...]:
    names, count = content['names'], content.get('nc')
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f'{file}: names has the keys {short([*names])}, not 0, 1, 2, ...')
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f'{file}: names is {short(names)}, not a list of the classes')
    if count is not None and count != len(names):
        raise UserError(f'{file}: nc is {short(count)}, and there are {len(names)} names')
    return _distinct(file, [str(name) for name in names])


def _distinct(file: Path, names: list[str]) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f'{file}: the class {twice!r} is there twice')
    return tuple(names)


def _from_folders(root: Path) -> _Layout | None:
    splits = {split: _first(root, names) for split, names in SPLITS.items()}
    flat = (root / 'images').is_dir() and (root / 'labels').is_dir()
    if not (flat or any(splits.values())):
        return None
    files = (root / name for name in NAMES)
    named = next((file for file in files if file.is_file()), None)
    classes = _distinct(named, [name for _, name in numbered_lines(named)]) if named else None
    cure = 'put pictures into images/train and images/val, labels into labels/train and labels/val'
    return _Layout(root, splits, classes, cure)


def _first(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folder of pictures of the first name that has one beside a folder of labels."""
    folders = (root / layout.format(name) for name in names for layout in LAYOUTS)
    return [f for f in folders if f.is_dir() and _beside(f).is_dir()][:1]


def _beside(path: Path) -> Path:
    """The same path with `labels` in the place of the last `images`, if that is in it."""
    parts = list(path.parts)
    if 'images' in parts:
        parts[len(parts) - 1 - parts[::-1].index('images')] = 'labels'
    return Path(*parts)


def _items(places: list[Path]) -> list[Item]:
    pictures = dict.fromkeys(picture for place in places for picture in _pictures(place))
    labels = ((picture, _beside(picture).with_suffix('.txt')) for picture in pictures)
    return [Item(picture, path if path.is_file() else None) for picture, path in labels]


def _pictures(place: Path) -> Iterator[Path]:
    """Those below a folder, or those that a file lists."""
    if place.is_dir():
        yield from find_images(place)
        return
    for number, name in numbered_lines(place):
        path = place.parent / name
        if not path.is_file():
            raise UserError(f'{place}:{number}: {name}: no such picture')
        yield path


def _misplaced(layout: _Layout, split: str, items: list[Item]) -> Iterator[Fault]:
    """Labels without a picture, labels that two pictures share, and pictures without any label."""
    owners = {}
    for item in items:
        if item.labels and owners.setdefault(item.labels, item.picture) != item.picture:
            names = (os.path.relpath(p, layout.root) for p in (item.picture, owners[item.labels]))
            yield Fault(*names, 'pictures of one name would share their labels')
    folders = {_beside(place): place for place in layout.splits[split] if place.is_dir()}
    if not owners:
        where = ', '.join(os.path.relpath(folder, layout.root) for folder in folders)
        yield Fault(
            split, f'{len(items)} pictures and no label', f'labels are looked for in {where}'
        )
    for folder, place in folders.items():
        for path in sorted(folder.rglob('*.txt')):
            if path not in owners and path.name not in NAMES:
                name = os.path.relpath(path, layout.root)
                valid = f'pictures are looked for in {os.path.relpath(place, layout.root)}'
                yield Fault(name, 'no picture of that name', valid)


def read_labels(
    path: Path, size: Size, root: Path, classes: tuple[str, ...] | None = None
) -> Labels:
    """The objects of a label file, in pixels, and the lines that are none.

    Args:
        path: The file.
        size: Of its picture.
        root: That places are named from.
        classes: The names; without them the numbers are the names.
    """
    found, name = Labels(), os.path.relpath(path, root)
    for number, line in enumerate(path.read_text('utf-8', 'replace').splitlines(), 1):
        place, words = f'{name}:{number}', line.split()
        fault = _fault(words, classes) if words else None
        if fault:
            found.faults.append(Fault(place, *fault))
        elif words:
            found.objects.append(_object(place, words, size, classes))
    return found


def _fault(words: list[str], classes: tuple[str, ...] | None) -> tuple[str, str] | None:
    """What is wrong with the numbers of a line, and what would be valid."""
    count, label = len(words), _number(words[0])
    most = len(classes) - 1 if classes else math.inf
    if (word := _first_without(math.isfinite, words)) is not None:
        return f'{word!r} is no finite number', LINE
    if count != 5 and (count < 7 or count % 2 == 0):
        return f'{count} number{"s" * (count > 1)}', LINE
    if not (0 <= label <= most and label.is_integer()):
        return f'class {words[0]}', f'classes are whole numbers, 0 to {most if classes else "..."}'
    if (word := _first_without(_is_inside, words[1:])) is not None:
        return f'the coordinate {word}', FRACTION
    return None


def _first_without(holds: Callable[[float], bool], words: list[str]) -> str | None:
    return next((word for word in words if not holds(_number(word))), None)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _is_inside(value: float) -> bool:
    return -ROUNDING <= value <= 1 + ROUNDING


def _object(place: str, words: list[str], size: Size, classes: tuple[str, ...] | None) -> Object:
    label, *values = map(float, words)
    name = classes[int(label)] if classes else str(int(label))
    if len(values) == 4:
        cx, cy, w, h = (v * length for v, length in zip(values, (*size, *size), strict=True))
        return Object(place, name, [cx - w / 2, cy - h / 2, w, h])
    points = [min(max(v, 0), 1) * size[i % 2] for i, v in enumerate(values)]
    xs, ys = points[::2], points[1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return Object(place, name, box, points)
