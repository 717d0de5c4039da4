# RetinaNet, batch size 2, on timm's ResNetV2-50d with EvoNorm-S0
# (Liu et al. 2020, arXiv 2004.02967).
# Not trained here. The weights, resnetv2_50d_evos.ah_in1k, come from timm.
#   python tools/train.py configs/coco/retinanet_timm_evos_50d_b2.py --data DIR
# Nearest published: AP 36.5, R50 with frozen BN, batch size 16
# (MMDetection, retinanet_r50_fpn_1x_coco).
_base_ = './_base_/retinanet.py'
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model='resnetv2_50d_evos.ah_in1k',
        out_indices=(1, 2, 3, 4),
        frozen_stages=1,
        init_cfg=dict(type='TimmPretrained'),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
