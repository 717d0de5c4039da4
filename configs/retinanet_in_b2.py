# Instance norm.
# AP 0.559 on average over 3 seeds; about 3 minutes on one CPU core
# (with --batch 16: AP 0.252, about 2 minutes).
_base_ = [
    './_base_/retinanet.py',
    './_base_/digits.py',
    './_base_/schedule_3e.py',
    './_base_/detection_runtime.py',
]
norm_cfg = dict(type='Norm', spec='in')
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
