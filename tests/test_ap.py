"""AP by faster-coco-eval against pycocotools, on the same detections."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sbzoo.data.digits import CLASSES
from sbzoo.metrics.ap import STATS, CocoAP


def detections(coco: COCO, rng: np.random.RandomState) -> list[dict]:
    """Shifted, missed, invented and mislabelled boxes for each picture."""
    samples = []
    for image_id in coco.getImgIds():
        boxes, labels = [], []
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            x, y, w, h = annotation['bbox']
            for _ in range(rng.randint(0, 3)):
                shift = rng.uniform(-0.2, 0.2, 4) * [w, h, w, h]
                boxes.append(np.array([x, y, x + w, y + h]) + shift)
                wrong = rng.rand() < 0.2
                labels.append(rng.randint(10) if wrong else annotation['category_id'] - 1)
        samples.append(
            dict(
                img_id=image_id,
                ori_shape=(96, 96),
                pred_instances=dict(
                    bboxes=torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
                    scores=torch.tensor(rng.rand(len(boxes)), dtype=torch.float32),
                    labels=torch.tensor(labels, dtype=torch.long),
                ),
            )
        )
    return samples


@pytest.fixture
def metric(digits):
    metric = CocoAP(ann_file=str(digits / 'annotations/val.json'))
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def test_equals_pycocotools(metric, digits):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(digits / 'annotations/val.json')
    samples = detections(coco, np.random.RandomState(0))
    metric.process({}, samples)
    ours = metric.evaluate(size=len(samples))

    results = [
        dict(
            image_id=s['img_id'],
            category_id=int(label) + 1,
            bbox=[float(v) for v in (*box[:2], *(box[2:] - box[:2]))],
            score=float(score),
        )
        for s in samples
        for box, score, label in zip(
            s['pred_instances']['bboxes'].numpy(),
            s['pred_instances']['scores'],
            s['pred_instances']['labels'],
            strict=True,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(coco, coco.loadRes(results), 'bbox')
        theirs.evaluate(), theirs.accumulate(), theirs.summarize()
    assert 0.1 < ours['coco/bbox_mAP'] < 0.9
    for name, index in STATS.items():
        assert ours[f'coco/bbox_{name}'] == pytest.approx(theirs.stats[index], abs=1e-6)


def test_no_detections_are_zero(metric):
    empty = dict(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
    )
    metric.process({}, [dict(img_id=1, ori_shape=(96, 96), pred_instances=empty)])
    assert metric.evaluate(size=1)['coco/bbox_mAP'] == 0
