"""AP of a synthetic validation set, beside pycocotools and version 0.3.0, and of hard cases."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple
from unittest import mock

import faster_coco_eval
import numpy as np
import torch
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from pycocotools.cocoeval import COCOeval

from benchmarks import output
from benchmarks.ap_cases import CASES, case
from sbzoo import records
from sbzoo.metrics.coco_ap import STATS, CocoAP
from sbzoo.records import Measurement
from sbzoo.report.measurements import compared
from sbzoo.tools.cli import positive_int, seed

HEIGHT, WIDTH = 480, 640  # pixels
CLASSES = tuple(f'class {i}' for i in range(80))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How large the validation set is."""
    parser.add_argument('--images', type=positive_int, default=5000, metavar='N')
    parser.add_argument('--seed', type=seed, default=0, metavar='N')
    parser.add_argument('--rounds', type=positive_int, default=3, metavar='N')
    output.add_out(parser, 'ap.jsonl')


def run(args: argparse.Namespace) -> None:
    """Evaluate the same detections by each metric; times, ratios and differences go on record."""
    truth, samples = synthetic(args.images, np.random.RandomState(args.seed))
    metrics = CocoAP, Pycocotools, Version030
    rounds = [[outcome(metric, truth, samples) for metric in metrics] for _ in range(args.rounds)]
    by_ours, by_mmdet, by_030 = (_median(outcomes) for outcomes in zip(*rounds, strict=True))
    count = sum(len(sample['pred_instances']['scores']) for sample in samples)
    protocol = dict(images=args.images, detections=count, seed=args.seed, rounds=args.rounds)
    what = "AP of synthetic images like COCO's, seconds of CPU"
    before = f'{what}; version 0.3.0 in place of MMDetection'
    found = [
        _measured(what, by_ours, by_mmdet, protocol, ('mmdet', 'pycocotools')),
        _measured(before, by_ours, by_030, protocol, ('faster-coco-eval',)),
        _hard_cases(),
    ]
    records.record(args.out, found)
    output.show(args.out, compared('MMDetection', found))


class Outcome(NamedTuple):
    """What a metric took and gave."""

    seconds: float  # of all threads, whatever else the machine does
    ap: np.ndarray  # as in STATS; of boxes, then of masks where they were asked for


def _median(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(statistics.median(outcome.seconds for outcome in outcomes), outcomes[0].ap)


def _measured(
    what: str, ours: Outcome, theirs: Outcome, protocol: dict, peers: tuple[str, ...]
) -> Measurement:
    figures = dict(
        peer=theirs.seconds,
        sbzoo=ours.seconds,
        ratio=theirs.seconds / ours.seconds,
        difference=np.abs(ours.ap - theirs.ap).max(),
        peer_ap=theirs.ap[0],
        sbzoo_ap=ours.ap[0],
    )
    return records.measurement(dict(what=what), figures, protocol, (*peers, 'hotcoco'))


def _hard_cases() -> Measurement:
    """All of `ap_cases`, by boxes and masks: the time of all, and the largest difference."""
    sides = []
    for metric in (CocoAP, Pycocotools):
        outcomes = [outcome(metric, *case(name), metric=['bbox', 'segm']) for name in CASES]
        seconds, ap = zip(*outcomes, strict=True)
        sides.append(Outcome(sum(seconds), np.concatenate(ap)))
    what = f'AP of {len(CASES)} hard cases, boxes and masks, seconds of CPU'
    return _measured(what, *sides, dict(cases=len(CASES)), ('mmdet', 'pycocotools'))


def outcome(kind: type[CocoMetric], truth: dict, samples: list[dict], **options) -> Outcome:
    """Evaluate detections.

    Args:
        kind: `CocoAP`, `Pycocotools` or `Version030`.
        truth: Annotations in the COCO format.
        samples: As `CocoMetric.process` takes them.
        **options: Of the metric.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / 'val.json'
        file.write_text(json.dumps(truth))
        metric = kind(ann_file=str(file), **options)
        metric.dataset_meta = dict(classes=[entry['name'] for entry in truth['categories']])
        metric.process({}, samples)
        start = time.process_time()
        found = metric.evaluate(size=len(samples))
        return Outcome(time.process_time() - start, np.array(list(found.values())))


class Pycocotools(CocoMetric):
    """MMDetection's metric, with all digits, COCO's limit of 100 detections, and no annotation 0.

    The metric rounds to three digits, and pycocotools takes the annotation id 0 for no match.
    """

    def __init__(self, ann_file: str, metric: str | Sequence[str] = 'bbox') -> None:
        truth = json.loads(Path(ann_file).read_text())
        for i, entry in enumerate(truth['annotations'], start=1):
            entry['id'] = i
        Path(ann_file).write_text(json.dumps(truth))
        super().__init__(ann_file, metric, proposal_nums=(1, 10, 100))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """AP and AR as in `STATS`."""
        with mock.patch.object(coco_metric, 'COCOeval', _Recorded):
            super().compute_metrics(results)
        return {
            f'{metric}_{name}': _Recorded.stats_of[metric][i]
            for metric in self.metrics
            for name, i in STATS.items()
        }


class _Recorded(COCOeval):
    """Keeps the statistics of the last evaluation of boxes, and of masks."""

    stats_of: ClassVar[dict[str, np.ndarray]] = {}

    def summarize(self) -> None:
        super().summarize()
        self.stats_of[self.params.iouType] = self.stats


class Version030(CocoMetric):
    """AP of boxes as in version 0.3.0: by faster-coco-eval, from a dict for each detection."""

    def __init__(self, ann_file: str) -> None:
        super(CocoMetric, self).__init__()
        self._coco_api = faster_coco_eval.COCO(ann_file, print_function=lambda *_: None)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """AP and AR as in `STATS`."""
        cat_ids = self._coco_api.getCatIds(catNms=self.dataset_meta['classes'])
        detections = [
            dict(
                image_id=found['img_id'],
                category_id=cat_ids[label],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                score=score,
            )
            for _, found in results
            for (x1, y1, x2, y2), score, label in zip(
                *(found[key].tolist() for key in ('bboxes', 'scores', 'labels')), strict=True
            )
        ]
        evaluation = faster_coco_eval.COCOeval_faster(
            self._coco_api,
            self._coco_api.loadRes(detections),
            'bbox',
            print_function=lambda *_: None,
        )
        evaluation.run()
        return {f'bbox_{name}': evaluation.stats[i] for name, i in STATS.items()}


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
