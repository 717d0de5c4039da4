"""FID, KID, precision, recall, density and coverage as a metric of mmengine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS

from sbzoo.errors import UserError
from sbzoo.metrics.compare import PRDC, compare_features
from sbzoo.metrics.extractors import build_extractor, extractor_name
from sbzoo.metrics.extractors.base import frechet_name, kid_name
from sbzoo.metrics.features import Features, Source, cached_features, is_statistics, open_source
from sbzoo.metrics.statistics import FeatureStatistics


@METRICS.register_module()
class FrechetDistance(BaseMetric):
    """FID, KID, precision, recall, density and coverage, under the names of their extractor.

    It takes `fake_img`, uint8 RGB [3, H, W], of every data sample. With statistics as `real` there
    is the Frechet distance alone, as the others need the features of each image. What there are too
    few images for is left out, which the log says.

    Args:
        real: A folder, an .npz file of statistics or images, or the config of a data set whose
            items have `inputs`, uint8 RGB [3, H, W]. Its features are made once and kept in
            $SBZOO_CACHE.
        held_out: Other real images; their distance to `real` is what a perfect generator would
            have, beside which the others are to be read.
        extractor: `digits`, `inception`, `inception:64` or `timm:MODEL`.
        weights: The file of the extractor's weights, where it is not the usual one.
        collect_device: As in every metric of mmengine.
        prefix: Put before every name, with a slash.

    Raises:
        UserError: Images or weights are not there.
    """

    def __init__(
        self,
        real: str | Path | dict,
        held_out: str | Path | dict | None = None,
        extractor: str = 'digits',
        weights: str | Path | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix='unused')  # without one mmengine warns
        self.prefix, self.logged = prefix, False
        self.sources: list[Source] = [open_source(s) for s in (real, held_out) if s is not None]
        self.extractor = build_extractor(extractor, weights)
        if isinstance(self.sources[0], FeatureStatistics):
            self.sources[0].require(self.extractor.d, self.extractor.spec)

    @staticmethod
    def keys_of(
        real: str | Path | dict,
        held_out: str | Path | dict | None = None,
        extractor: str = 'digits',
        prefix: str | None = None,
        **_: Any,
    ) -> tuple[str, ...]:
        """The names of the metrics of a config, given images enough, without building anything."""
        spec = extractor_name(extractor)
        name, kid = frechet_name(spec), kid_name(spec)
        keys = [name]
        if isinstance(real, dict) or not is_statistics(real):
            keys += [kid, f'{kid}-std', *PRDC]
        if held_out is not None:
            keys.append(f'{name}-real')
        return tuple(f'{prefix}/{key}' if prefix else key for key in keys)

    def require(self, generated: int) -> None:
        """Check that the evaluation will have images enough, which a training should not find out.

        Raises:
            UserError: A set is of less than the two images that a covariance takes.
        """
        images = [source for source in self.sources if not isinstance(source, FeatureStatistics)]
        counts = {f'real (in {getattr(s, "data_root", s)})': len(s) for s in images}
        for what, count in {**counts, 'generated': generated}.items():
            if count < 2:
                raise UserError(
                    f'the evaluation has {count} {what} image(s), and a distance takes two or more'
                )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the features of a batch of generated images."""
        features = self.extractor([sample['fake_img'] for sample in data_samples])
        self.results.extend(features.numpy())

    def evaluate(self, size: int) -> dict[str, float]:
        """As every metric, after the features of the real images, in which all ranks share."""
        _ = self.reference
        return super().evaluate(size)

    @cached_property
    def reference(self) -> tuple[Features, float | None]:
        """The features of the real images, and the distance of the others that were held out."""
        keep = not isinstance(self.sources[0], FeatureStatistics)
        real = cached_features(self.sources[0], self.extractor, keep)
        if len(self.sources) == 1:
            return real, None
        held_out = cached_features(self.sources[1], self.extractor, keep=False)
        return real, real.statistics.frechet_distance(held_out.statistics)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """All metrics, from the features [d] of each generated image."""
        real, between_real = self.reference
        spec, each = self.extractor.spec, real.each is not None
        fake = Features.of(torch.stack([torch.as_tensor(row) for row in results]), spec)
        metrics, warnings = compare_features(spec, real, fake, kid=each, prdc=each, strict=False)
        self._log_once(real, fake, warnings)
        if between_real is not None:
            metrics[f'{frechet_name(spec)}-real'] = between_real
        return metrics

    def _log_once(self, real: Features, fake: Features, warnings: tuple[str, ...]) -> None:
        """The protocol, and warnings if there are too few images."""
        if self.logged:
            return
        self.logged = True
        counts = f'{real.statistics.n or "?"} real and {fake.statistics.n} generated images'
        name = frechet_name(self.extractor.spec)
        print_log(f'{name}: {counts}; {self.extractor.protocol}', 'current')
        for warning in warnings:
            print_log(warning, 'current', logging.WARNING)
