"""AP by faster-coco-eval against pycocotools, on the same detections."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from benchmarks.ap import compare, synthetic
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sbzoo
from sbzoo.data.embedded.digit_scenes import CLASSES
from sbzoo.metrics.coco_ap import STATS, CocoAP

EMPTY = dict(
    bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
)


def detections(coco: COCO, rng: np.random.RandomState) -> list[dict]:
    """Shifted, missed, invented and mislabelled boxes and masks, many with equal scores."""
    samples, categories = [], coco.getCatIds()
    for image_id in coco.getImgIds():
        boxes, masks, labels = [np.zeros((0, 4))], [np.zeros((0, 96, 96), bool)], []
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            x, y, w, h = annotation['bbox']
            for _ in range(rng.randint(0, 3)):
                shift = rng.uniform(-0.2, 0.2, 4) * [w, h, w, h]
                boxes.append(np.array([[x, y, x + w, y + h]]) + shift)
                masks.append(np.roll(coco.annToMask(annotation), rng.randint(-1, 2), 1)[None])
                wrong = rng.rand() < 0.2
                right = categories.index(annotation['category_id'])
                labels.append(rng.randint(len(categories)) if wrong else right)
        found = dict(
            bboxes=torch.tensor(np.concatenate(boxes), dtype=torch.float32),
            masks=torch.tensor(np.concatenate(masks), dtype=torch.bool),
            scores=torch.tensor(rng.rand(len(labels)).round(1), dtype=torch.float32),
            labels=torch.tensor(labels, dtype=torch.long),
        )
        samples.append(dict(img_id=image_id, ori_shape=(96, 96), pred_instances=found))
    return samples


def as_coco_result(coco: COCO, image_id: int, kind: str, found: dict, i: int) -> dict:
    result = dict(
        image_id=image_id,
        category_id=coco.getCatIds()[found['labels'][i]],
        score=float(found['scores'][i]),
    )
    if kind == 'bbox':
        x1, y1, x2, y2 = found['bboxes'][i].tolist()
        return result | dict(bbox=[x1, y1, x2 - x1, y2 - y1])
    mask = found['masks'][i].numpy().astype(np.uint8)
    return result | dict(segmentation=rle.encode(np.asfortranarray(mask)))


def by_pycocotools(coco: COCO, samples: list[dict], kind: str) -> np.ndarray:
    results = [
        as_coco_result(coco, sample['img_id'], kind, sample['pred_instances'], i)
        for sample in samples
        for i in range(len(sample['pred_instances']['labels']))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return evaluation.stats


@pytest.fixture
def metric(digits):
    metric = CocoAP(ann_file=str(digits / 'annotations/val.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def test_boxes_and_masks_equal_pycocotools(metric, digits):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(digits / 'annotations/val.json')
    samples = detections(coco, np.random.RandomState(0))
    metric.process({}, samples)
    ours = metric.evaluate(size=len(samples))
    for kind in ('bbox', 'segm'):
        theirs = by_pycocotools(coco, samples, kind)
        assert 0.1 < theirs[0] < 0.9
        for name, index in STATS.items():
            assert ours[f'coco/{kind}_{name}'] == pytest.approx(theirs[index], abs=1e-6), name


def rectangle(x: int, y: int, w: int, h: int, crowd: bool) -> dict:
    if not crowd:
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    else:
        mask = np.zeros((96, 96), np.uint8)
        mask[y : y + h, x : x + w] = 1
        segmentation = rle.encode(np.asfortranarray(mask))
        segmentation['counts'] = segmentation['counts'].decode()
    return dict(bbox=[x, y, w, h], area=w * h, iscrowd=int(crowd), segmentation=segmentation)


def any_ids(count: int, rng: np.random.RandomState) -> list[int]:
    """From 0, from 1, across 0 or above what a double holds; with gaps or without; unsorted."""
    first = rng.choice([0, 1, -3, 2**53, 2**62 + 1])
    return (first + rng.choice([1, 5]) * rng.permutation(count)).tolist()


def random_set(rng: np.random.RandomState) -> dict:
    """Twelve pictures, the first without an object, and ids of any kind."""
    images, categories, ids = any_ids(12, rng), any_ids(3, rng), any_ids(30, rng)
    objects = [
        rectangle(*rng.randint(0, 50, 2).tolist(), *rng.randint(4, 46, 2).tolist(), n % 9 == 0)
        for n in range(30)
    ]
    for entry, entry_id in zip(objects, ids, strict=True):
        image_id, category_id = images[rng.randint(1, 12)], categories[rng.randint(3)]
        entry |= dict(id=entry_id, image_id=image_id, category_id=category_id)
    return dict(
        images=[dict(id=i, width=96, height=96) for i in images],
        categories=[dict(id=c, name=f'class {n}') for n, c in enumerate(categories)],
        annotations=objects,
    )


def loaded(content: dict, path) -> tuple[COCO, CocoAP]:
    """pycocotools' annotations, numbered from 1, and the metric of the same file."""
    path.write_text(json.dumps(content))
    metric = CocoAP(ann_file=str(path), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=[entry['name'] for entry in content['categories']][::-1])
    coco = COCO()
    coco.dataset = content | dict(
        annotations=[entry | dict(id=n) for n, entry in enumerate(content['annotations'], 1)]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, metric


@pytest.mark.parametrize('seed', range(12))
def test_any_integer_is_an_id(seed, tmp_path):
    rng = np.random.RandomState(seed)
    coco, metric = loaded(random_set(rng), tmp_path / 'val.json')
    samples = detections(coco, rng)[1:]
    metric.process({}, samples)
    ours = metric.evaluate(size=len(samples))
    for kind in ('bbox', 'segm'):
        theirs = by_pycocotools(coco, samples, kind)
        assert 0.05 < theirs[0] < 0.95
        for name, index in STATS.items():
            assert ours[f'coco/{kind}_{name}'] == pytest.approx(theirs[index], abs=1e-6), name


@pytest.mark.parametrize('first', [0, -1, 2**53, 2**63])
def test_what_is_all_found_has_ap_1(first, tmp_path):
    truth = [(first + n, rectangle(n, n, 40, 40, False)) for n in range(3)]
    content = dict(
        images=[dict(id=i, width=96, height=96) for i, _ in truth],
        categories=[dict(id=first, name='only')],
        annotations=[dict(id=i, image_id=i, category_id=first, **entry) for i, entry in truth],
    )
    _, metric = loaded(content, tmp_path / 'val.json')
    for image_id, entry in truth:
        x, y, w, h = entry['bbox']
        found = dict(
            bboxes=torch.tensor([[x, y, x + w, y + h]]),
            masks=torch.zeros(1, 96, 96, dtype=torch.bool),
            scores=torch.ones(1),
            labels=torch.zeros(1, dtype=torch.long),
        )
        found['masks'][:, y : y + h, x : x + w] = True
        metric.process({}, [dict(img_id=image_id, ori_shape=(96, 96), pred_instances=found)])
    ap = metric.evaluate(size=3)
    assert [ap['coco/bbox_mAP'], ap['coco/segm_mAP']] == pytest.approx([1, 1])


def test_predictions_for_unknown_images_are_refused(metric):
    metric.process({}, [dict(img_id=10**6, ori_shape=(96, 96), pred_instances=EMPTY)])
    with pytest.raises(sbzoo.UserError, match=r'image id 1000000, not in .*val\.json'):
        metric.evaluate(size=1)


def test_equals_the_metric_of_mmdetection_on_a_set_with_crowds_and_empty_images():
    ours, theirs = compare(*synthetic(80, np.random.RandomState(1)))
    assert (ours.ap > 0.05).all()
    np.testing.assert_allclose(ours.ap, theirs.ap, atol=1e-6)


def test_no_detections_are_zero(metric):
    metric.metrics = ['bbox']
    metric.process({}, [dict(img_id=1, ori_shape=(96, 96), pred_instances=EMPTY)])
    assert metric.evaluate(size=1)['coco/bbox_mAP'] == 0


def test_says_which_metrics_there_are(digits):
    with pytest.raises(sbzoo.UserError, match='proposal is none of bbox, segm'):
        CocoAP(ann_file=str(digits / 'annotations/val.json'), metric='proposal')
