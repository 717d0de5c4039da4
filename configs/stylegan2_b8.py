# StyleGAN2 (Karras et al. 2020, arXiv 1912.04958) from 84 faces, with DiffAugment (Zhao et al.
# 2020, arXiv 2006.10738): the few-shot setting, but for its length of 300,000 images: after 100,000
# the faces grow alike (model_cards/results). An epoch is 20 rounds of the faces. The distance is on
# the features of a classifier of digits, who has seen no face: it tells whether training goes on,
# not how good the faces are.
_base_ = [
    './_base_/faces32.py',
    './_base_/schedule_gan.py',
    './_base_/gan_runtime.py',
]
model = dict(
    type='GAN',
    generator=dict(
        type='StyleGAN2Generator',
        image_size=32,
        noise_size=128,
        base_channels=32,
        max_channels=128,
        mapping_layers=2,
        style_mixing=0.9,
    ),
    discriminator=dict(
        type='StyleGAN2Discriminator', image_size=32, base_channels=32, max_channels=128
    ),
    loss='non-saturating',
    # 10 at 256 x 256 pixels, for few images (DiffAugment), in proportion to the pixels of an image
    penalties=[dict(type='r1', weight=10 * (32 / 256) ** 2, interval=16)],
    path_length=dict(weight=2.0, interval=4),
    augment='color,translation,cutout',
    ema=dict(half_life=10_000),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        _delete_=True, type='RepeatDataset', times=20, dataset=_base_.train_dataloader.dataset
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='LatentDataset', num=84),
)
test_dataloader = val_dataloader
faces = dict(type='EmbeddedImages', name='faces32', image_size=32)
val_evaluator = dict(type='FrechetDistance', extractor='digits', real=faces)
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=60, val_interval=10)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=2e-3, betas=(0.0, 0.99))),
    discriminator=dict(optimizer=dict(lr=2e-3, betas=(0.0, 0.99))),
)
