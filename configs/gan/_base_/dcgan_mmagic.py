# DCGAN's networks and data as MMagic 1.2.0 trains them at 64 x 64 pixels: batch norm in both
# networks, no spectral norm, no average of the generator, no flips, batch size 128. What differs:
# the slope of the discriminator's leaky ReLU (0.2 as in the paper; there 0.01), scales of norms
# start at N(1, 0.02) as in the paper (there at N(0, 1)), and images are centre-cropped to a square
# (there stretched to one).
_base_ = [
    './image_folder_64.py',
    './fid.py',
    '../../_base_/schedule_gan.py',
    '../../_base_/gan_runtime.py',
]
model = dict(
    type='GAN',
    generator=dict(
        type='DCGANGenerator', image_size=64, noise_size=100, base_channels=128, norm='bn'
    ),
    discriminator=dict(
        type='DCGANDiscriminator',
        image_size=64,
        base_channels=128,
        norm='bn',
        spectral_norm=False,
    ),
    loss='non-saturating',
)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(data_root='data/celeba', pipeline=[dict(type='PackImage')]),
)
optim_wrapper = dict(
    generator=dict(optimizer=dict(betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(betas=(0.5, 0.999))),
)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='ImageFolderDataset', data_root='data/celeba', image_size=64),
)
test_evaluator = val_evaluator
