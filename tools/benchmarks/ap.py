"""COCO evaluation of a synthetic validation set, beside MMDetection's metric (pycocotools)."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmengine.evaluator import BaseMetric
from pycocotools.cocoeval import COCOeval

from benchmarks import records
from sbzoo.metrics.coco_ap import CocoAP
from sbzoo.report.measurements import compared
from sbzoo.tools.cli import positive_int

HEIGHT, WIDTH = 480, 640  # pixels
CLASSES = tuple(f'class {i}' for i in range(80))
APS = 6  # the first of the numbers of both


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How large the validation set is."""
    parser.add_argument('--images', type=positive_int, default=5000, metavar='N')
    parser.add_argument('--seed', type=int, default=0, metavar='N')
    records.add_out(parser, 'ap.jsonl')


def run(args: argparse.Namespace) -> None:
    """Evaluate the same detections by both metrics; times, ratio and difference go on record."""
    truth, samples = synthetic(args.images, np.random.RandomState(args.seed))
    ours, theirs = compare(truth, samples)
    count = sum(len(sample['pred_instances']['scores']) for sample in samples)
    found = records.measurement(
        dict(what="AP of synthetic images like COCO's, seconds"),
        dict(
            peer=theirs.seconds,
            sbzoo=ours.seconds,
            ratio=theirs.seconds / ours.seconds,
            difference=np.abs(ours.ap - theirs.ap).max(),
            peer_ap=theirs.ap[0],
            sbzoo_ap=ours.ap[0],
        ),
        dict(images=args.images, detections=count, seed=args.seed),
        ('mmdet', 'pycocotools', 'faster-coco-eval'),
    )
    records.record(args.out, [found])
    records.show(args.out, compared('MMDetection', [found]))


class Outcome(NamedTuple):
    """What a metric took and gave."""

    seconds: float
    ap: np.ndarray  # mAP, mAP_50, mAP_75, mAP_s, mAP_m, mAP_l


def compare(truth: dict, samples: list[dict]) -> tuple[Outcome, Outcome]:
    """`CocoAP` and MMDetection's `CocoMetric` on the same annotations and detections."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / 'val.json'
        file.write_text(json.dumps(truth))
        seconds, metrics = _timed(CocoAP(str(file)), samples)
        ours = Outcome(seconds, np.array(list(metrics.values())[:APS]))
        # CocoMetric rounds to three digits, so its numbers are taken where it has them whole
        with mock.patch.object(coco_metric, 'COCOeval', _Recorded):
            seconds, _ = _timed(CocoMetric(str(file)), samples)
    return ours, Outcome(seconds, _Recorded.last_stats[:APS])


class _Recorded(COCOeval):
    """Keeps the statistics of the last evaluation."""

    last_stats: np.ndarray

    def summarize(self) -> None:
        super().summarize()
        _Recorded.last_stats = self.stats


def _timed(metric: BaseMetric, samples: list[dict]) -> tuple[float, dict[str, float]]:
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    start = time.perf_counter()
    metrics = metric.evaluate(size=len(samples))
    return time.perf_counter() - start, metrics


def synthetic(images: int, rng: np.random.RandomState) -> tuple[dict, list[dict]]:
    """A validation set like COCO's and what a middling detector finds in it.

    On average 7.3 objects an image, of all sizes, 1% of them crowds; 20 to 100 detections an
    image, four in five of them around an object.

    Returns:
        Annotations in the COCO format, and data samples as `CocoMetric.process` takes them.
    """
    truth = dict(
        images=[dict(id=i, width=WIDTH, height=HEIGHT) for i in range(1, images + 1)],
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)],
        annotations=[],
    )
    samples = []
    for image in truth['images']:
        boxes, labels = _objects(rng.poisson(7.3), rng)
        _annotate(truth['annotations'], image['id'], boxes, labels, rng)
        found = _detections(boxes, labels, rng)
        samples.append(dict(img_id=image['id'], ori_shape=(HEIGHT, WIDTH), pred_instances=found))
    return truth, samples


def _objects(count: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] as x, y, width, height, and labels [N], of which half are of one class."""
    size = np.exp(rng.normal(4, 1, (count, 2))).clip(4, (WIDTH, HEIGHT))
    corner = rng.rand(count, 2) * ((WIDTH, HEIGHT) - size)
    labels = rng.randint(len(CLASSES), size=count)
    labels[: count // 2] = rng.randint(len(CLASSES))
    return np.hstack([corner, size]), labels


def _annotate(
    annotations: list[dict],
    image_id: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.RandomState,
) -> None:
    for (x, y, w, h), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=image_id,
                category_id=label + 1,
                bbox=[x, y, w, h],
                area=0.7 * w * h,  # a mask fills its box by so much
                iscrowd=int(rng.rand() < 0.01),
            )
        )


def _detections(
    boxes: np.ndarray, labels: np.ndarray, rng: np.random.RandomState
) -> dict[str, torch.Tensor]:
    """Shifted and resized copies of objects, a third of another class, and invented boxes."""
    found, classes = _objects(rng.randint(20, 101), rng)
    copies = np.flatnonzero(rng.rand(len(found)) < 0.8) if len(boxes) else np.empty(0, int)
    source = rng.randint(max(len(boxes), 1), size=len(copies))
    found[copies] = (
        boxes[source] + rng.normal(0, 0.1, (len(copies), 4)) * boxes[source][:, [2, 3, 2, 3]]
    )
    right = rng.rand(len(copies)) < 2 / 3
    classes[copies[right]] = labels[source[right]]
    found[:, 2:] = found[:, :2] + np.abs(found[:, 2:])
    return dict(
        bboxes=torch.tensor(found, dtype=torch.float32),
        scores=torch.tensor(rng.rand(len(found)), dtype=torch.float32),
        labels=torch.tensor(classes),
    )
