# RTMDet with AdamW, group norm; 8 groups, as the layers have 8 to 256 channels. The learning rate
# is that of the paper, 0.004 at batch size 256, by the square root rule.
# AP 0.193 on average over 3 seeds, about 2 minutes on one CPU core; with --batch 1 AP 0.435.
_base_ = [
    './_base_/rtmdet.py',
    './_base_/digits.py',
    './_base_/schedule_3e.py',
    './_base_/detection_runtime.py',
]
norm_cfg = dict(type='Norm', spec='gn8')
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=7e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
auto_scale_lr = dict(base_batch_size=8)
