# RTMDet-tiny (Lyu et al. 2022, arXiv 2212.07784); its head has a norm for each pyramid level.
_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../../_base_/sbzoo.py']
norm_cfg = dict(type='Norm', spec='gn')
lr = 0.004 * 2 / 256  # MMDetection's, for batch size 8 x 32
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
train_dataloader = dict(batch_size=2, persistent_workers=False)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.05 * lr,
        by_epoch=True,
        begin=150,
        end=300,
        T_max=150,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(type='AccumulatingEpochLoop')
custom_hooks = [*_base_.custom_hooks, *_base_.sbzoo.hooks]
default_hooks = dict(checkpoint=_base_.sbzoo.checkpoint)
visualizer = dict(vis_backends=_base_.sbzoo.vis_backends)
