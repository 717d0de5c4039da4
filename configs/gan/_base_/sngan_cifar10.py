# SNGAN with projection at its published width: 5 steps of the discriminator for one of the
# generator. An epoch of 50,000 images is counted in images of the discriminator.
_base_ = [
    './cifar10.py',
    './fid.py',
    '../../_base_/schedule_gan.py',
    '../../_base_/gan_runtime.py',
]
model = dict(
    type='GAN',
    generator=dict(type='SNGANGenerator', image_size=32, norm='bn', num_classes=10),
    discriminator=dict(type='SNGANDiscriminator', image_size=32, num_classes=10),
    loss='hinge',
    discriminator_steps=5,
    ema=dict(half_life=50_000),
)
train_cfg = dict(max_epochs=320, val_interval=20)
val_dataloader = dict(dataset=dict(num_classes=10))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='FrechetDistance', extractor='inception', real=_base_.train_dataloader.dataset
)
test_evaluator = val_evaluator
