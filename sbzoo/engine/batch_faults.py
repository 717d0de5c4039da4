"""What is wrong in a batch, by file: for a loss that is not finite."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.structures import BaseDataElement
from torch import Tensor

SHOWN = 4  # files in a message
FAR = 10  # sizes of a picture, beyond which a box is absurd


def faults(batch: dict) -> list[str]:
    """Pixels and boxes that no loss can be made of, with the file that each is of."""
    inputs, samples = batch.get('inputs', ()), _samples(batch)
    domains = inputs.values() if isinstance(inputs, dict) else [inputs]
    return [
        f'{_name(sample)}: {fault}'
        for *images, sample in zip(*domains, samples, strict=False)
        for fault in (*_of_pixels(images), *_of_boxes(images[0], sample))
    ]


def files(batch: dict) -> list[str]:
    """The files that a batch is of."""
    return [_name(sample) for sample in _samples(batch)]


def listed(parts: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = [f'{len(parts) - SHOWN} more'] * (len(parts) > SHOWN)
    return ', '.join([*parts[:SHOWN], *more])


def _samples(batch: dict) -> list[BaseDataElement]:
    """Those of semi-supervised detectors, a dict of lists, are none that can be named here."""
    samples = batch.get('data_samples')
    return samples if isinstance(samples, list) else []


def _name(sample: BaseDataElement) -> str:
    return str(sample.get('img_path', 'a picture without img_path'))


def _of_pixels(images: list[Tensor]) -> Iterator[str]:
    for image in images:
        if wrong := image.numel() - int(image.isfinite().sum()):
            yield f'{wrong} of its {image.numel()} values are not finite'


def _of_boxes(image: Tensor, sample: BaseDataElement) -> Iterator[str]:
    """Of a detector's sample [C, H, W]."""
    boxes = sample.gt_instances.get('bboxes', ()) if 'gt_instances' in sample else ()
    for box in getattr(boxes, 'tensor', boxes):
        left, top, right, bottom = box.tolist()
        shown = f'box [{left:g}, {top:g}, {right:g}, {bottom:g}]'
        if not box.isfinite().all():
            yield f'{shown} is not finite'
        elif right <= left or bottom <= top:
            yield f'{shown} has no area'
        elif box.abs().max() > FAR * max(image.shape[1:]):
            yield f'{shown} is far outside of {image.shape[2]} x {image.shape[1]} pixels'
