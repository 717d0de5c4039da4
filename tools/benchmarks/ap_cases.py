"""Small sets of objects and detections on which evaluators of AP differ, or might."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from pycocotools import mask as rle

SIDE = 128  # of a picture, in pixels
CLASSES = 3


class Case(NamedTuple):
    """Annotations in the COCO format, and data samples as `CocoMetric.process` takes them."""

    truth: dict
    samples: list[dict]


def case(name: str, seed: int = 0) -> Case:
    """A set of 12 pictures with what is special about it.

    Args:
        name: One of `CASES`.
        seed: Of all that is drawn.
    """
    rng = RandomState(seed)
    objects = [_object(_box(rng), rng) for _ in range(50)]
    for i, entry in enumerate(objects, start=1):
        entry |= dict(id=i, image_id=rng.randint(2, 13), category_id=rng.randint(1, CLASSES + 1))
    truth = dict(
        images=[dict(id=i, width=SIDE, height=SIDE) for i in range(1, 13)],
        categories=[dict(id=i, name=f'class {i}') for i in range(1, CLASSES + 1)],
        annotations=objects,
    )
    made = Case(truth, [_sample(objects, i, rng) for i in range(1, 12)])
    CASES[name](made, rng)
    return made


def _box(rng: RandomState) -> list[float]:
    """A box [x, y, width, height] within the picture, of whole pixels or not."""
    box = np.hstack([rng.randint(0, 60, 2), rng.randint(4, 66, 2)]) + rng.rand(4) * rng.randint(2)
    return box.tolist()


def _object(box: list[float], rng: RandomState) -> dict:
    crowd = bool(rng.rand() < 0.15)
    x, y, w, h = box
    compressed, counts = _rle(_filled(box))
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    segmentation = counts if crowd else (polygon, compressed)[rng.randint(2)]
    return dict(bbox=box, area=w * h, iscrowd=int(crowd), segmentation=segmentation)


def _filled(box: list[float]) -> np.ndarray:
    """The mask [H, W] of a box."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y, w, h = np.round(box).astype(int)
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    return mask


def _rle(mask: np.ndarray) -> tuple[dict, dict]:
    """Run lengths in pycocotools' string, and as numbers."""
    encoded = rle.encode(np.asfortranarray(mask))
    pixels = np.concatenate([[0], mask.T.ravel(), [1 - mask[-1, -1]]])
    ends = np.flatnonzero(np.diff(pixels))
    compressed = dict(size=encoded['size'], counts=encoded['counts'].decode())
    return compressed, dict(size=encoded['size'], counts=np.diff(ends, prepend=0).tolist())


def _sample(objects: list[dict], image_id: int, rng: RandomState) -> dict:
    """Shifted, missed, doubled, mislabelled and invented objects, many with equal scores."""
    found = [
        (
            entry['bbox'] + rng.uniform(-0.15, 0.15, 4) * np.tile(entry['bbox'][2:], 2),
            entry['category_id'],
        )
        for entry in objects
        if entry['image_id'] == image_id
        for _ in range(rng.randint(0, 4))
    ]
    found += [(np.array(_box(rng)), rng.randint(1, CLASSES + 1)) for _ in range(3)]
    return _as_sample(image_id, *zip(*found, strict=True), rng.rand(len(found)).round(1))


def _as_sample(
    image_id: int, boxes: Sequence, categories: Sequence[int], scores: np.ndarray
) -> dict:
    corners = np.array(boxes)
    corners[:, 2:] += corners[:, :2]
    found = dict(
        bboxes=torch.tensor(corners, dtype=torch.float32),
        masks=torch.tensor(np.array([_filled(box) for box in boxes]), dtype=torch.bool),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(categories) - 1,
    )
    return dict(img_id=image_id, ori_shape=(SIDE, SIDE), pred_instances=found)


def _as_it_is(made: Case, rng: RandomState) -> None:
    pass


def _ids(first: int, made: Case, rng: RandomState) -> None:
    """Ids with gaps, in any order."""

    def drawn(section: str) -> dict[int, int]:
        entries = made.truth[section]
        ids = (first + 5 * rng.permutation(len(entries)).astype(object)).tolist()
        return {entry['id']: i for entry, i in zip(entries, ids, strict=True)}

    images, categories, annotations = map(drawn, ('images', 'categories', 'annotations'))
    for entry in made.truth['annotations']:
        entry['id'] = annotations[entry['id']]
        entry['image_id'] = images[entry['image_id']]
        entry['category_id'] = categories[entry['category_id']]
    for section, ids in (('images', images), ('categories', categories)):
        for entry in made.truth[section]:
            entry['id'] = ids[entry['id']]
    for sample in made.samples:
        sample['img_id'] = images[sample['img_id']]


def _crowds(share: float, made: Case, rng: RandomState) -> None:
    for entry in made.truth['annotations']:
        if rng.rand() < share:
            entry |= dict(iscrowd=1, segmentation=_rle(_filled(entry['bbox']))[1])


def _edges_of_areas(made: Case, rng: RandomState) -> None:
    """Objects and detections of 32² and 96² pixels, and of the next smaller and larger number."""
    for entry in made.truth['annotations']:
        area = float(rng.choice([32, 96]) ** 2)
        entry['area'] = rng.choice([np.nextafter(area, 0), area, np.nextafter(area, 1e9)]).item()
    for sample in made.samples:
        boxes = sample['pred_instances']['bboxes']
        boxes[:] = boxes.round()
        boxes[::2, 2:] = boxes[::2, :2] + torch.tensor(rng.choice([31, 32, 33, 96], (1, 2)))


def _overlaps_at_thresholds(made: Case, rng: RandomState) -> None:
    """IoUs of exactly 0.5, 0.55, ... 1."""
    for entry in made.truth['annotations']:
        x, y = rng.randint(0, 60, 2).tolist()
        box = [x, y, 20, 20]
        entry |= dict(bbox=box, area=400, iscrowd=0, segmentation=_rle(_filled(box))[0])
    for sample in made.samples[1:]:
        image_id = sample['img_id']
        objects = [e for e in made.truth['annotations'] if e['image_id'] == image_id]
        if objects:
            boxes = [[*entry['bbox'][:2], 20, rng.randint(10, 21)] for entry in objects]
            categories = [entry['category_id'] for entry in objects]
            sample |= _as_sample(image_id, boxes, categories, rng.rand(len(boxes)))


def _many(made: Case, rng: RandomState) -> None:
    """150 detections of a class in a picture on average, where 100 count."""
    for sample in made.samples:
        found = sample['pred_instances']
        drawn = torch.tensor(rng.randint(len(found['labels']), size=150 * CLASSES))
        found |= {key: value[drawn] for key, value in found.items()}
        found['scores'] = torch.tensor(rng.rand(len(drawn)).round(2), dtype=torch.float32)


def _scores(values: list[float], every: int, made: Case, rng: RandomState) -> None:
    for sample in made.samples:
        scores = sample['pred_instances']['scores'][::every]
        scores[:] = torch.tensor(rng.choice(values, len(scores)))


def _scores_of_masks(made: Case, rng: RandomState) -> None:
    for sample in made.samples:
        found = sample['pred_instances']
        found['mask_scores'] = torch.tensor(rng.rand(len(found['scores'])), dtype=torch.float32)


def _objects_of(classes: list[int], made: Case, rng: RandomState) -> None:
    made.truth['annotations'] = [
        entry for entry in made.truth['annotations'] if entry['category_id'] in classes
    ]


def _detections_of(labels: list[int], made: Case, rng: RandomState) -> None:
    for sample in made.samples:
        found = sample['pred_instances']
        kept = torch.isin(found['labels'], torch.tensor(labels))
        found |= {key: value[kept] for key, value in found.items()}


def _ragged(made: Case, rng: RandomState) -> None:
    """Two polygons that cross themselves and leave the picture, and one without an area."""
    for entry in made.truth['annotations']:
        if not entry['iscrowd']:
            x, y, w, h = entry['bbox']
            points = [x - 5, y - 5] + rng.rand(2, 11, 2) * [w + 10, h + 10]
            polygons = [*points.reshape(2, -1).tolist(), [x, y, x + w, y, x, y]]
            entry['segmentation'] = polygons


def _empty_masks(made: Case, rng: RandomState) -> None:
    for entry in made.truth['annotations'][::5]:
        entry |= dict(iscrowd=0, segmentation=_rle(np.zeros((SIDE, SIDE), np.uint8))[1])
    for sample in made.samples:
        sample['pred_instances']['masks'][::4] = False


def _detected_boxes(value: float, made: Case, rng: RandomState) -> None:
    for sample in made.samples:
        sample['pred_instances']['bboxes'][::4, 2] = value


def _annotated_widths(width: float, made: Case, rng: RandomState) -> None:
    for entry in made.truth['annotations'][::4]:
        entry['bbox'][2] = width


def _exported(made: Case, rng: RandomState) -> None:
    """Fields that some exporters leave empty, or fill with another type than COCO's files."""
    for entry in made.truth['images']:
        entry |= dict(license='', date_captured=0, flickr_url=None)
    for entry in made.truth['categories']:
        entry |= dict(supercategory=0, keypoints='')
    for entry in made.truth['annotations']:
        entry |= dict(attributes=dict(occluded=False), num_keypoints='')


CASES: dict[str, Callable[[Case, RandomState], None]] = {
    'masks as polygons, strings and numbers; crowds': _as_it_is,
    'ids from 0': partial(_ids, 0),
    'ids across 0': partial(_ids, -7),
    'ids above 2^53': partial(_ids, 2**53),
    'ids above 2^62': partial(_ids, 2**62 + 1),
    'half are crowds': partial(_crowds, 0.5),
    'all are crowds': partial(_crowds, 1),
    'areas of 32² and 96²': _edges_of_areas,
    'IoUs at the thresholds': _overlaps_at_thresholds,
    '450 detections a picture': _many,
    'two scores': partial(_scores, [0.25, 0.5], 1),
    'NaN scores': partial(_scores, [np.nan], 4),
    'only NaN scores': partial(_scores, [np.nan], 1),
    'infinite scores': partial(_scores, [np.inf, -np.inf, -0.0], 3),
    'other scores of masks': _scores_of_masks,
    'a class without objects': partial(_objects_of, [1, 3]),
    'no objects': partial(_objects_of, []),
    'a class without detections': partial(_detections_of, [0, 2]),
    'ragged polygons': _ragged,
    'empty masks': _empty_masks,
    'negative widths': partial(_detected_boxes, -1e4),
    'infinite boxes': partial(_detected_boxes, np.inf),
    'objects without width': partial(_annotated_widths, 0),
    'fields of other types': _exported,
}
