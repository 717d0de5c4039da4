# Batch and layer statistics mixed. The weights are those of batch norm and alpha starts at one
# half, so no layer was trained for the mix that it starts with, and none stays frozen at it.
trunk = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        norm='hybrid',
        frozen_stages=-1,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='hybrid')),
)
