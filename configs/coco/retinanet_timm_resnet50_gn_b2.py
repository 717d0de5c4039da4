# RetinaNet, batch size 2, on timm's ResNet-50 with group norm (RSB recipe, ImageNet top-1 80.1).
# Not trained here. The weights, resnet50_gn.a1h_in1k, come from timm.
#   python tools/train.py configs/coco/retinanet_timm_resnet50_gn_b2.py --data DIR
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
        model='resnet50_gn.a1h_in1k',
        out_indices=(1, 2, 3, 4),
        frozen_stages=1,
        init_cfg=dict(type='TimmPretrained'),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
