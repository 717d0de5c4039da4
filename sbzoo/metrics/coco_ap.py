"""COCO average precision by hotcoco, tens of times as fast as pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hotcoco import COCO, COCOeval, mask
from mmdet.evaluation.metrics import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from sbzoo.errors import UserError

STATS = dict(mAP=0, mAP_50=1, mAP_75=2, mAP_s=3, mAP_m=4, mAP_l=5, AR_100=8)


@METRICS.register_module()
class CocoAP(CocoMetric):
    """AP of boxes, and of masks with `metric=['bbox', 'segm']`, named as in `CocoMetric`.

    Numbers are pycocotools' to 1e-12, at its limit of 100 detections of a class in an image; scores
    that are NaN rank last. Only the arithmetic is hotcoco's, and detections go to it as arrays,
    where `CocoMetric` writes a JSON file and reads it again. In two things pycocotools is not
    followed: it takes the annotation id 0 for none, here any integer is an id; and by it a box
    whose width is NaN matches any object, here none.

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
        content = json.loads(self._file.read_text(encoding='utf-8'))
        self._images, categories = (_numbers(content[key]) for key in ('images', 'categories'))
        self._classes = {categories[entry['id']]: entry['name'] for entry in content['categories']}
        self._coco_api = _truth(content, self._images, categories, 'segm' in self.metrics)

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
        if not any(len(prediction['labels']) for prediction in predictions):
            MMLogger.get_current_instance().warning(f'{metric}: no detections, so AP is 0')
            return {f'{metric}_{name}': 0.0 for name in STATS}
        wanted = self.dataset_meta['classes']
        cat_ids = [number for number, name in self._classes.items() if name in wanted]
        found = DETECTIONS[metric](self._coco_api, predictions, cat_ids)
        evaluation = COCOeval(self._coco_api, found, metric)
        evaluation.params.cat_ids = sorted(cat_ids)  # the order of pycocotools' mean over classes
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.run()
        return {f'{metric}_{name}': float(evaluation.stats[i]) for name, i in STATS.items()}


def _numbers(entries: list[dict]) -> dict[int, int]:
    """Ids counted from 1: hotcoco has no negative ids, and arrays of detections are of doubles.

    Images stay in the order of their ids, in which detections of equal score are ranked.
    """
    return {old: new for new, old in enumerate(sorted(entry['id'] for entry in entries), 1)}


def _truth(
    content: dict, images: dict[int, int], categories: dict[int, int], with_masks: bool
) -> COCO:
    """The annotations of known images and categories, and of them what AP depends on.

    hotcoco checks the types of all fields of the format, and exporters leave zeros and empty
    strings in those that they have no use for.
    """
    known = [
        entry
        for entry in content.get('annotations', [])
        if entry['image_id'] in images and entry['category_id'] in categories
    ]
    return COCO.from_arrays(
        [
            dict(id=images[entry['id']], width=entry['width'], height=entry['height'])
            for entry in content['images']
        ],
        [dict(id=number, name=str(number)) for number in categories.values()],
        [images[entry['image_id']] for entry in known],
        [categories[entry['category_id']] for entry in known],
        [entry['bbox'] for entry in known],
        area=[entry['area'] for entry in known],
        iscrowd=[entry.get('iscrowd', 0) for entry in known],
        segmentation=[entry['segmentation'] for entry in known] if with_masks else None,
    )


def _boxes(truth: COCO, predictions: list[dict], cat_ids: list[int]) -> COCO:
    """The boxes of all images as COCO results."""
    scores = [prediction['scores'] for prediction in predictions]
    return truth.load_res(_rows(predictions, scores, cat_ids))


def _masks(truth: COCO, predictions: list[dict], cat_ids: list[int]) -> COCO:
    """The masks of all images as COCO results, of their own areas and not those of boxes."""
    scores = [prediction.get('mask_scores', prediction['scores']) for prediction in predictions]
    masks = [rle for prediction in predictions for rle in prediction['masks']]
    found = truth.load_res(_rows(predictions, scores, cat_ids), segmentation=masks)
    found.update_anns(ids=np.arange(1, len(masks) + 1), area=mask.area(masks))
    return found


def _rows(predictions: list[dict], scores: list[np.ndarray], cat_ids: list[int]) -> np.ndarray:
    """Detections [N, 7]: image, x, y, width, height, score, category."""
    counts = [len(prediction['labels']) for prediction in predictions]
    images = np.repeat([prediction['img_id'] for prediction in predictions], counts)
    labels = np.concatenate([prediction['labels'] for prediction in predictions])
    corners = np.concatenate([prediction['bboxes'] for prediction in predictions])
    corners = corners.astype(np.float64)  # as CocoMetric subtracts them
    ranked = np.concatenate(scores)
    ranked = np.where(np.isnan(ranked), -np.inf, ranked)  # last; hotcoco refuses NaN
    sizes = corners[:, 2:] - corners[:, :2]
    return np.column_stack([images, corners[:, :2], sizes, ranked, np.take(cat_ids, labels)])


DETECTIONS = dict(bbox=_boxes, segm=_masks)
