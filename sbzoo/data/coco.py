"""COCO format: finds and validates the splits of a folder, and names every malformed entry."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

from sbzoo.data.coco_checks import FIELDS, Entries, Split, check, label, wrong
from sbzoo.data.picture_headers import read_pictures
from sbzoo.data.segmentations import is_given
from sbzoo.errors import UserError

_Files = dict[str, os.DirEntry[str]]

_SHOWN = 10
SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
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
    its labels whatever the category ids. ``num_boxes`` counts crowds. ``unmasked`` names the first
    annotation without a segmentation, crowds too, as MMDetection reads their masks; ``has_rle`` is
    of all but crowds.
    ``counts`` tells people what training uses.
    """

    ann_file: Path
    image_dir: Path
    classes: tuple[str, ...]
    num_images: int
    num_boxes: int
    unmasked: str | None
    has_rle: bool
    shortest_side: int
    counts: str

    @property
    def has_masks(self) -> bool:
        """Whether all annotations have a segmentation."""
        return self.unmasked is None


@dataclass(frozen=True)
class CocoFolder:
    """A training and a validation split with the same categories."""

    root: Path
    train: CocoSplit
    val: CocoSplit
    kind: str = 'COCO'  # the format that the folder itself is in

    @property
    def classes(self) -> tuple[str, ...]:
        """The category names, the same in both splits."""
        return self.train.classes


def read_folder(
    root: str | Path, drop_empty_boxes: bool = False, allow_leaks: bool = False
) -> CocoFolder:
    """Find and check the two splits of a COCO-format folder.

    The training annotations are ``annotations/instances_train*.json``, ``annotations/train.json``,
    ``train/_annotations.coco.json`` or ``train/labels.json``. The validation split is the first of
    ``val``, ``valid``, ``validation`` and ``test`` to have such a file.

    Args:
        root: The folder.
        drop_empty_boxes: Let boxes without area pass, which MMDetection drops when it trains.
            COCO's own train2017 has two.
        allow_leaks: Let images of one split be in the other, too.

    Returns:
        What the folder holds.

    Raises:
        UserError: A split is missing or ambiguous, or something in one is malformed. The message
            lists every problem, or the first of each kind and how many more there are.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f'{root}: no such folder')
    found = {split: _find(root, names) for split, names in SPLITS.items()}
    refuse(root, 'layout', (_unclear(root, split, files) for split, files in found.items()))
    train, val = (
        read_split(os.path.relpath(path, root), path, folders, os.path.abspath(path))
        for files in found.values()
        for path, folders in files.items()
    )
    return sound_folder(root, train, val, drop_empty_boxes, allow_leaks)


def sound_folder(
    root: Path,
    train: Split,
    val: Split,
    drop_empty_boxes: bool = False,
    allow_leaks: bool = False,
    kind: str = 'COCO',
) -> CocoFolder:
    """Check two splits that were read from a folder of some format, as `read_folder` does.

    Raises:
        UserError: Something in one is malformed, or they do not go together.
    """
    between = (_disagreements(train, val), () if allow_leaks else _leaks(train, val))
    within = (lines for split in (train, val) for lines in check(split, drop_empty_boxes))
    refuse(root, 'annotations', (*within, *between))
    return CocoFolder(root, _summary(train), _summary(val), kind)


def holds_annotations(root: Path) -> bool:
    """Whether a folder has annotations in the COCO format, of one split at least."""
    return any(_find(root, names) for names in SPLITS.values())


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
        wanted = ', '.join(layout.format(n) for n in SPLITS[split] for layout in _LAYOUTS)
        there = sorted([*root.glob('*.json'), *root.glob('*/*.json')]) or sorted(root.iterdir())
        held = ', '.join(os.path.relpath(path, root) for path in there[:_SHOWN]) or 'nothing'
        yield f'no annotations for {split}: looked for {wanted}; the folder holds {held}'


def refuse(root: Path, where: str, kinds: Iterable[Iterable[str]]) -> None:
    """Raise all the problems as one error, if there are any.

    Args:
        root: The folder.
        where: They are.
        kinds: The problems, a line for each, by kind.

    Raises:
        UserError: The first of each kind, and how many more there are.
    """
    listed = [list(lines) for lines in kinds]
    count = sum(map(len, listed))
    shown = [f'{root}: {count} problem{"s" * (count > 1)} in the {where}']
    for lines in listed:
        shown += lines[:_SHOWN]
        shown += [f'... and {len(lines) - _SHOWN} more'] * (len(lines) > _SHOWN)
    if count:
        raise UserError('\n  '.join(shown))


def read_split(name: str, path: Path, folders: Iterable[Path], pictures_key: str) -> Split:
    """Read an annotation file and what its pictures hold, whatever is wrong with them.

    Args:
        name: Of the file, in messages.
        path: The file.
        folders: Where its pictures may be; that with most of them is taken.
        pictures_key: Of the cache for `read_pictures`.
    """
    faults, entries = _load(path)
    named = [image.get('file_name') for image in entries['images']]
    names = list(filter(FIELDS['images']['file_name'].holds, named))
    found = {folder: _on_disk(folder, names) for folder in folders}
    image_dir = max(found, key=lambda folder: len(found[folder]))
    files = found[image_dir]
    read = read_pictures((file.path for file in files.values()), pictures_key)
    pictures = {name: read[file.path] for name, file in files.items()}
    return Split(name, path, faults, entries, image_dir, files, pictures)


def _load(path: Path) -> tuple[list[str], Entries]:
    """What is wrong with a file as a whole, and the entries of its sections."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=_object)
    except (OSError, RecursionError, ValueError) as error:
        return [f'not readable as JSON: {error}'], {section: [] for section in FIELDS}
    content = content if isinstance(content, dict) else {}
    lists = {s: content[s] if isinstance(content.get(s), list) else [] for s in FIELDS}
    faults = [wrong(content, s, 'a list with entries') for s in FIELDS if not lists[s]]
    return faults, {s: [e if isinstance(e, dict) else {} for e in lists[s]] for s in lists}


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; of a key that occurs twice the first value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'key {twice!r} occurs twice in one object')
    return found


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


def _disagreements(train: Split, val: Split) -> Iterator[str]:
    ours, theirs = (split.entries['categories'] for split in (train, val))
    for pair in zip_longest(ours, theirs, fillvalue={}):
        one, other = (label('categories', entry) if entry else 'nothing' for entry in pair)
        if ours and theirs and one != other:
            yield f'{val.name}: {other} where {train.name} has {one}'


def _leaks(train: Split, val: Split) -> Iterator[str]:
    seen = {_real_path(file) for file in train.files.values()}
    for image, name in val.each('images', 'file_name'):
        if name in val.files and _real_path(val.files[name]) in seen:
            known = f'{val.name}: {label("images", image)}: the same file is in {train.name}'
            yield f'{known} (--allow-leaks lets it pass)'


def _real_path(file: os.DirEntry[str]) -> str:
    return os.path.realpath(file.path) if file.is_symlink() else file.path


def _summary(split: Split) -> CocoSplit:
    annotations = split.entries['annotations']
    unmasked = (a for a in annotations if not is_given(a.get('segmentation')))
    solid = [annotation for annotation in annotations if not annotation.get('iscrowd')]
    return CocoSplit(
        ann_file=split.path,
        image_dir=split.image_dir,
        classes=tuple(category['name'] for category in split.entries['categories']),
        num_images=len(split.entries['images']),
        num_boxes=len(annotations),
        unmasked=next((label('annotations', a) for a in unmasked), None),
        has_rle=any(isinstance(annotation.get('segmentation'), dict) for annotation in solid),
        shortest_side=min(map(min, split.sizes.values())),
        counts=_counts(split, len(annotations) - len(solid)),
    )


def _counts(split: Split, crowds: int) -> str:
    """What is used of a split, and what is not."""
    images, boxes = len(split.entries['images']), len(split.usable)
    empty = images - len({annotation['image_id'] for annotation in split.usable})
    dropped = len(split.entries['annotations']) - boxes - crowds
    turned = sum(picture.turned for picture in split.pictures.values())
    parts = (
        (images, 'image', 's'),
        (empty, 'of them without boxes', ''),
        (turned, 'of them turned upright by EXIF', ''),
        (boxes, 'box', 'es'),
        (crowds, 'crowd', 's'),
        (dropped, 'dropped', ''),
        (len(split.entries['categories']), 'class', 'es'),
    )
    shown = (f'{n:,} {what}{ending * (n > 1)}' for n, what, ending in parts if n)
    return f'{split.name}: {", ".join(shown)}'
