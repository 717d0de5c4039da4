"""The feature extractors by name."""

from __future__ import annotations

from pathlib import Path

from mmengine.device import get_device

from sbzoo.errors import UserError
from sbzoo.metrics.extractors.base import Extractor
from sbzoo.metrics.extractors.digits import Digits
from sbzoo.metrics.extractors.inception import Inception, inception_dims
from sbzoo.metrics.extractors.timm import Timm

SPECS = {
    'inception': 'FID; inception:64, :192 and :768 are earlier layers, and no FID',
    'digits': 'FD-digits, of the digit classifier that sbzoo embeds',
    'timm:MODEL': 'FD-timm-MODEL, of any network of timm; its weights are a local file',
}


def extractor_name(spec: str) -> str:
    """The name of an extractor as numbers carry it: `inception:2048` is `inception`.

    Raises:
        UserError: There is no such extractor.
    """
    kind, _, detail = spec.partition(':')
    if kind == 'inception':
        return 'inception' if feature_dims(spec) == 2048 else spec
    if spec != 'digits' and (kind != 'timm' or not detail):
        raise UserError(f'no extractor {spec!r}; there are {", ".join(SPECS)}')
    return spec


def feature_dims(spec: str) -> int | None:
    """The dimensions of an extractor's features, where its name tells them.

    Raises:
        UserError: Inception has no such features.
    """
    kind, _, detail = spec.partition(':')
    if kind == 'inception':
        return inception_dims(detail or '2048')
    return Digits.d if kind == 'digits' else None


def build_extractor(spec: str, weights: str | Path | None = None) -> Extractor:
    """An extractor, in evaluation mode, on the device that mmengine chooses.

    Args:
        spec: `inception`, `inception:64`, `timm:MODEL` or `digits`.
        weights: The file of its weights, where it is not the usual one.

    Raises:
        UserError: No such extractor, or no such weights.
    """
    kind, _, detail = extractor_name(spec).partition(':')
    if kind == 'timm':
        extractor = Timm(detail, weights)
    elif kind == 'inception':
        extractor = Inception(weights, feature_dims(spec))
    else:
        extractor = Digits(weights)
    return extractor.eval().requires_grad_(False).to(get_device())
