"""Checks of one COCO-format annotation file: every entry that MMDetection drops or cannot read."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from sbzoo.data import segmentations
from sbzoo.data.picture_headers import Picture

Entry = dict[str, Any]
Entries = dict[str, list[Entry]]
Problems = Iterator[tuple[Entry, str]]
Size = tuple[int, int]  # width and height in pixels

# Boxes may reach past their image by rounding: of x and of w, and by one more if x counts from 1.
ROUNDING = 2
# More boxes than this past their image are no rounding and no objects that the edge cuts off:
# corners in the place of sizes put about three in four of them past it.
MANY = 1 / 3
_FLOAT_MAX = sys.float_info.max  # JSON's whole numbers may be larger
LARGEST = 1e10  # square pixels; COCO's AP leaves out what is above


class _Kind(NamedTuple):
    """What the value of a field has to be."""

    what: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_FLOAT_MAX <= value <= _FLOAT_MAX


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_ID = _Kind('a whole number', lambda value: type(value) is int)
_NUMBER = _Kind('a finite number', _is_number)
_SIZE = _Kind('a positive whole number', lambda value: type(value) is int and value > 0)
_TEXT = _Kind('a non-empty string', lambda value: isinstance(value, str) and value != '')
_BOX = _Kind('four finite numbers', _is_box)
_FLAG = _Kind('0 or 1', lambda value: value in (0, 1))

FIELDS = {
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
SOURCE = 'sbzoo:source'  # the field for the file and line that an entry was converted from
_LABELS = {
    'images': 'image {id} ({file_name})',
    'annotations': 'annotation {id} (image {image_id})',
    'categories': 'category {id} ({name})',
}


@dataclass(frozen=True)
class Split:
    """An annotation file as it was read, and those of its images that are on disk.

    ``faults`` are of the file as a whole; ``files`` and ``pictures`` go by file name.
    """

    name: str
    path: Path
    faults: list[str]
    entries: Entries
    image_dir: Path
    files: dict[str, os.DirEntry[str]]
    pictures: dict[str, Picture]

    @cached_property
    def sizes(self) -> dict[int, Size]:
        """The annotated sizes by image id."""
        return {
            image_id: (image['width'], image['height'])
            for image, image_id in self.each('images', 'id')
            if _SIZE.holds(image.get('width')) and _SIZE.holds(image.get('height'))
        }

    @cached_property
    def placed(self) -> list[tuple[Entry, list[float], Size]]:
        """The annotations with a box in an image, each with both."""
        return [
            (entry, entry['bbox'], self.sizes[image_id])
            for entry, image_id in self.each('annotations', 'image_id')
            if image_id in self.sizes and _is_box(entry.get('bbox'))
        ]

    @cached_property
    def in_fractions(self) -> bool:
        """Whether boxes are fractions of their image, as no box in pixels can be."""
        values = [value for _, box, _ in self.placed for value in box]
        return 0 < max(values, default=0) <= 1 and min(values) >= 0

    @cached_property
    def usable(self) -> list[Entry]:
        """The annotations that a detector learns from."""
        return [
            entry
            for entry, box, size in self.placed
            if not entry.get('iscrowd') and not _is_dropped(entry, box, size)
        ]

    def each(self, section: str, field: str) -> Problems:
        """The entries in which a field is as it has to be, with its value."""
        holds = FIELDS[section][field].holds
        return ((entry, entry[field]) for entry in self.entries[section] if holds(entry.get(field)))


def _is_dropped(entry: Entry, box: list[float], size: Size) -> bool:
    """Whether MMDetection's ``CocoDataset`` leaves a box out."""
    return bool(entry.get('ignore')) or is_empty(entry, box) or _misses(box, *size)


def is_empty(entry: Entry, box: list[float]) -> bool:
    """Whether a box has no area, or one below a pixel, for MMDetection."""
    return box[2] < 1 or box[3] < 1 or not (_is_number(entry.get('area')) and entry['area'] > 0)


def wrong(entry: Entry, field: str, what: str) -> str:
    """That a field is absent, or not what it has to be."""
    return f'{field} is {short(entry[field])}, not {what}' if field in entry else f'no {field}'


def label(section: str, entry: Entry) -> str:
    """What an entry of a section is called."""
    return entry.get(SOURCE) or _LABELS[section].format_map(defaultdict(lambda: '?', entry))


def _wrong_values(split: Split, section: str, field: str) -> Problems:
    what, holds = FIELDS[section][field]
    for position, entry in enumerate(split.entries[section]):
        if not holds(entry.get(field, _ABSENT.get(field))):
            place = f' in {section}[{position}]' if field == 'id' else ''
            yield entry, wrong(entry, field, what) + place


def _repeats(split: Split, section: str, field: str) -> Problems:
    seen = set()
    for entry, value in split.each(section, field):
        if value in seen:
            yield entry, f'duplicate {field} {short(value)}'
        seen.add(value)


def _unknown(split: Split, field: str, section: str) -> Problems:
    known = {value for _, value in split.each(section, 'id')}
    for entry, value in split.each('annotations', field):
        if known and value not in known:
            yield entry, f'{field} {value} is not in {section}'


def _ignored(split: Split) -> Problems:
    for entry in split.entries['annotations']:
        if entry.get('ignore'):
            yield (
                entry,
                f'ignore is {short(entry["ignore"])}: MMDetection trains without this box, and '
                'evaluates with it; iscrowd 1 leaves it out of both',
            )


def _empty_boxes(split: Split) -> Problems:
    for entry, box in split.each('annotations', 'bbox'):
        if min(box[2:]) < 1 and not split.in_fractions:
            lacks = 'no area' if min(box[2:]) <= 0 else 'a side below one pixel'
            yield entry, f'box {short(box)} has {lacks}'


def _empty_areas(split: Split) -> Problems:
    for entry, area in split.each('annotations', 'area'):
        box = entry.get('bbox')
        if area <= 0 and _is_box(box) and min(box[2:]) >= 1:
            yield entry, f'area is {area}, and MMDetection drops such boxes: give width x height'


def _huge_areas(split: Split) -> Problems:
    for entry, area in split.each('annotations', 'area'):
        if area > LARGEST:
            yield entry, f'area is {short(area)}, and COCO evaluates up to {LARGEST:g}'


def _outside(split: Split) -> Problems:
    for entry, box, (width, height) in split.placed:
        if min(box[2:]) > 0 and _misses(box, width, height):
            yield entry, f'box {short(box)} is outside its {width}x{height} image'
        elif _overhang(box, width, height) > max(width, height):
            yield entry, f'box {short(box)} reaches far past its {width}x{height} image'


def _misses(box: list[float], width: float, height: float) -> bool:
    x, y, w, h = box
    return x >= width or y >= height or x + w <= 0 or y + h <= 0


def _overhang(box: list[float], width: float, height: float) -> float:
    """By how many pixels a box reaches past its image."""
    x, y, w, h = box
    return max(-x, -y, x + w - width, y + h - height)


def _bad_segmentations(split: Split) -> Problems:
    for entry, image_id in split.each('annotations', 'image_id'):
        given = entry.get('segmentation')
        if image_id in split.sizes and segmentations.is_given(given):
            fault = segmentations.fault_of(given, split.sizes[image_id])
            if fault:
                yield entry, fault


def _missing(split: Split) -> Problems:
    for image, name in split.each('images', 'file_name'):
        if name not in split.files:
            yield image, f'no such file in {split.image_dir}'


def _unreadable(split: Split) -> Problems:
    for image, name in split.each('images', 'file_name'):
        if name in split.pictures and split.pictures[name].fault:
            yield image, split.pictures[name].fault


def _other_sizes(split: Split) -> Problems:
    for image, name in split.each('images', 'file_name'):
        picture, size = split.pictures.get(name), (image.get('width'), image.get('height'))
        if picture and not picture.fault and all(map(_SIZE.holds, size)) and picture.size != size:
            yield image, _other_size(picture, size)


def _other_size(picture: Picture, annotated: Size) -> str:
    read, given = ('{}x{}'.format(*size) for size in (picture.size, annotated))
    if picture.turned and picture.size == annotated[::-1]:
        return (
            f'its EXIF orientation turns it from {given} to {read} as it is read, and {given} is '
            'annotated: turn the boxes, or remove the orientation'
        )
    return f'the picture is {read}, and {given} is annotated'


# Each check with the section its problems are in.
Checks = Sequence[tuple[str, Callable[[Split], Problems]]]
EMPTY: Checks = (('annotations', _empty_boxes), ('annotations', _empty_areas))
_CHECKS: Checks = (
    *((s, partial(_wrong_values, section=s, field=f)) for s in FIELDS for f in FIELDS[s]),
    ('images', partial(_repeats, section='images', field='id')),
    ('annotations', partial(_repeats, section='annotations', field='id')),
    ('categories', partial(_repeats, section='categories', field='id')),
    ('categories', partial(_repeats, section='categories', field='name')),
    ('annotations', partial(_unknown, field='image_id', section='images')),
    ('annotations', partial(_unknown, field='category_id', section='categories')),
    ('annotations', _ignored),
    *EMPTY,
    ('annotations', _huge_areas),
    ('annotations', _outside),
    ('annotations', _bad_segmentations),
    ('images', _missing),
    ('images', _unreadable),
    ('images', _other_sizes),
)


def check(split: Split, drop_empty_boxes: bool = False) -> Iterator[list[str]]:
    """The problems of one file, a list for each kind.

    Args:
        split: The file.
        drop_empty_boxes: Let boxes and areas of no size pass.
    """
    yield [f'{split.name}: {fault}' for fault in (*split.faults, *_faults_of_all(split))]
    for section, find in _CHECKS:
        if not (drop_empty_boxes and (section, find) in EMPTY):
            yield [f'{split.name}: {label(section, entry)}: {text}' for entry, text in find(split)]


def _faults_of_all(split: Split) -> Iterator[str]:
    """What single boxes do not show."""
    if split.in_fractions:
        yield 'boxes are fractions of their image, as no value is above 1; bbox is in pixels'
    elif split.placed and not split.usable:
        yield (
            'no box to learn from: each is a crowd (iscrowd 1), ignored, empty or outside of its '
            'image'
        )
    over = [found for found in split.placed if _overhang(found[1], *found[2]) > ROUNDING]
    if len(over) > MANY * len(split.placed):
        entry, box, (width, height) = over[0]
        yield (
            f'{len(over)} of {len(split.placed)} boxes reach past their image, the first is '
            f'annotation {entry.get("id")}, {short(box)} of {width}x{height}: {_cause(split)}'
        )


def _cause(split: Split) -> str:
    """Why boxes reach past their images, most likely."""
    order = 'bbox is x, y, width, height in pixels'
    corners = all(
        x < right <= width + ROUNDING and y < bottom <= height + ROUNDING
        for _, (x, y, right, bottom), (width, height) in split.placed
    )
    return f'they are corners x1, y1, x2, y2, it seems; {order}' if corners else order
