"""The largest batch of a pipeline, by hand and by running the transforms themselves."""

import random

import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from mmengine.dataset import Compose

from sbzoo.data.largest_shape import ANY, largest_batch
from sbzoo.engine.options.config import load_config

BY_HAND = {
    # at most 1333 x 800, lying or standing, each among its like, to multiples of 32
    'retinanet/retinanet_r50_fpn_1x_coco': (800, 1344),
    # the short side is 640 to 800 pixels
    'faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco': (800, 1344),
    # scales between (1333, 640) and (1333, 800)
    'mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco': (800, 1344),
    # as they are or cropped, up to 800 x 1333; DETR does not pad to a multiple
    'detr/detr_r50_8xb2-150e_coco': (800, 1333),
    # a mosaic of 1280 x 1280, at up to twice that, cropped
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': (640, 640),
    # 640 x 640, and every tenth batch at 480 to 800
    'yolox/yolox_s_8xb8-300e_coco': (800, 800),
    # on a canvas of up to four times the size, and squeezed whatever the ratio
    'ssd/ssd300_coco': (300, 300),
    # 0.6 to 1.3 times 511, resized to 511
    'cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco': (511, 511),
    # one of two sizes
    'yolo/yolov3_d53_8xb8-ms-608-273e_coco': (608, 608),
    # 0.1 to 2 times 1024, cropped, and padded as a batch
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco': (1024, 1024),
    # no resizing but that of the batch, at most 1400 x 800, to multiples of 64
    'crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman': (832, 1408),
    # as Faster R-CNN, but picture and proposals together
    'fast_rcnn/fast-rcnn_r50_fpn_1x_coco': (800, 1344),
    # the short side is 400 to 1200 pixels, resized in two branches for the unlabelled pictures
    'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco': (1216, 1344),
}


def largest(name, batch=2, pictures=(ANY,)):
    cfg = load_config(name)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    return largest_batch(cfg.train_dataloader, preprocessor, pictures, batch)


@pytest.mark.parametrize('name', BY_HAND)
def test_published_pipelines(name):
    assert largest(f'mmdet::{name}.py') == BY_HAND[name]


def test_own_pipelines():
    assert largest('configs/retinanet_gn_b2.py', pictures=[(96, 96)]) == (96, 96)
    crop = 'configs/gan/cyclegan_horse2zebra_in_b1.py'
    assert largest(crop, pictures=[(286, 286)]) == (256, 256)
    assert largest('configs/dcgan_gn_b2.py', pictures=[(32, 32)]) == (32, 32)


def test_the_data_says_more_than_the_pipeline():
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    assert largest(name, pictures=[(96, 96)]) == (800, 800)
    assert largest(name, pictures=[(480, 640)]) == (800, 1088)  # 800 x 1067
    assert largest(name, pictures=[(480, 640), (640, 480)]) == (800, 1088)


def test_each_branch_of_a_pipeline_counts():
    name = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    _, unlabelled = load_config(name).train_dataloader.dataset.datasets
    unlabelled.pipeline[-1].unsup_student[0].scale = [(1333, 400), (1333, 1300)]
    shape = largest_batch(dict(dataset=unlabelled), {}, [(480, 640)], 1)
    assert shape == (1000, 1333)
    unlabelled.pipeline[-1].unsup_teacher = dict(type='Resize', scale=(2000, 1500))
    assert largest_batch(dict(dataset=unlabelled), {}, [(480, 640)], 1) == (1500, 2000)


def test_lying_and_standing_pictures_share_a_batch_if_nothing_keeps_them_apart():
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    cfg.train_dataloader.batch_sampler = None
    shape = [largest_batch(cfg.train_dataloader, {}, [ANY], batch) for batch in (1, 2)]
    assert shape == [(800, 1333), (1333, 1333)]


def test_pictures_of_unknown_size_stay_so():
    loader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Expand')]))
    assert largest_batch(loader, dict(pad_size_divisor=32), [ANY], 2) == ANY
    assert largest_batch(loader, dict(pad_size_divisor=32), [(30, 50)], 2) == (128, 224)


TRANSFORMED = [
    [dict(type='RandomResize', scale=(128, 96), ratio_range=(0.5, 2.0), keep_ratio=True)],
    [dict(type='RandomChoiceResize', scales=[(90, 60), (120, 40)], keep_ratio=True)],
    [
        dict(
            type='RandomChoiceResize',
            scales=[40, 60],
            resize_type='ResizeShortestEdge',
            max_size=90,
        )
    ],
    [dict(type='Resize', scale_factor=1.5), dict(type='Pad', size_divisor=32)],
    [dict(type='RandomCrop', crop_size=(50, 40), allow_negative_crop=True)],
    [dict(type='RandomCrop', crop_size=(20, 50), crop_type='absolute_range')],
    [dict(type='RandomCrop', crop_size=(0.5, 0.7), crop_type='relative')],
    [dict(type='Pad', size=(80, 100)), dict(type='FixShapeResize', width=64, height=48)],
    [dict(type='Pad', pad_to_square=True)],
    [dict(type='Expand', ratio_range=(1, 3))],
    [
        dict(
            type='RandomChoice',
            transforms=[
                [dict(type='Resize', scale=(64, 64), keep_ratio=True)],
                [dict(type='Resize', scale=(40, 90))],
            ],
        )
    ],
]


@pytest.mark.parametrize('pipeline', TRANSFORMED, ids=lambda p: p[0]['type'])
@pytest.mark.parametrize('size', [(48, 72), (70, 45)])
def test_no_picture_is_larger_and_some_are_as_large(pipeline, size):
    random.seed(0)
    np.random.seed(0)
    run = Compose([TRANSFORMS.build(transform) for transform in pipeline])
    pixels = np.zeros((*size, 3), np.uint8)
    shapes = [run(dict(img=pixels, img_shape=size))['img'].shape[:2] for _ in range(100)]
    loader = dict(dataset=dict(pipeline=pipeline))
    bound = largest_batch(loader, {}, [size], 100)
    widest = np.max(shapes, axis=0)
    assert (widest <= bound).all()
    assert (widest >= 0.9 * np.array(bound)).all()
