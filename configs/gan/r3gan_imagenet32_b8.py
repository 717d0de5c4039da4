# R3GAN on ImageNet at 32 x 32 pixels, batch size 8, 512 batches accumulated: its authors' preset
# ImageNet-32, batch size 4,096, 200 million images. Not trained here.
#   python tools/train.py configs/gan/r3gan_imagenet32_b8.py --data data/imagenet/train
# Published: FID 1.27 (Huang et al. 2024, arXiv 2501.05441).
_base_ = [
    './_base_/image_folder_64.py',
    './_base_/fid.py',
    './_base_/r3gan.py',
]
nets = dict(image_size=32, base_channels=1536, max_channels=1536, group_size=32, num_classes=1000)
model = dict(
    generator=nets,
    discriminator=nets,
    penalties=[dict(type='r1', weight=0.5), dict(type='r2', weight=0.5)],
)
dataset = dict(image_size=32, labels=True)
train_dataloader = dict(batch_size=8, dataset=dict(data_root='data/imagenet/train', **dataset))
val_dataloader = dict(dataset=dict(num_classes=1000))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=156, val_interval=4)
param_scheduler = dict(T_max=156)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='CosineAnnealingHook',
        values={
            'beta2': (0.9, 0.99),
            'penalties.weight': (0.5, 0.05),
            'generator_ema.half_life': (0, 50_000_000),
            'augment.probability': (0, 0.5),
        },
    ),
]
optim_wrapper = dict(
    generator=dict(accumulative_counts=512),
    discriminator=dict(accumulative_counts=512),
)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='ImageFolderDataset', data_root='data/imagenet/train', **dataset),
)
test_evaluator = val_evaluator
