"""COCO average precision by faster-coco-eval, many times as fast as pycocotools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation.metrics import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from sbzoo.errors import UserError

STATS = dict(mAP=0, mAP_50=1, mAP_75=2, mAP_s=3, mAP_m=4, mAP_l=5, AR_100=8)


@METRICS.register_module()
class CocoAP(CocoMetric):
    """AP of boxes, and of masks with `metric=['bbox', 'segm']`, named as in `CocoMetric`.

    Numbers are pycocotools' to 1e-6; only the arithmetic is faster-coco-eval's, and detections go
    to it from memory, where `CocoMetric` writes a JSON file and reads it again. Ids may be any
    integers: both libraries take the annotation id 0 for none, here it is an id like the others.

    Args:
        ann_file: Annotations in the COCO format.
        metric: `bbox`, `segm`, or a list of both.
        **options: `collect_device`, `collect_dir` and `prefix`, as in every metric of mmengine.

    Raises:
        UserError: Another metric, or a prediction for an image that is not in the file.
    """

    def __init__(self, ann_file: str, metric: str | Sequence[str] = 'bbox', **options) -> None:
        super(CocoMetric, self).__init__(**options)
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        if not set(self.metrics) <= DETECTIONS.keys():
            raise UserError(f'CocoAP: metric {metric} is none of {", ".join(DETECTIONS)}')
        self._file = Path(ann_file).expanduser()
        content, self._images = _renumbered(json.loads(self._file.read_text(encoding='utf-8')))
        self._coco_api = COCO(content, print_function=lambda *_: None)

    @staticmethod
    def keys_of(metric: str | Sequence[str] = 'bbox', **_: object) -> list[str]:
        """The names of the metrics of a config, without building anything."""
        metrics = [metric] if isinstance(metric, str) else metric
        return [f'coco/{metric}_{name}' for metric in metrics for name in STATS]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """AP over all images, from the (ground truth, prediction) pairs that `process` kept."""
        predictions = [self._renumber(prediction) for _, prediction in results]
        metrics: dict[str, float] = {}
        for metric in self.metrics:
            metrics |= self._evaluate(predictions, metric)
        return metrics

    def _renumber(self, prediction: dict) -> dict:
        image_id = prediction['img_id']
        if image_id not in self._images:
            raise UserError(f'CocoAP: a prediction for image id {image_id}, not in {self._file}')
        return prediction | dict(img_id=self._images[image_id])

    def _evaluate(self, predictions: list[dict], metric: str) -> dict[str, float]:
        cat_ids = self._coco_api.getCatIds(catNms=self.dataset_meta['classes'])
        detections = [d for p in predictions for d in DETECTIONS[metric](p, cat_ids)]
        if not detections:
            MMLogger.get_current_instance().warning(f'{metric}: no detections, so AP is 0')
            return {f'{metric}_{name}': 0.0 for name in STATS}
        found = self._coco_api.loadRes(detections)
        evaluation = COCOeval_faster(self._coco_api, found, metric, print_function=lambda *_: None)
        evaluation.params.catIds = cat_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return {f'{metric}_{name}': float(evaluation.stats[i]) for name, i in STATS.items()}


def _renumbered(content: dict) -> tuple[dict, dict[int, int]]:
    """The same annotations with ids counted from 1, and the new id of each image.

    faster-coco-eval takes the annotation id 0 for no match and passes ids through doubles. Images
    stay in the order of their ids, in which detections of equal score are ranked.
    """
    images, categories = (
        {old: new for new, old in enumerate(sorted(entry['id'] for entry in content[section]), 1)}
        for section in ('images', 'categories')
    )
    annotations = [
        entry | dict(id=new, image_id=images[image], category_id=categories[category])
        for new, entry in enumerate(content.get('annotations', []), 1)
        if (image := entry['image_id']) in images
        and (category := entry['category_id']) in categories
    ]
    renumbered = dict(
        images=[entry | dict(id=images[entry['id']]) for entry in content['images']],
        categories=[entry | dict(id=categories[entry['id']]) for entry in content['categories']],
        annotations=annotations,
    )
    return renumbered, images


def _boxes(prediction: dict, cat_ids: list[int]) -> list[dict]:
    """The boxes of an image as COCO results."""
    corners = prediction['bboxes'].astype(np.float64)  # as CocoMetric subtracts them
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    columns = boxes.tolist(), prediction['scores'].tolist(), prediction['labels'].tolist()
    return [
        dict(image_id=prediction['img_id'], category_id=cat_ids[label], bbox=box, score=score)
        for box, score, label in zip(*columns, strict=True)
    ]


def _masks(prediction: dict, cat_ids: list[int]) -> list[dict]:
    """The masks of an image as COCO results; without boxes, whose area would count for theirs."""
    scores = prediction.get('mask_scores', prediction['scores'])
    columns = prediction['masks'], scores.tolist(), prediction['labels'].tolist()
    return [
        dict(
            image_id=prediction['img_id'],
            category_id=cat_ids[label],
            segmentation=mask,
            score=score,
        )
        for mask, score, label in zip(*columns, strict=True)
    ]


DETECTIONS = dict(bbox=_boxes, segm=_masks)
