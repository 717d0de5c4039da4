"""Anchor heads that work out the targets and losses of all images and levels at once."""

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

BY_LEVEL = 'GHMC', 'GHMR'  # losses that weigh each anchor by the others of its call
IGNORED, BACKGROUND = -1, 0  # and from 1 on the number of an object, as in MMDetection


class Targets(NamedTuple):
    """What the A anchors of N images are to find, P of them an object."""

    labels: Tensor  # [N, A]
    weights: Tensor  # [N, A], of the labels
    image: Tensor  # [P], of each anchor that is to find an object
    anchor: Tensor  # [P]
    deltas: Tensor  # [P, 4], from anchor to object
    count: int  # what losses are averaged over: objects found, one at least in each image


class LeanAnchorHead(AnchorHead):
    """The losses of `AnchorHead` from a few operations on all anchors of a batch.

    MMDetection works out targets image by image and object by object, losses level by level:
    some hundred small operations, each dearer to start than to do, and each a wait on a GPU.

    Raises:
        UserError: The assigner is not a plain `MaxIoUAssigner`, there is a sampler, or boxes are
            decoded before their loss, or a loss weighs anchors by one another.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.train_cfg:
            self._check()
        self._grid: tuple = (None, None, None)  # what it is for, anchors, which of them count

    def _check(self) -> None:
        rule = self.assigner
        plain = (
            type(rule) is MaxIoUAssigner
            and isinstance(rule.neg_iou_thr, float)
            and rule.gt_max_assign_all
            and rule.ignore_iof_thr <= 0
            and rule.perm_repeat_gt_cfg is None
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
        scores = _by_anchor(cls_scores, self.cls_out_channels)
        deltas = _by_anchor(bbox_preds, self.bbox_coder.encode_size)
        loss_cls = self.loss_cls(
            scores.flatten(0, 1),
            targets.labels.flatten(),
            targets.weights.flatten(),
            avg_factor=targets.count,
        )
        found = deltas[targets.image, targets.anchor]
        ones = torch.ones_like(found)
        loss_bbox = self.loss_bbox(found, targets.deltas, ones, avg_factor=targets.count)
        return dict(loss_cls=loss_cls, loss_bbox=loss_bbox)

    def _anchors(self, maps: list[Tensor], metas: list[dict]) -> tuple[Tensor, Tensor]:
        """Anchors [A, 4] and which count in each image [N, A]; kept while images stay as large."""
        sizes, device = [m.shape[-2:] for m in maps], maps[0].device
        shapes = [(meta['pad_shape'], meta['img_shape']) for meta in metas]
        if self._grid[0] != (sizes, device, shapes):
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
            self._grid = (sizes, device, shapes), anchors, torch.stack(inside)
        return self._grid[1:]

    def _targets(self, anchors: Tensor, inside: Tensor, objects: list[InstanceData]) -> Targets:
        boxes, classes = (torch.cat([o[k] for o in objects]) for k in ('bboxes', 'labels'))
        counts = [len(o) for o in objects]
        overlaps = self.assigner.iou_calculator(boxes, anchors).split(counts)
        rows = zip(overlaps, inside, strict=True)
        assigned = torch.stack([_assign(*row, self.assigner) for row in rows])
        image, anchor = torch.where(assigned > BACKGROUND)
        counts = torch.tensor(counts, device=anchors.device)
        which = assigned[image, anchor] - 1 + (counts.cumsum(0) - counts)[image]
        labels = torch.full_like(assigned, self.num_classes)
        labels[image, anchor] = classes[which]
        weights = (assigned != IGNORED).to(anchors.dtype)
        if self.train_cfg['pos_weight'] > 0:
            weights[image, anchor] = self.train_cfg['pos_weight']
        count = image.bincount(minlength=len(objects)).clamp(min=1).sum().item()
        deltas = self.bbox_coder.encode(anchors[anchor], boxes[which])
        return Targets(labels, weights, image, anchor, deltas, count)


def _assign(overlaps: Tensor, inside: Tensor, rule: MaxIoUAssigner) -> Tensor:
    """As `MaxIoUAssigner`, from the overlaps [objects, A] of an image: what each anchor finds."""
    if not len(overlaps):
        return torch.where(inside, BACKGROUND, IGNORED)
    overlaps = overlaps.masked_fill(~inside, -1)
    best, which = overlaps.max(0)
    assigned = torch.where((best < rule.neg_iou_thr) & inside, BACKGROUND, IGNORED)
    assigned = torch.where(best >= rule.pos_iou_thr, which + 1, assigned)
    if not rule.match_low_quality:
        return assigned
    most = overlaps.max(1, keepdim=True).values
    nearest = (overlaps == most) & (most >= max(rule.min_pos_iou, 0))
    number = torch.arange(1, len(overlaps) + 1, device=overlaps.device)[:, None]
    last = (nearest * number).max(0).values  # a later object takes an anchor from an earlier one
    return torch.where(last > 0, last, assigned)


def _by_anchor(maps: list[Tensor], channels: int) -> Tensor:
    """From maps [N, anchors * channels, H, W] of all levels to [N, A, channels]."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, channels) for m in maps], 1)


@MODELS.register_module()
class LeanRetinaHead(LeanAnchorHead, RetinaHead):
    """`RetinaHead`, equal in losses and gradients."""


@MODELS.register_module()
class LeanRetinaSepBNHead(LeanAnchorHead, RetinaSepBNHead):
    """`RetinaSepBNHead`, equal in losses and gradients."""
