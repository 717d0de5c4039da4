# ATSS (Zhang et al. 2020, arXiv 1912.02424).
# The head, which the pyramid levels share, has group norm.
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../../_base_/sbzoo.py']
model = dict(
    backbone=dict(_delete_=True, type='NormResNet', depth=50, frozen_stages=1),
    bbox_head=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
train_dataloader = dict(batch_size=2, persistent_workers=False)
# MMDetection's recipe for batch size 16, scaled as `--lr auto` does
optim_wrapper = dict(optimizer=dict(lr=0.01 * 2 / 16))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=500 * 16 // 2),
    *_base_.param_scheduler[1:],
]
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(type='AccumulatingEpochLoop')
custom_hooks = _base_.sbzoo.hooks
default_hooks = dict(checkpoint=_base_.sbzoo.checkpoint)
visualizer = dict(vis_backends=_base_.sbzoo.vis_backends)
