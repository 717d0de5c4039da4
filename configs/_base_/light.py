# The embedded light scenes: 2,000 training and 200 validation pictures of 96 to 192 by 96 to 192
# pixels, each in its own light; built on first use. `strength`, from 0 to 1, is of the light.
_base_ = './digits.py'
data_root = '{{$SBZOO_CACHE:~/.cache/sbzoo}}/light/'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
scenes = dict(type='LightScenes', data_root=data_root, strength=1.0, pipeline=pipeline)
train_dataloader = dict(dataset=scenes)
val_dataloader = dict(dataset=scenes)
test_dataloader = dict(dataset=scenes)
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
