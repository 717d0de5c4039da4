"""RetinaNet heads with targets and losses computed for all images and levels at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmdet.models.dense_heads import AnchorHead, RetinaHead, RetinaSepBNHead
from mmdet.models.task_modules import MaxIoUAssigner, PseudoSampler
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from sbzoo.errors import UserError

BY_LEVEL = 'GHMC', 'GHMR'  # losses that weigh each anchor by the others of its level
IGNORED, BACKGROUND = -1, 0  # and from 1 on the ground truth, as in MMDetection


class Targets(NamedTuple):
    """Targets of A anchors in N images, P of them positive."""

    labels: Tensor  # [N, A]
    label_weights: Tensor  # [N, A]
    pos_images: Tensor  # [P], index of the image of each positive anchor
    pos_anchors: Tensor  # [P], its index
    bbox_targets: Tensor  # [P, 4], encoded deltas from the anchor to its object
    avg_factor: int  # positive anchors of the batch, at least one for each image


class LeanAnchorHead(AnchorHead):
    """The losses of `AnchorHead` from a few operations on all anchors of a batch.

    MMDetection computes targets by image and by object, and losses by level: some hundred small
    operations that cost more to launch than to run, and many that synchronise with a GPU.

    Raises:
        UserError: The assigner is not a plain `MaxIoUAssigner`, there is a sampler, boxes are
            decoded before their loss, or a loss weighs anchors by one another.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.train_cfg:
            self._check()
        self._cached: tuple = (None, None, None)  # key, anchors, which of them are inside

    def _check(self) -> None:
        assigner = self.assigner
        plain = (
            type(assigner) is MaxIoUAssigner
            and isinstance(assigner.neg_iou_thr, float)
            and assigner.gt_max_assign_all
            and assigner.ignore_iof_thr <= 0
            and assigner.perm_repeat_gt_cfg is None
        )
        host = type(self).__name__.removeprefix('Lean')
        if not plain or type(self.sampler) is not PseudoSampler or self.reg_decoded_bbox:
            raise UserError(
                f'{type(self).__name__}: needs a MaxIoUAssigner without options for ignored or '
                f'permuted objects, no sampler, and encoded boxes; otherwise use {host}'
            )
        for loss in (self.loss_cls, self.loss_bbox):
            if type(loss).__name__ in BY_LEVEL:
                raise UserError(
                    f'{type(self).__name__}: {type(loss).__name__} depends on which anchors it is '
                    f'given together, which are those of a level in MMDetection; use {host}'
                )

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Both losses, from maps [N, anchors * C, H, W] and [N, anchors * 4, H, W] by level."""
        targets = self._targets(*self._anchors(cls_scores, batch_img_metas), batch_gt_instances)
        avg_factor = targets.avg_factor
        scores = _by_anchor(cls_scores, self.cls_out_channels)
        deltas = _by_anchor(bbox_preds, self.bbox_coder.encode_size)
        loss_cls = self.loss_cls(
            scores.flatten(0, 1),
            targets.labels.flatten(),
            targets.label_weights.flatten(),
            avg_factor=avg_factor,
        )
        positive = deltas[targets.pos_images, targets.pos_anchors]
        ones = torch.ones_like(positive)
        loss_bbox = self.loss_bbox(positive, targets.bbox_targets, ones, avg_factor=avg_factor)
        return dict(loss_cls=loss_cls, loss_bbox=loss_bbox)

    def _anchors(self, maps: list[Tensor], metas: list[dict]) -> tuple[Tensor, Tensor]:
        """Anchors [A, 4] and which are inside of each image [N, A]; cached while sizes stay."""
        sizes, device = [m.shape[-2:] for m in maps], maps[0].device
        shapes = [(meta['pad_shape'], meta['img_shape']) for meta in metas]
        if self._cached[0] != (sizes, device, shapes):
            anchors = torch.cat(self.prior_generator.grid_priors(sizes, device=device))
            inside = [
                anchor_inside_flags(
                    anchors,
                    torch.cat(self.prior_generator.valid_flags(sizes, padded, device)),
                    shape,
                    self.train_cfg['allowed_border'],
                )
                for padded, shape in shapes
            ]
            self._cached = (sizes, device, shapes), anchors, torch.stack(inside)
        return self._cached[1:]

    def _targets(self, anchors: Tensor, inside: Tensor, objects: list[InstanceData]) -> Targets:
        boxes, classes = (torch.cat([o[k] for o in objects]) for k in ('bboxes', 'labels'))
        counts = [len(o) for o in objects]
        overlaps = self.assigner.iou_calculator(boxes, anchors).split(counts)
        rows = zip(overlaps, inside, strict=True)
        assigned = torch.stack([_assign(*row, self.assigner) for row in rows])
        images, positive = torch.where(assigned > BACKGROUND)
        counts = torch.tensor(counts, device=anchors.device)
        matched = assigned[images, positive] - 1 + (counts.cumsum(0) - counts)[images]
        labels = torch.full_like(assigned, self.num_classes)
        labels[images, positive] = classes[matched]
        weights = (assigned != IGNORED).to(anchors.dtype)
        if self.train_cfg['pos_weight'] > 0:
            weights[images, positive] = self.train_cfg['pos_weight']
        avg_factor = images.bincount(minlength=len(objects)).clamp(min=1).sum().item()
        bbox_targets = self.bbox_coder.encode(anchors[positive], boxes[matched])
        return Targets(labels, weights, images, positive, bbox_targets, avg_factor)


def _assign(overlaps: Tensor, inside: Tensor, assigner: MaxIoUAssigner) -> Tensor:
    """As `MaxIoUAssigner`: from the IoUs [objects, A] of an image to the object of each anchor."""
    if not len(overlaps):
        return torch.where(inside, BACKGROUND, IGNORED)
    overlaps = overlaps.masked_fill(~inside, -1)
    best, matched = overlaps.max(0)
    assigned = torch.where((best < assigner.neg_iou_thr) & inside, BACKGROUND, IGNORED)
    assigned = torch.where(best >= assigner.pos_iou_thr, matched + 1, assigned)
    if not assigner.match_low_quality:
        return assigned
    most = overlaps.max(1, keepdim=True).values
    nearest = (overlaps == most) & (most >= max(assigner.min_pos_iou, 0))
    number = torch.arange(1, len(overlaps) + 1, device=overlaps.device)[:, None]
    last = (nearest * number).max(0).values  # a later ground truth takes precedence
    return torch.where(last > 0, last, assigned)


def _by_anchor(maps: list[Tensor], channels: int) -> Tensor:
    """From maps [N, anchors * channels, H, W] of all levels to [N, A, channels]."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, channels) for m in maps], 1)


@MODELS.register_module()
class LeanRetinaHead(LeanAnchorHead, RetinaHead):
    """`RetinaHead` with the same losses and gradients."""


@MODELS.register_module()
class LeanRetinaSepBNHead(LeanAnchorHead, RetinaSepBNHead):
    """`RetinaSepBNHead` with the same losses and gradients."""
