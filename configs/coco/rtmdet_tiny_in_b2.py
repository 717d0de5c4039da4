# RTMDet-tiny, instance norm, batch size 2. Not trained here.
#   python tools/train.py configs/coco/rtmdet_tiny_in_b2.py --data DIR
# Nearest published: AP 40.9, SyncBN, batch size 256
# (MMDetection, rtmdet_tiny_8xb32-300e_coco).
_base_ = './_base_/rtmdet_tiny.py'
norm_cfg = dict(type='Norm', spec='in')
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
