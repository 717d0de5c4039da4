"""L1 distance between translated images and their targets."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class PairDistance(BaseMetric):
    """L1: the mean absolute difference of `fake_img` and `target_img`, of 255."""

    @staticmethod
    def keys_of(**_: object) -> tuple[str, ...]:
        """The names of the metrics of a config."""
        return ('L1',)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Take in a batch; images are uint8 [3, H, W]."""
        for sample in data_samples:
            difference = sample['fake_img'].float() - sample['target_img'].float()
            self.results.append(difference.abs().mean().item())

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """The mean over all pairs."""
        return dict(L1=sum(results) / len(results))
