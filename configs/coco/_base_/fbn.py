# Batch norm frozen as it was pretrained, an affine map: what MMDetection's `norm_eval` does, in
# less memory. The pyramid, which has no statistics to freeze, has group norm.
trunk = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        norm='fbn',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
