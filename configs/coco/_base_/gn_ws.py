# Group norm and weight standardisation (Qiao et al. 2019, arXiv 1903.10520), with the weights of
# its authors.
trunk = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        norm='gn+ws',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://jhu/resnet50_gn_ws'),
    ),
    neck=dict(conv_cfg=dict(type='ConvWS'), norm_cfg=dict(type='Norm', spec='gn')),
)
