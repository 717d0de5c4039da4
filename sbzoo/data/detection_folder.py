"""A folder for detectors, in whichever of the formats it is: COCO, YOLO or Pascal VOC."""

from __future__ import annotations

import os
from pathlib import Path

from sbzoo.data import coco, voc, yolo
from sbzoo.data.coco import CocoFolder
from sbzoo.data.conversion import read_source
from sbzoo.errors import UserError
from sbzoo.images import SHOWN

FORMATS = (
    'COCO (annotations/instances_train*.json, annotations/train.json, train/_annotations.coco.json '
    'or train/labels.json), YOLO (data.yaml, or images/train and labels/train) or Pascal VOC '
    '(ImageSets/Main/train.txt, or a folder train with XML)'
)


def read_detection_folder(
    root: str | Path, drop_empty_boxes: bool = False, allow_leaks: bool = False
) -> CocoFolder:
    """Find and check the two splits of a folder, as annotation files in the COCO format.

    Folders in the YOLO and VOC formats are converted, once, into the cache. A folder with
    annotations in the COCO format is read as such, whatever else it holds.

    Args:
        root: The folder; of a data set in the YOLO format its data.yaml, too.
        drop_empty_boxes: As in `coco.read_folder`.
        allow_leaks: As in `coco.read_folder`.

    Raises:
        UserError: It is in none of these formats, a split is missing, or something is malformed.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f'{root}: no such folder')
    if root.is_dir() and coco.holds_annotations(root):
        return coco.read_folder(root, drop_empty_boxes, allow_leaks)
    source = yolo.find(root) or voc.find(root)
    if source is None:
        held = ', '.join(sorted(os.listdir(root))[:SHOWN]) or 'nothing'
        raise UserError(f'{root}: not in the format {FORMATS}; the folder holds {held}')
    return read_source(source, drop_empty_boxes, allow_leaks)
