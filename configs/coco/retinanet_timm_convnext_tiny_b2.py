# RetinaNet, batch size 2, on timm's ConvNeXt-tiny, per-pixel layer norm
# (Liu et al. 2022, arXiv 2201.03545).
# Not trained here. The weights, convnext_tiny.fb_in1k, come from timm.
#   python tools/train.py configs/coco/retinanet_timm_convnext_tiny_b2.py --data DIR
# Nearest published: AP 36.5, R50 with frozen BN, batch size 16
# (MMDetection, retinanet_r50_fpn_1x_coco).
_base_ = './_base_/retinanet.py'
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model='convnext_tiny.fb_in1k',
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='TimmPretrained'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768], norm_cfg=dict(type='Norm', spec='gn')),
)
kappa = 2 / 16  # the recipe is for batch size 16, scaled as `--lr auto` does
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True,
        type='AdamW',
        lr=0.0001 * kappa**0.5,
        betas=(0.9, 0.999**kappa),
        weight_decay=0.05 * kappa**0.5,
    )
)
