# Mask R-CNN (He et al. 2017, arXiv 1703.06870) with the 4conv1fc box head of the GN paper.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../../_base_/sbzoo.py']
gn = dict(type='Norm', spec='gn')
model = dict(
    backbone=dict(_delete_=True, type='NormResNet', depth=50, frozen_stages=1),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=gn),
        mask_head=dict(norm_cfg=gn),
    ),
)
train_dataloader = dict(batch_size=2, persistent_workers=False)
# MMDetection's recipe for batch size 16, scaled as `--lr auto` does
optim_wrapper = dict(optimizer=dict(lr=0.02 * 2 / 16))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=500 * 16 // 2),
    *_base_.param_scheduler[1:],
]
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(type='AccumulatingEpochLoop')
custom_hooks = _base_.sbzoo.hooks
default_hooks = dict(checkpoint=_base_.sbzoo.checkpoint)
visualizer = dict(vis_backends=_base_.sbzoo.vis_backends)
