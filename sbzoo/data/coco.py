"""COCO format: finds and validates the splits of a folder, and names every malformed entry."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from sbzoo.errors import UserError

_Entry = dict[str, Any]
_Entries = dict[str, list[_Entry]]
_Problems = Iterator[tuple[_Entry, str]]
_Files = dict[str, os.DirEntry[str]]

_SHOWN = 10
_SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
# The patterns of a split's annotation files, each with those of the folders for its images.
_LAYOUTS = {
    'annotations/instances_{}*.json': ('{}*', 'images/{}*', '{}*/images', 'images'),
    'annotations/{}.json': ('{}*', 'images/{}*', '{}*/images', 'images'),
    '{}/_annotations.coco.json': ('{}', '{}/images'),
    '{}/labels.json': ('{}/data', '{}'),
}


@dataclass(frozen=True)
class CocoSplit:
    """One annotation file and the folder that its file names are relative to.

    ``classes`` are in the order of the file, as that is how MMDetection's ``CocoDataset`` numbers
    its labels whatever the category ids. ``num_boxes`` counts crowds, ``has_masks`` ignores them.
    """

    ann_file: Path
    image_dir: Path
    classes: tuple[str, ...]
    num_images: int
    num_boxes: int
    has_masks: bool


@dataclass(frozen=True)
class CocoFolder:
    """A training and a validation split with the same categories."""

    root: Path
    train: CocoSplit
    val: CocoSplit

    @property
    def classes(self) -> tuple[str, ...]:
        """The category names, the same in both splits."""
        return self.train.classes


def read_folder(root: str | Path, drop_empty_boxes: bool = False) -> CocoFolder:
    """Find and check the two splits of a COCO-format folder.

    The training annotations are ``annotations/instances_train*.json``, ``annotations/train.json``,
    ``train/_annotations.coco.json`` or ``train/labels.json``. The validation split is the first of
    ``val``, ``valid``, ``validation`` and ``test`` to have such a file.

    Args:
        root: The folder.
        drop_empty_boxes: Let boxes without area pass, which MMDetection drops when it trains.
            COCO's own train2017 has two.

    Returns:
        What the folder holds.

    Raises:
        UserError: A split is missing or ambiguous, or something in one is malformed. The message
            lists every problem, or the first of each kind and how many more there are.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f'{root}: no such folder')
    found = {split: _find(root, names) for split, names in _SPLITS.items()}
    _refuse(root, 'layout', (_unclear(root, split, files) for split, files in found.items()))
    train, val = (_read(root, *file) for files in found.values() for file in files.items())
    between = (_disagreements(train, val), _leaks(train, val))
    checks = [c for c in _CHECKS if not (drop_empty_boxes and c[1] is _no_area)]
    _refuse(root, 'annotations', (*_check(train, checks), *_check(val, checks), *between))
    return CocoFolder(root, _summary(train), _summary(val))


def _find(root: Path, names: Iterable[str]) -> dict[Path, list[Path]]:
    """The annotation files of the first name to have any, each with the folders to search."""
    for name in names:
        found = {
            path: [*_glob(root, folders, name), root]
            for layout, folders in _LAYOUTS.items()
            for path in _glob(root, [layout], name)
        }
        if found:
            return found
    return {}


def _glob(root: Path, patterns: Iterable[str], name: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(root.glob(pattern.format(name)))]


def _unclear(root: Path, split: str, files: Iterable[Path]) -> Iterator[str]:
    names = [os.path.relpath(path, root) for path in files]
    if len(names) > 1:
        yield f'more than one annotation file for {split}: {", ".join(names)}'
    if not names:
        wanted = ', '.join(layout.format(n) for n in _SPLITS[split] for layout in _LAYOUTS)
        there = sorted([*root.glob('*.json'), *root.glob('*/*.json')]) or sorted(root.iterdir())
        held = ', '.join(os.path.relpath(path, root) for path in there[:_SHOWN]) or 'nothing'
        yield f'no annotations for {split}: looked for {wanted}; the folder holds {held}'


def _refuse(root: Path, where: str, kinds: Iterable[Iterable[str]]) -> None:
    """Raise all the problems as one error, if there are any."""
    listed = [list(lines) for lines in kinds]
    count = sum(map(len, listed))
    shown = [f'{root}: {count} problem{"s" * (count > 1)} in the {where}']
    for lines in listed:
        shown += lines[:_SHOWN]
        shown += [f'... and {len(lines) - _SHOWN} more'] * (len(lines) > _SHOWN)
    if count:
        raise UserError('\n  '.join(shown))


class _Kind(NamedTuple):
    """What the value of a field has to be."""

    what: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_ID = _Kind('a whole number', lambda value: type(value) is int)
_NUMBER = _Kind('a finite number', _is_number)
_SIZE = _Kind('a positive number', lambda value: _is_number(value) and value > 0)
_TEXT = _Kind('a non-empty string', lambda value: isinstance(value, str) and value != '')
_BOX = _Kind('four finite numbers', _is_box)
_FLAG = _Kind('0 or 1', lambda value: value in (0, 1))

_FIELDS = {
    'images': {'id': _ID, 'file_name': _TEXT, 'width': _SIZE, 'height': _SIZE},
    'annotations': {
        'id': _ID,
        'image_id': _ID,
        'category_id': _ID,
        'bbox': _BOX,
        # Without the first MMDetection fails when it loads the file, without the second
        # pycocotools fails at the first evaluation: both with a bare KeyError.
        'area': _NUMBER,
        'iscrowd': _FLAG,
    },
    'categories': {'id': _ID, 'name': _TEXT},
}
_ABSENT = {'iscrowd': 0}  # what a field means that may be absent
_LABELS = {
    'images': 'image {id} ({file_name})',
    'annotations': 'annotation {id} (image {image_id})',
    'categories': 'category {id} ({name})',
}


@dataclass(frozen=True)
class _Split:
    """An annotation file as it was read, and those of its images that are on disk."""

    name: str
    path: Path
    faults: list[str]
    entries: _Entries
    image_dir: Path
    files: _Files


def _read(root: Path, path: Path, folders: Iterable[Path]) -> _Split:
    faults, entries = _load(path)
    names = [name for _, name in _each(entries, 'images', 'file_name')]
    found = {folder: _on_disk(folder, names) for folder in folders}
    image_dir = max(found, key=lambda folder: len(found[folder]))
    return _Split(os.path.relpath(path, root), path, faults, entries, image_dir, found[image_dir])


def _load(path: Path) -> tuple[list[str], _Entries]:
    """What is wrong with a file as a whole, and the entries of its sections."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        return [f'not readable as JSON: {error}'], {section: [] for section in _FIELDS}
    content = content if isinstance(content, dict) else {}
    lists = {s: content[s] if isinstance(content.get(s), list) else [] for s in _FIELDS}
    faults = [_wrong(content, s, 'a list with entries') for s in _FIELDS if not lists[s]]
    return faults, {s: [e if isinstance(e, dict) else {} for e in lists[s]] for s in lists}


def _on_disk(folder: Path, names: Iterable[str]) -> _Files:
    """The named files that are there, from one listing of each folder that a name leads to."""
    listing = cache(_listing)
    split = ((name, *os.path.split(os.path.join(folder, name))) for name in names)
    found = ((name, listing(head).get(tail)) for name, head, tail in split)
    return {name: file for name, file in found if file}


def _listing(folder: str) -> _Files:
    try:
        with os.scandir(os.path.realpath(folder)) as entries:
            return {entry.name: entry for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return {}


def _each(entries: _Entries, section: str, field: str) -> Iterator[tuple[_Entry, Any]]:
    """The entries in which a field is as it has to be, with its value."""
    holds = _FIELDS[section][field].holds
    return ((entry, entry[field]) for entry in entries[section] if holds(entry.get(field)))


def _wrong(entry: _Entry, field: str, what: str) -> str:
    return f'{field} is {short(entry[field])}, not {what}' if field in entry else f'no {field}'


def _wrong_values(split: _Split, section: str, field: str) -> _Problems:
    what, holds = _FIELDS[section][field]
    for position, entry in enumerate(split.entries[section]):
        if not holds(entry.get(field, _ABSENT.get(field))):
            place = f' in {section}[{position}]' if field == 'id' else ''
            yield entry, _wrong(entry, field, what) + place


def _repeats(split: _Split, section: str, field: str) -> _Problems:
    seen = set()
    for entry, value in _each(split.entries, section, field):
        if value in seen:
            yield entry, f'duplicate {field} {short(value)}'
        seen.add(value)


def _unknown(split: _Split, field: str, section: str) -> _Problems:
    known = {value for _, value in _each(split.entries, section, 'id')}
    for entry, value in _each(split.entries, 'annotations', field):
        if known and value not in known:
            yield entry, f'{field} {value} is not in {section}'


def _no_area(split: _Split) -> _Problems:
    for entry, box in _each(split.entries, 'annotations', 'bbox'):
        if box[2] <= 0 or box[3] <= 0:
            yield entry, f'box {box} has no area'


def _outside(split: _Split) -> _Problems:
    sizes = {
        image_id: (image['width'], image['height'])
        for image, image_id in _each(split.entries, 'images', 'id')
        if _SIZE.holds(image.get('width')) and _SIZE.holds(image.get('height'))
    }
    for entry, image_id in _each(split.entries, 'annotations', 'image_id'):
        box, size = entry.get('bbox'), sizes.get(image_id)
        if size and _is_box(box) and _misses(box, *size):
            yield entry, f'box {box} is outside its {size[0]}x{size[1]} image'


def _misses(box: list[float], width: float, height: float) -> bool:
    x, y, w, h = box
    return w > 0 and h > 0 and (x >= width or y >= height or x + w <= 0 or y + h <= 0)


def _missing(split: _Split) -> _Problems:
    for image, name in _each(split.entries, 'images', 'file_name'):
        if name not in split.files:
            yield image, f'no such file in {split.image_dir}'


def _empty(split: _Split) -> _Problems:
    for image, name in _each(split.entries, 'images', 'file_name'):
        if name in split.files and not split.files[name].stat().st_size:
            yield image, 'the file is empty'


# Each check with the section its problems are in.
_Checks = Sequence[tuple[str, Callable[[_Split], _Problems]]]
_CHECKS: _Checks = (
    *((s, partial(_wrong_values, section=s, field=f)) for s in _FIELDS for f in _FIELDS[s]),
    ('images', partial(_repeats, section='images', field='id')),
    ('annotations', partial(_repeats, section='annotations', field='id')),
    ('categories', partial(_repeats, section='categories', field='id')),
    ('categories', partial(_repeats, section='categories', field='name')),
    ('annotations', partial(_unknown, field='image_id', section='images')),
    ('annotations', partial(_unknown, field='category_id', section='categories')),
    ('annotations', _no_area),
    ('annotations', _outside),
    ('images', _missing),
    ('images', _empty),
)


def _check(split: _Split, checks: _Checks) -> Iterator[list[str]]:
    """The problems of one split, a list for each kind."""
    yield [f'{split.name}: {fault}' for fault in split.faults]
    for section, check in checks:
        yield [f'{split.name}: {_label(section, entry)}: {text}' for entry, text in check(split)]


def _label(section: str, entry: _Entry) -> str:
    return _LABELS[section].format_map(defaultdict(lambda: '?', entry))


def _disagreements(train: _Split, val: _Split) -> Iterator[str]:
    ours, theirs = (split.entries['categories'] for split in (train, val))
    for pair in zip_longest(ours, theirs, fillvalue={}):
        one, other = (_label('categories', entry) if entry else 'nothing' for entry in pair)
        if ours and theirs and one != other:
            yield f'{val.name}: {other} where {train.name} has {one}'


def _leaks(train: _Split, val: _Split) -> Iterator[str]:
    seen = {_real_path(file) for file in train.files.values()}
    for image, name in _each(val.entries, 'images', 'file_name'):
        if name in val.files and _real_path(val.files[name]) in seen:
            yield f'{val.name}: {_label("images", image)}: the same file is in {train.name}'


def _real_path(file: os.DirEntry[str]) -> str:
    return os.path.realpath(file.path) if file.is_symlink() else file.path


def _has_mask(annotation: _Entry) -> bool:
    found = annotation.get('segmentation')
    return isinstance(found, list | dict) and bool(found) and all(found)


def _summary(split: _Split) -> CocoSplit:
    annotations = split.entries['annotations']
    solid = [annotation for annotation in annotations if not annotation.get('iscrowd')]
    return CocoSplit(
        ann_file=split.path,
        image_dir=split.image_dir,
        classes=tuple(category['name'] for category in split.entries['categories']),
        num_images=len(split.entries['images']),
        num_boxes=len(annotations),
        has_masks=bool(solid) and all(map(_has_mask, solid)),
    )
