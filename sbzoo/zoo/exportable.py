"""Networks from pixels or noise to plain tensors: what an exporter takes of a model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from sbzoo.errors import UserError

Size = tuple[int, int]  # height and width
FOUND = 'boxes', 'scores', 'labels', 'masks'


class Heads(nn.Module):
    """From images [N, 3, H, W], RGB in [0, 255], to all tensors that the head puts out."""

    def __init__(self, model: nn.Module, size: Size) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.normalize = Normalize(model.data_preprocessor)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Class scores, box regressions and the like, in the order of the head."""
        return tuple(tensor for _, tensor in self.named_outputs(image))

    def named_outputs(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The same with names: the number of what the head returns, and of the level."""
        samples = [_sample(self.size) for _ in range(len(image))]
        yield from _named('head', self.model(self.normalize(image), samples, mode='tensor'))


class Detect(nn.Module):
    """From an image [1, 3, H, W], RGB in [0, 255], to what is found in it, after NMS.

    Boxes [K, 4] are left, top, right and bottom in pixels, scores [K], labels [K] and, of a Mask
    R-CNN, masks [K, h, w] the probability of the object within its box.

    Raises:
        UserError: Another kind of second stage than that of Faster and Mask R-CNN.
    """

    def __init__(self, model: nn.Module, size: Size) -> None:
        super().__init__()
        self.model, self.size = copy.deepcopy(model), size
        self.normalize = Normalize(model.data_preprocessor)
        self.has_rois = isinstance(model, TwoStageDetector)
        if self.has_rois:
            _check_head(model.roi_head)
            _without_branches(self.model)
        else:  # what is below takes part to the end, so that something always does
            config = self.model.bbox_head.test_cfg or {}
            self.score, config['score_thr'] = config.get('score_thr', -1), -1

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and perhaps masks."""
        pixels, samples = self.normalize(image), [_sample(self.size)]
        if not self.has_rois:
            found = self.model.predict(pixels, samples, rescale=False)[0].pred_instances
            kept = found.scores > self.score
            return found.bboxes[kept], found.scores[kept], found.labels[kept]
        maps = self.model.extract_feat(pixels)
        (proposals,) = self.model.rpn_head.predict(maps, samples, rescale=False)
        return self._second_stage(maps, proposals, samples[0].metainfo)

    def _second_stage(
        self, maps: tuple[Tensor], proposals: InstanceData, meta: dict
    ) -> tuple[Tensor, ...]:
        head = self.model.roi_head
        rois = bbox2roi([proposals.bboxes])
        scored = head._bbox_forward(maps, rois)
        found = head.bbox_head._predict_by_feat_single(
            rois, scored['cls_score'], scored['bbox_pred'], meta, False, head.test_cfg
        )
        result = found.bboxes, found.scores, found.labels
        if not head.with_mask:
            return result
        logits = head._mask_forward(maps, bbox2roi([found.bboxes]))['mask_preds']
        return *result, _of_labels(logits.sigmoid(), found.labels)

    def named_outputs(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What `forward` returns, with names."""
        yield from zip(FOUND, self(image), strict=False)


class Generate(nn.Module):
    """From the input of a generator to images [N, 3, S, S] in [-1, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, *inputs: Tensor) -> Tensor:
        """Of noise, noise and labels, or images in [-1, 1]."""
        return self.generator(*inputs)

    def named_outputs(self, *inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What `forward` returns, with its name."""
        yield 'images', self(*inputs)


class Normalize(nn.Module):
    """From RGB in [0, 255] to what a detector's data preprocessor makes of a loaded picture."""

    def __init__(self, preprocessor: ImgDataPreprocessor) -> None:
        super().__init__()
        self.to_bgr = not preprocessor._channel_conversion  # pictures are loaded as BGR
        scales = preprocessor._enable_normalize
        self.register_buffer('mean', preprocessor.mean.clone() if scales else torch.zeros(()))
        self.register_buffer('std', preprocessor.std.clone() if scales else torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        """Images [N, 3, H, W]."""
        return ((image.flip(1) if self.to_bgr else image) - self.mean) / self.std


def as_input(picture: Tensor, size: Size) -> Tensor:
    """A picture BGR [3, h, w], as a test pipeline gives it, as an image of that size."""
    rgb = picture[None].flip(1).float()
    if tuple(rgb.shape[2:]) == size:
        return rgb
    return nn.functional.interpolate(rgb, size, mode='bilinear')


def _sample(size: Size) -> DetDataSample:
    """A picture that fills its input."""
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    return DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0), img_id=0))


def _named(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _named(f'{name}_{number}', part)


def _check_head(head: nn.Module) -> None:
    if not isinstance(head, StandardRoIHead):
        raise UserError(f'{type(head).__name__}: of heads of RoIs, those of Faster and Mask R-CNN')


def _without_branches(model: nn.Module) -> None:
    """Let a trace hold what every picture needs: its operators are those of one picture."""
    for extractor in model.modules():
        if isinstance(extractor, SingleRoIExtractor):
            extractor.forward = partial(_from_all_levels, extractor)
            for layer in extractor.roi_layers:
                layer.use_torchvision = True  # which is an operator of ONNX


def _from_all_levels(extractor: SingleRoIExtractor, maps: tuple[Tensor], rois: Tensor) -> Tensor:
    """RoIs on every level, of which each keeps its own; MMDetection skips levels without RoIs."""
    maps = maps[: extractor.num_inputs]
    levels = extractor.map_roi_levels(rois, len(maps))[:, None, None, None]
    taken = extractor.roi_layers[0](maps[0], rois)
    for number, (layer, features) in enumerate(zip(extractor.roi_layers, maps, strict=True)):
        taken = torch.where(levels == number, layer(features, rois), taken)
    return taken


def _of_labels(masks: Tensor, labels: Tensor) -> Tensor:
    """Of masks [K, classes, h, w], or of one for all classes, those of K labels."""
    if masks.shape[1] == 1:
        return masks[:, 0]
    index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
    return masks.gather(1, index)[:, 0]
