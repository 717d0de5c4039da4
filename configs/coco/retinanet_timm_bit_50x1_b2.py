# RetinaNet, batch size 2, on timm's BiT ResNetV2-50x1, group norm and weight standardisation
# (Kolesnikov et al. 2019, arXiv 1912.11370).
# Not trained here. The weights, resnetv2_50x1_bit.goog_in21k_ft_in1k, come from timm.
#   python tools/train.py configs/coco/retinanet_timm_bit_50x1_b2.py --data DIR
# Nearest published: AP 36.5, R50 with frozen BN, batch size 16
# (MMDetection, retinanet_r50_fpn_1x_coco).
_base_ = './_base_/retinanet.py'
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model='resnetv2_50x1_bit.goog_in21k_ft_in1k',
        out_indices=(1, 2, 3, 4),
        frozen_stages=1,
        init_cfg=dict(type='TimmPretrained'),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
