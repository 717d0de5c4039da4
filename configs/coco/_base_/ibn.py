# IBN-a (Pan et al. 2018, arXiv 1807.09441): the first norm of a block is half instance norm, in all
# stages but the last; the rest is frozen batch norm. The weights are its authors'. The pyramid has
# group norm.
checkpoint = (
    'https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth'
)
trunk = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        norm='ibn-a',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(norm_cfg=dict(type='Norm', spec='gn')),
)
