"""Pascal VOC format: finds the splits of a folder, and reads annotations in XML.

Boxes are MMDetection's (`XMLDataset`): xmin, ymin, xmax and ymax are pixels counted from 1, of
which 1 is subtracted, cut to whole numbers; width is xmax - xmin. That is one pixel less than the
pixels that the box covers, and what MMDetection's VOC results are of. Objects marked `difficult`
are neither learned from nor counted as missed, which `iscrowd` says in the COCO format. What is
in `SegmentationObject` is not read.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from xml.parsers import expat

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
from sbzoo.images import SUFFIXES, find_images

FORMAT = 'VOC'
LISTS = 'ImageSets/Main'
ANNOTATIONS = 'Annotations'
PICTURES = 'JPEGImages', 'images'
CORNERS = 'xmin', 'ymin', 'xmax', 'ymax'
_LINE = 'line'  # the attribute for the line of an element
_LISTED = {'train': ('train', 'trainval'), 'val': SPLITS['val']}


def find(root: Path) -> Source | None:
    """The data set of a folder, or None if it is in another format.

    Splits are lists of names, `ImageSets/Main/train.txt` (or `trainval.txt`) and `val.txt` (or
    `test.txt`), of files in `JPEGImages` and `Annotations`; or folders, `Annotations/train` with
    `JPEGImages/train`, or `train` with both pictures and XML. A picture is that of the same name as
    its XML, whatever `filename` says.

    Raises:
        UserError: A split is missing or has no pictures, or names are in it twice.
    """
    if not root.is_dir():
        return None
    if (root / LISTS).is_dir():
        return _from_lists(root)
    if any(root.glob('*.xml')) or any(root.glob('*/*.xml')) or any(root.glob('*/*/*.xml')):
        return _from_folders(root)
    return None


def _source(root: Path, splits: dict[str, list[Item]], faults: Iterable[Fault]) -> Source:
    return Source(FORMAT, root, splits, partial(read_labels, root=root), faults=tuple(faults))


def _from_lists(root: Path) -> Source:
    pictures = {path.stem: path for path in find_images(_pictures_of(root))}
    splits, faults = {}, []
    for split, names in _LISTED.items():
        files = [file for name in names if (file := root / LISTS / f'{name}.txt').is_file()]
        if not files:
            wanted = ', '.join(f'{LISTS}/{name}.txt' for name in names)
            cure = f'move some of the names of another list to {split}.txt, one a line'
            raise missing_split(root, split, wanted, cure)
        splits[split] = list(_listed(root, files[0], pictures, faults))
    return _source(root, splits, faults)


def _pictures_of(root: Path, split: str = '') -> Path:
    folders = [root / name / split for name in PICTURES]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _listed(
    root: Path, file: Path, pictures: dict[str, Path], faults: list[Fault]
) -> Iterator[Item]:
    for number, name in numbered_lines(file):
        labels = root / ANNOTATIONS / f'{name}.xml'
        place = f'{os.path.relpath(file, root)}:{number}'
        if name not in pictures:
            folder = os.path.relpath(_pictures_of(root), root)
            faults.append(
                Fault(place, f'no picture {name!r}', f'names are of pictures in {folder}')
            )
        elif not labels.is_file():
            valid = 'a picture without objects has one without <object>'
            faults.append(Fault(place, f'no {ANNOTATIONS}/{name}.xml', valid))
        else:
            yield Item(pictures[name], labels)


def _from_folders(root: Path) -> Source:
    splits, faults = {}, []
    for split, names in SPLITS.items():
        found = [pair for name in names for pair in _folders(root, name)]
        if not found:
            cure = (
                f'put some pictures and their XML into a folder {split}, or list names in {LISTS}'
            )
            raise missing_split(root, split, ', '.join(names), cure)
        splits[split] = _paired(root, *found[0], faults)
    return _source(root, splits, faults)


def _folders(root: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """The folders of XML and of pictures of a split."""
    for folder, pictures in (
        (root / ANNOTATIONS / name, _pictures_of(root, name)),
        (root / name, root / name),
    ):
        if folder.is_dir() and any(folder.rglob('*.xml')):
            yield folder, pictures


def _paired(root: Path, folder: Path, pictures: Path, faults: list[Fault]) -> list[Item]:
    """Pictures with the XML of their name; those without are background."""
    found = _by_name(root, find_images(pictures), faults)
    labels = _by_name(root, sorted(folder.rglob('*.xml')), faults)
    valid = f'pictures ({", ".join(SUFFIXES)}) are looked for in {os.path.relpath(pictures, root)}'
    faults += [
        Fault(os.path.relpath(path, root), 'no picture of that name', valid)
        for name, path in labels.items()
        if name not in found
    ]
    return [Item(path, labels.get(name)) for name, path in found.items()]


def _by_name(root: Path, paths: Iterable[Path], faults: list[Fault]) -> dict[str, Path]:
    found = {}
    for path in paths:
        if found.setdefault(path.stem, path) != path:
            names = (os.path.relpath(p, root) for p in (path, found[path.stem]))
            faults.append(Fault(*names, 'names are those of one file in a split'))
    return found


def read_labels(path: Path, size: Size, root: Path) -> Labels:
    """The objects of an XML file, in pixels, and what is wrong in it.

    Args:
        path: The file.
        size: Of its picture.
        root: That places are named from.
    """
    found, name = Labels(), os.path.relpath(path, root)
    try:
        tree = _parse(path)
    except (expat.ExpatError, ValueError) as error:
        found.faults.append(
            Fault(name, f'not readable as XML: {error}', 'it has to be well-formed')
        )
        return found
    found.faults += _other_size(name, tree, size)
    for element in tree.findall('object'):
        place = f'{name}:{element.get(_LINE)}'
        try:
            found.objects.append(_object(place, element, size))
        except _Invalid as fault:
            found.faults.append(Fault(place, *fault.args))
    return found


class _Invalid(ValueError):
    """What an element holds, and what would be valid."""


def _parse(path: Path) -> ET.Element:
    """The root element; each has its line as an attribute, which ElementTree does not keep."""
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, _LINE: str(parser.CurrentLineNumber)})

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler = builder.data
    with path.open('rb') as file:
        parser.ParseFile(file)
    return builder.close()


def _other_size(name: str, tree: ET.Element, size: Size) -> Iterator[Fault]:
    tag = tree.find('size')
    if tag is not None:
        given = [(tag.findtext(side) or '').strip() for side in ('width', 'height')]
        if given != [*map(str, size)]:
            got = f'size is {"x".join(given)}, and the picture is {"x".join(map(str, size))}'
            valid = 'the size is that of the picture as it is read, upright by its EXIF'
            yield Fault(f'{name}:{tag.get(_LINE)}', got, valid)


def _object(place: str, element: ET.Element, size: Size) -> Object:
    name = (element.findtext('name') or '').strip()
    if not name:
        raise _Invalid('no <name>', 'an object has the name of its class')
    difficult = (element.findtext('difficult') or '0').strip()
    if difficult not in ('0', '1'):
        raise _Invalid(f'difficult is {difficult!r}', 'difficult is 0 or 1')
    left, top, right, bottom = _corners(element, size)
    return Object(
        place,
        name,
        [left - 1, top - 1, right - left, bottom - top],
        is_crowd=difficult == '1',
    )


def _corners(element: ET.Element, size: Size) -> list[int]:
    """xmin, ymin, xmax, ymax, in the picture; many tools count from 0, which passes."""
    box = element.find('bndbox')
    if box is None:
        raise _Invalid('no <bndbox>', f'an object has a bndbox with {", ".join(CORNERS)}')
    values = [_number(box, name) for name in CORNERS]
    shown = ', '.join(f'{n} {v}' for n, v in zip(CORNERS, values, strict=True))
    if values[2] < values[0] or values[3] < values[1]:
        raise _Invalid(shown, 'xmin is below xmax, and ymin below ymax')
    if min(values) < 0 or values[2] > size[0] or values[3] > size[1]:
        width, height = size
        raise _Invalid(f'{shown} of {width}x{height}', 'a box is in its picture')
    return values


def _number(box: ET.Element, name: str) -> int:
    text = (box.findtext(name) or '').strip()
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise _Invalid(f'{name} is {text!r}', 'corners are finite numbers') from None
