# Group norm. The weights are Detectron's (ImageNet top-1 76.0), which want BGR pixels as they are.
trunk = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        norm='gn',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron/resnet50_gn'),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
