# R3GAN (Huang et al. 2024, arXiv 2501.05441), which has no norm: the baseline for those that have.
_base_ = [
    './_base_/schedule_gan.py',
    './_base_/evaluation_digits32.py',
    './_base_/gan_runtime.py',
]
nets = dict(image_size=32, base_channels=32, max_channels=96, num_blocks=1, num_classes=10)
model = dict(
    type='GAN',
    generator=dict(type='R3GANGenerator', noise_size=64, **nets),
    discriminator=dict(type='R3GANDiscriminator', **nets),
    loss='relativistic',
    penalties=[dict(type='r1', weight=1.0), dict(type='r2', weight=1.0)],
    ema=dict(half_life=5000),
)
train_dataloader = dict(batch_size=8)
val_dataloader = dict(dataset=dict(num_classes=10))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=24, val_interval=6)
optim_wrapper = dict(
    generator=dict(optimizer=dict(betas=(0.0, 0.99))),
    discriminator=dict(optimizer=dict(betas=(0.0, 0.99))),
)
