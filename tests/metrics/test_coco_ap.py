"""AP by hotcoco against pycocotools, on the same detections."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from benchmarks.ap import Pycocotools, Version030, outcome, synthetic
from benchmarks.ap_cases import CASES, case
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sbzoo
from sbzoo.data.embedded.digit_scenes import CLASSES
from sbzoo.metrics.coco_ap import STATS, CocoAP

EMPTY = dict(
    bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
)
PLAIN = next(iter(CASES))


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


def by_pycocotools(coco: COCO, samples: list[dict], kind: str, **params) -> np.ndarray:
    results = [
        as_coco_result(coco, sample['img_id'], kind, sample['pred_instances'], i)
        for sample in samples
        for i in range(len(sample['pred_instances']['labels']))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        vars(evaluation.params).update(params)
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return evaluation.stats


@pytest.fixture
def coco(digits):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(digits / 'annotations/val.json')


@pytest.fixture
def metric(digits):
    metric = CocoAP(ann_file=str(digits / 'annotations/val.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def assert_equal(ours: dict[str, float], kind: str, theirs: np.ndarray) -> None:
    assert 0.1 < theirs[0] < 0.9
    for name, index in STATS.items():
        assert ours[f'coco/{kind}_{name}'] == pytest.approx(theirs[index], abs=1e-12), name


def test_boxes_and_masks_equal_pycocotools(metric, coco):
    samples = detections(coco, np.random.RandomState(0))
    metric.process({}, samples)
    ours = metric.evaluate(size=len(samples))
    for kind in ('bbox', 'segm'):
        assert_equal(ours, kind, by_pycocotools(coco, samples, kind))


def test_classes_may_be_some_of_the_file(metric, coco):
    samples, chosen = detections(coco, np.random.RandomState(1)), [2, 5, 7]
    for sample in samples:
        found = sample['pred_instances']
        kept = torch.isin(found['labels'], torch.tensor(chosen))
        found |= {key: value[kept] for key, value in found.items()}
    cat_ids = [coco.getCatIds()[label] for label in chosen]
    theirs = by_pycocotools(coco, samples, 'bbox', catIds=cat_ids)
    metric.dataset_meta = dict(classes=[CLASSES[label] for label in reversed(chosen)])
    for sample in samples:
        found = sample['pred_instances']
        found['labels'] = torch.searchsorted(torch.tensor(chosen), found['labels'])
    metric.process({}, samples)
    assert_equal(metric.evaluate(size=len(samples)), 'bbox', theirs)


@pytest.mark.parametrize('name', CASES)
def test_hard_cases_equal_pycocotools(name):
    truth, samples = case(name)
    ours, theirs = (
        outcome(kind, truth, samples, metric=['bbox', 'segm']) for kind in (CocoAP, Pycocotools)
    )
    np.testing.assert_allclose(ours.ap, theirs.ap, rtol=0, atol=1e-12)


def test_a_box_whose_width_is_nan_matches_nothing():
    with_nan, (truth, samples) = case(PLAIN), case(PLAIN)
    for sample in with_nan.samples:
        sample['pred_instances']['bboxes'][::3, 2] = np.nan
    for sample in samples:
        sample['pred_instances']['bboxes'][::3] = 0
    of_all_areas = [STATS[name] for name in ('mAP', 'mAP_50', 'mAP_75')]
    ours, theirs = (outcome(*of).ap for of in ((CocoAP, *with_nan), (Pycocotools, truth, samples)))
    np.testing.assert_allclose(ours[of_all_areas], theirs[of_all_areas], rtol=0, atol=1e-12)


@pytest.mark.parametrize('first', [0, -1, 2**53, 2**63])
def test_what_is_all_found_has_ap_1(first, tmp_path):
    boxes = {first + n: (n, n, n + 40, n + 40) for n in range(3)}
    content = dict(
        images=[dict(id=i, width=96, height=96) for i in boxes],
        categories=[dict(id=first, name='only')],
        annotations=[
            dict(id=i, image_id=i, category_id=first, **square(*box)) for i, box in boxes.items()
        ],
    )
    (tmp_path / 'val.json').write_text(json.dumps(content))
    metric = CocoAP(ann_file=str(tmp_path / 'val.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=['only'])
    for image_id, (x1, y1, x2, y2) in boxes.items():
        found = dict(
            bboxes=torch.tensor([[x1, y1, x2, y2]]),
            masks=torch.zeros(1, 96, 96, dtype=torch.bool),
            scores=torch.ones(1),
            labels=torch.zeros(1, dtype=torch.long),
        )
        found['masks'][:, y1:y2, x1:x2] = True
        metric.process({}, [dict(img_id=image_id, ori_shape=(96, 96), pred_instances=found)])
    ap = metric.evaluate(size=3)
    assert [ap['coco/bbox_mAP'], ap['coco/segm_mAP']] == pytest.approx([1, 1])


def square(x1: int, y1: int, x2: int, y2: int) -> dict:
    """Of an annotation that does not say whether it is a crowd."""
    polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
    width, height = x2 - x1, y2 - y1
    return dict(bbox=[x1, y1, width, height], area=width * height, segmentation=[polygon])


def test_predictions_for_unknown_images_are_refused(metric):
    metric.process({}, [dict(img_id=10**6, ori_shape=(96, 96), pred_instances=EMPTY)])
    with pytest.raises(sbzoo.UserError, match=r'image id 1000000, not in .*val\.json'):
        metric.evaluate(size=1)


@pytest.mark.parametrize('peer', [Pycocotools, Version030])
def test_equals_its_peers_on_a_set_like_coco(peer):
    truth, samples = synthetic(80, np.random.RandomState(1))
    ours, theirs = (outcome(kind, truth, samples).ap for kind in (CocoAP, peer))
    assert (ours > 0.05).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_no_detections_are_zero(metric):
    metric.metrics = ['bbox']
    metric.process({}, [dict(img_id=1, ori_shape=(96, 96), pred_instances=EMPTY)])
    assert metric.evaluate(size=1)['coco/bbox_mAP'] == 0


def test_says_which_metrics_there_are(digits):
    with pytest.raises(sbzoo.UserError, match='proposal is none of bbox, segm'):
        CocoAP(ann_file=str(digits / 'annotations/val.json'), metric='proposal')
