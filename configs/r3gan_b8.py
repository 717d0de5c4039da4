# R3GAN (Huang et al. 2024, arXiv 2501.05441), which has no norm: the baseline for those that have.
# The schedules are those of its authors' preset for ImageNet at 32 pixels
# (gan/r3gan_imagenet32_b8.py), over the 72,000 images of this training; the penalties of that for
# CIFAR-10, a tenth, are too weak here. The EMA keeps the ramp-up of the other GANs here, as a
# half-life of a quarter of so short a training would be too long.
_base_ = ['./_base_/r3gan.py', './_base_/evaluation_digits32.py']
nets = dict(image_size=32, base_channels=32, max_channels=96, num_blocks=1, num_classes=10)
model = dict(
    generator=dict(noise_size=64, **nets),
    discriminator=nets,
    penalties=[dict(type='r1', weight=0.5), dict(type='r2', weight=0.5)],
    augment='color,translation,cutout',
    ema=dict(half_life=5000),
)
train_dataloader = dict(batch_size=8)
val_dataloader = dict(dataset=dict(num_classes=10))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=48, val_interval=8)
param_scheduler = dict(T_max=48)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='CosineAnnealingHook',
        values={
            'beta2': (0.9, 0.99),
            'penalties.weight': (0.5, 0.05),
            'augment.probability': (0, 0.55),
        },
    ),
]
