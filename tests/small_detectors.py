"""MMDetection's detectors, small enough to compute gradients of in a moment."""

from pathlib import Path

import mmdet
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData

from sbzoo.engine.model import build_model, scope_of
from sbzoo.paths import ROOT

SIDE = 96
CLASSES = 4
CONFIGS = dict(
    retinanet='retinanet/retinanet_r50_fpn_1x_coco.py',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    atss='atss/atss_r50_fpn_1x_coco.py',
    gfl='gfl/gfl_r50_fpn_1x_coco.py',
    faster='faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    mask='mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    cascade='cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    rtmdet='rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    detr='detr/detr_r50_8xb2-150e_coco.py',
)
NORM = dict(type='Norm', spec='ln')
BACKBONE = dict(
    type='ResNet',
    depth=18,
    stem_channels=8,
    base_channels=8,
    norm_cfg=NORM,
    norm_eval=False,
    frozen_stages=-1,
)
CHANNELS = [8, 16, 32, 64]


def build(name: str, **changes) -> torch.nn.Module:
    """In training mode; `changes` are keys of the config, as in `--cfg-options`."""
    cfg = config(name, **changes)
    torch.manual_seed(0)
    model = build_model(cfg)
    with scope_of(cfg):
        model.init_weights()
    return model.train()


def config(name: str, **changes) -> Config:
    """What `build` builds."""
    if name == 'lean retinanet':
        cfg = Config.fromfile(ROOT / 'configs/_base_/retinanet.py')
        cfg.merge_from_dict({'model.bbox_head.num_classes': CLASSES})
        norms = cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head
    else:
        root = Path(mmdet.__file__).parent / '.mim/configs'
        cfg = Config.fromfile(root / CONFIGS[name])
        norms = _shrink(cfg.model, name)
    for part in norms:
        part.norm_cfg = NORM
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    return cfg


def _shrink(model: Config, name: str) -> list:
    """Fewer channels and layers; all that is sampled is taken, so that nothing is drawn."""
    if name == 'rtmdet':
        model.backbone.update(deepen_factor=0.167, widen_factor=0.125, init_cfg=None)
        model.neck.update(in_channels=[32, 64, 128], out_channels=32, num_csp_blocks=1)
        model.bbox_head.update(num_classes=CLASSES, in_channels=32, feat_channels=32)
        return [model.backbone, model.neck, model.bbox_head]
    model.backbone = Config(BACKBONE)._cfg_dict
    if name == 'detr':
        return [_shrink_detr(model)]
    model.neck.update(in_channels=CHANNELS, out_channels=32)
    if 'roi_head' not in model:
        model.bbox_head.update(num_classes=CLASSES, in_channels=32, feat_channels=32)
        return [model.backbone, model.bbox_head] if name != 'retinanet' else [model.backbone]
    model.rpn_head.update(in_channels=32, feat_channels=32)
    _shrink_rois(model.roi_head)
    for part in (model.train_cfg.rpn, *_stages(model.train_cfg.rcnn)):
        part.sampler.num = 100_000
        part.sampler.neg_pos_ub = -1
    model.train_cfg.rpn_proposal.update(nms_pre=60, max_per_img=60)
    return [model.backbone]


def _shrink_rois(roi_head: Config) -> None:
    roi_head.bbox_roi_extractor.out_channels = 32
    for head in _stages(roi_head.bbox_head):
        head.update(in_channels=32, fc_out_channels=32, num_classes=CLASSES)
    if 'mask_head' in roi_head:
        roi_head.mask_roi_extractor.out_channels = 32
        roi_head.mask_head.update(in_channels=32, conv_out_channels=16, num_classes=CLASSES)


def _shrink_detr(model: Config) -> Config:
    """Without dropout, which draws for a batch what it does not draw for its images."""
    model.backbone.update(num_stages=4, out_indices=(3,))
    model.neck.update(in_channels=[64], out_channels=32)
    for part in (model.encoder, model.decoder):
        part.num_layers = 2
        for key in ('self_attn_cfg', 'cross_attn_cfg'):
            if key in part.layer_cfg:
                part.layer_cfg[key].update(embed_dims=32, dropout=0.0)
        part.layer_cfg.ffn_cfg.update(embed_dims=32, feedforward_channels=64, ffn_drop=0.0)
    model.positional_encoding.num_feats = 16
    model.bbox_head.update(num_classes=CLASSES, embed_dims=32)
    model.num_queries = 20
    return model.backbone


def _stages(part: Config | list) -> list:
    return part if isinstance(part, list) else [part]


def batch(objects: list[int], masks: bool = False, seed: int = 0) -> dict:
    """A picture for each number of objects, all of the same size."""
    generator = torch.Generator().manual_seed(seed)
    shape = 3, SIDE, SIDE
    inputs = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in objects]
    return dict(inputs=inputs, data_samples=[_sample(n, masks, generator) for n in objects])


def _sample(count: int, masks: bool, generator: torch.Generator) -> DetDataSample:
    corner = torch.rand(count, 2, generator=generator) * 50
    size = torch.rand(count, 2, generator=generator) * 35 + 10
    boxes = torch.cat([corner, corner + size], 1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    shapes = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE))
    sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    if masks:
        sample.gt_instances.masks = _filled(boxes.int().tolist())
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
    return sample


def _filled(boxes: list[list[int]]) -> BitmapMasks:
    masks = np.zeros((len(boxes), SIDE, SIDE), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return BitmapMasks(masks, SIDE, SIDE)


def split(whole: dict, size: int) -> list[dict]:
    """Its micro-batches."""
    starts = range(0, len(whole['inputs']), size)
    return [{key: value[i : i + size] for key, value in whole.items()} for i in starts]
