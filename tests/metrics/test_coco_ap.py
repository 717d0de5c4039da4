"""AP by faster-coco-eval against pycocotools, on the same detections."""

import contextlib
import io

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
    """Shifted, missed, invented and mislabelled boxes and masks for each picture."""
    samples = []
    for image_id in coco.getImgIds():
        boxes, masks, labels = [np.zeros((0, 4))], [np.zeros((0, 96, 96), bool)], []
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            x, y, w, h = annotation['bbox']
            for _ in range(rng.randint(0, 3)):
                shift = rng.uniform(-0.2, 0.2, 4) * [w, h, w, h]
                boxes.append(np.array([[x, y, x + w, y + h]]) + shift)
                masks.append(np.roll(coco.annToMask(annotation), rng.randint(-1, 2), 1)[None])
                wrong = rng.rand() < 0.2
                labels.append(rng.randint(10) if wrong else annotation['category_id'] - 1)
        found = dict(
            bboxes=torch.tensor(np.concatenate(boxes), dtype=torch.float32),
            masks=torch.tensor(np.concatenate(masks), dtype=torch.bool),
            scores=torch.tensor(rng.rand(len(labels)), dtype=torch.float32),
            labels=torch.tensor(labels, dtype=torch.long),
        )
        samples.append(dict(img_id=image_id, ori_shape=(96, 96), pred_instances=found))
    return samples


def as_coco_result(image_id: int, kind: str, found: dict, i: int) -> dict:
    result = dict(
        image_id=image_id,
        category_id=int(found['labels'][i]) + 1,
        score=float(found['scores'][i]),
    )
    if kind == 'bbox':
        x1, y1, x2, y2 = found['bboxes'][i].tolist()
        return result | dict(bbox=[x1, y1, x2 - x1, y2 - y1])
    mask = found['masks'][i].numpy().astype(np.uint8)
    return result | dict(segmentation=rle.encode(np.asfortranarray(mask)))


def by_pycocotools(coco: COCO, samples: list[dict], kind: str) -> np.ndarray:
    results = [
        as_coco_result(sample['img_id'], kind, sample['pred_instances'], i)
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
