"""What a detection data set is like: boxes by class, sizes, padding, duplicate pictures."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sbzoo.data.coco import CocoFolder, CocoSplit
from sbzoo.data.image_folder import in_threads
from sbzoo.files import sha256

TINY = 8  # pixels, of the shorter side of a box
HUGE = 0.9  # of the area of the picture
SCALE = 1333, 800  # the longer and the shorter side that most of MMDetection's configs scale into
PAIRS = 100_000


@dataclass(frozen=True)
class SplitSummary:
    """The pictures and boxes of one split; crowds and `difficult` objects are no boxes.

    ``sizes`` is [N, 2], width and height of every picture, and ``boxes`` [M, 2] those of every box,
    in pixels as the files are. ``shares`` [M] is the area of each box over that of its picture, and
    ``labels`` [M] the index of its class.
    """

    name: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: np.ndarray
    boxes: np.ndarray
    shares: np.ndarray
    labels: np.ndarray
    empty: int

    @cached_property
    def boxes_by_class(self) -> list[int]:
        """The number of boxes of each class."""
        return np.bincount(self.labels, minlength=len(self.classes)).tolist()

    @property
    def tiny(self) -> int:
        """Boxes with a side below 8 pixels."""
        return int((self.boxes.min(axis=1) < TINY).sum())

    @property
    def huge(self) -> int:
        """Boxes of more than nine tenths of their picture."""
        return int((self.shares > HUGE).sum())

    @property
    def aspect_ratios(self) -> np.ndarray:
        """Width over height of every picture, [N]."""
        return self.sizes[:, 0] / self.sizes[:, 1]


def summarize(name: str, split: CocoSplit) -> SplitSummary:
    """Read a split that has been checked."""
    content = json.loads(split.ann_file.read_text(encoding='utf-8'))
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    index = {category['id']: i for i, category in enumerate(content['categories'])}
    found = [a for a in content['annotations'] if not a.get('iscrowd')]
    boxes = np.array([a['bbox'][2:] for a in found], dtype=float).reshape(-1, 2)
    around = np.array([sizes[a['image_id']] for a in found], dtype=float).reshape(-1, 2)
    return SplitSummary(
        name=name,
        classes=split.classes,
        paths=tuple(os.path.join(split.image_dir, i['file_name']) for i in content['images']),
        sizes=np.array([*sizes.values()]),
        boxes=boxes,
        shares=boxes.prod(axis=1) / around.prod(axis=1),
        labels=np.array([index[a['category_id']] for a in found], dtype=int),
        empty=len(sizes) - len({a['image_id'] for a in found}),
    )


def padding(sizes: np.ndarray) -> float:
    """The expected share of padding in batches of two pictures, which are padded to the larger.

    It is the mean over 100,000 random pairs (seed 0) of pictures of one orientation, as
    MMDetection's `AspectRatioBatchSampler` groups them: upright ones, and all others.

    Args:
        sizes: Width and height of every picture, [N, 2].
    """
    upright = sizes[:, 0] < sizes[:, 1]
    groups = [group for group in (sizes[upright], sizes[~upright]) if len(group)]
    return float(sum(len(group) * _padding_of(group) for group in groups) / len(sizes))


def _padding_of(sizes: np.ndarray) -> float:
    pairs = sizes[np.random.RandomState(0).randint(len(sizes), size=(PAIRS, 2))].astype(float)
    held = pairs.prod(axis=2).sum(axis=1)
    return float((1 - held / (2 * pairs.max(axis=1).prod(axis=1))).mean())


def scaled(sizes: np.ndarray) -> np.ndarray:
    """Sizes [N, 2] scaled into 1333 x 800, or 800 x 1333, with their aspect ratio kept."""
    longer, shorter = SCALE
    return sizes * np.minimum(longer / sizes.max(axis=1), shorter / sizes.min(axis=1))[:, None]


def duplicates(splits: Iterable[SplitSummary]) -> list[list[tuple[str, str]]]:
    """Groups of pictures with the same bytes, each by its split and path.

    Files of a size that no other has are not read.
    """
    by_size, by_digest = defaultdict(list), defaultdict(list)
    for split in splits:
        for path in split.paths:
            by_size[os.path.getsize(path)].append((split.name, path))
    read = [named for group in by_size.values() if len(group) > 1 for named in group]
    digests = in_threads(sha256, [path for _, path in read], 'duplicates')
    for named, digest in zip(read, digests, strict=True):
        by_digest[digest].append(named)
    return [group for group in by_digest.values() if len(group) > 1]


def summaries(folder: CocoFolder) -> tuple[SplitSummary, SplitSummary]:
    """Those of the training and of the validation split."""
    return summarize('train', folder.train), summarize('val', folder.val)
