# RetinaNet on EfficientNet-lite0 of timm, batch norm; pyramid and head without, as in MMDetection.
# `python tools/bench.py fine_tuning` starts it from weights of ImageNet, with this norm and others.
# In itself it starts from random weights, and was not trained so.
_base_ = [
    './_base_/retinanet.py',
    './_base_/digits.py',
    './_base_/schedule_3e.py',
    './_base_/detection_runtime.py',
]
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model='tf_efficientnet_lite0',
        out_indices=(2, 3, 4),
    ),
    neck=dict(in_channels=[40, 112, 320], norm_cfg=None),
    bbox_head=dict(
        _delete_=True,
        type='RetinaHead',
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator={{_base_.model.bbox_head.anchor_generator}},
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='LeanFocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type='L1Loss'),
    ),
)
# That of MMDetection's RetinaNet, 0.01 for 16 images. A head without norms diverges at that of the
# other configs.
optim_wrapper = dict(optimizer=dict(lr=0.000625 * 2))
