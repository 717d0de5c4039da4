"""The numbers of a card's weights, measured anew."""

from __future__ import annotations

import logging
import tempfile

from mmengine.config import Config

from sbzoo.engine.options.config import use_sbzoo
from sbzoo.engine.train import test

# Of detectors; generators name their metrics themselves.
METRICS = {'coco/bbox_mAP': 'box AP', 'coco/bbox_mAP_50': 'box AP50', 'coco/segm_mAP': 'mask AP'}


def metric_name(key: str) -> str:
    """What cards call a metric of an evaluation."""
    return METRICS.get(key, key.rpartition('/')[2])


def evaluate(cfg: Config, reference: str) -> dict[str, float]:
    """The metrics of weights by a config of their model, by the names that cards have.

    Raises:
        UserError: The weights are not found, cannot be downloaded, or are of another model.
    """
    use_sbzoo(cfg)
    # mmengine keeps visualizers by name, and so the folder of the one before
    cfg.visualizer.update(name=f'check {reference}', vis_backends=[])
    with tempfile.TemporaryDirectory() as folder:
        cfg.update(work_dir=folder, log_level='WARNING', launcher='none')
        runner, metrics = test(cfg, reference)
        _close_log(runner.logger)
    return {metric_name(key): value for key, value in metrics.items()}


def _close_log(logger: logging.Logger) -> None:
    """Let go of files in a folder that goes, as mmengine goes on with the last logger."""
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
            handler.close()
