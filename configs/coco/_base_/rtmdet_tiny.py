# RTMDet-tiny (Lyu et al. 2022, arXiv 2212.07784); its head has a norm for each pyramid level.
# What follows from the batch size is MMDetection's recipe for 8 x 32, scaled as `--lr auto` does.
_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../../_base_/sbzoo.py']
norm_cfg = dict(type='Norm', spec='gn')
kappa = 2 / 256
lr = 0.004 * kappa**0.5
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
train_dataloader = dict(batch_size=2, persistent_workers=False)
optim_wrapper = dict(
    optimizer=dict(lr=lr, betas=(0.9, 0.999**kappa), weight_decay=0.05 * kappa**0.5)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=128_000),
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
custom_hooks = [
    dict(_base_.custom_hooks[0], momentum=1 - (1 - 0.0002) ** kappa, gamma=256_000),
    *_base_.custom_hooks[1:],
    *_base_.sbzoo.hooks,
]
default_hooks = dict(checkpoint=_base_.sbzoo.checkpoint)
visualizer = dict(vis_backends=_base_.sbzoo.vis_backends)
