"""The norms of any MMDetection detector are told what in a batch is picture and what padding.

Pictures are padded twice: by a `Pad` of the pipeline (letterboxing), after which MMDetection takes
the padded picture for the picture, and by the data preprocessor, to the largest of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from mmcv.transforms import Pad
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.norm import Norm
from sbzoo.norm.padding import Pictures, Size, within, without_padding, zero

POOLS = nn.MaxPool2d, nn.AvgPool2d

PADDED = 'padded_picture'  # in the results of a pipeline
FRACTION = 'picture_fraction'  # in the metainfo of a sample: of height and width


def _telling_norms(forward: Callable) -> Callable:
    @wraps(forward)
    def told(
        self: BaseDetector, inputs: Tensor, data_samples: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        layers = layers_of_pictures(self)
        pictures = pictures_of(inputs, data_samples) if layers else None
        if pictures is not None:
            inputs = zero(inputs.clone(), pictures.on(inputs))
        with within(layers, pictures):
            return forward(self, inputs, data_samples, *args, **kwargs)

    return told


def layers_of_pictures(detector: BaseDetector) -> list[nn.Module]:
    """The norms that see maps of whole pictures and leave padding out, and the pools there.

    A pool reaches past the border that a norm before it has made. Layers of RoIs see no padding.
    """
    of_rois = set(detector.roi_head.modules()) if hasattr(detector, 'roi_head') else set()
    layers = [module for module in detector.modules() if module not in of_rois]
    norms = [module for module in layers if _leaves_padding_out(module)]
    pools = [_with_border(m) for m in layers if isinstance(m, POOLS)] if norms else []
    return norms + pools


def zero_behind_batch_norms(detector: BaseDetector) -> None:
    """Let torch's batch norms leave padding out too, in evaluation: theirs are fixed statistics."""
    for module in detector.modules():
        if isinstance(module, _BatchNorm):
            _with_border(module).pictures = None


def _leaves_padding_out(layer: nn.Module) -> bool:
    if isinstance(layer, Norm):
        return not layer.count_padding
    return isinstance(layer, _BatchNorm) and hasattr(layer, 'pictures')


def _with_border(layer: nn.Module) -> nn.Module:
    if not hasattr(layer, 'pictures'):
        layer.register_forward_hook(_zero_border)
    return layer


def _zero_border(layer: nn.Module, args: tuple, y: Tensor) -> Tensor:
    pictures = layer.pictures
    return without_padding(y, pictures) if pictures is not None and pictures.are_in(y) else y


def pictures_of(inputs: Any, data_samples: Any) -> Pictures | None:
    """The pictures in a batch [N, 3, H, W] of a detector; None if unknown, or if they fill it."""
    if not isinstance(inputs, Tensor) or not _are_packed(data_samples):
        return None
    canvas = tuple(inputs.shape[-2:])
    sizes = [_size(sample) for sample in data_samples]
    return Pictures(sizes, canvas) if any(size != canvas for size in sizes) else None


def _are_packed(data_samples: Any) -> bool:
    """Whether they are a list of samples, as of one batch; other models have several."""
    return isinstance(data_samples, Sequence) and all(
        isinstance(sample, DetDataSample) and 'img_shape' in sample for sample in data_samples
    )


def _size(sample: DetDataSample) -> Size:
    fractions = sample.metainfo.get(FRACTION, (1, 1))
    return tuple(round(n * part) for n, part in zip(sample.img_shape, fractions, strict=False))


def _remembering(pad: Callable) -> Callable:
    @wraps(pad)
    def remembered(self: Pad, results: dict) -> None:
        size = padded_size(results) or results['img'].shape[:2]
        pad(self, results)
        results[PADDED] = results['img'], size

    return remembered


def padded_size(results: dict) -> Size | None:
    """The size of the picture that was padded last, if nothing has made another of it since."""
    padded, size = results.get(PADDED, (None, None))
    return size if padded is results.get('img') else None


def _packing(pack: Callable) -> Callable:
    @wraps(pack)
    def packed(self: PackDetInputs, results: dict) -> dict:
        output = pack(self, results)
        if size := padded_size(results):
            whole = results['img'].shape[:2]
            fraction = tuple(n / total for n, total in zip(size, whole, strict=True))
            output['data_samples'].set_metainfo({FRACTION: fraction})
        return output

    return packed


BaseDetector.forward = _telling_norms(BaseDetector.forward)
Pad._pad_img = _remembering(Pad._pad_img)
PackDetInputs.transform = _packing(PackDetInputs.transform)
