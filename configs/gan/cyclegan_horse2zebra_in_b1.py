# CycleGAN on horse2zebra, instance norm, batch size 1, as published. Not trained here.
#   python tools/train.py configs/gan/cyclegan_horse2zebra_in_b1.py --data data/horse2zebra
# Published: FID 64.52 to zebras, 141.15 to horses (MMagic 1.2.0, its own training, batch size 1).
_base_ = [
    './_base_/horse2zebra.py',
    '../_base_/schedule_gan.py',
    '../_base_/gan_runtime.py',
]
model = dict(
    type='CycleGAN',
    generator=dict(type='ResnetGenerator'),
    discriminator=dict(type='PatchDiscriminator'),
    image_size=256,
)
default_hooks = dict(checkpoint=dict(save_param_scheduler=True))
train_cfg = dict(max_epochs=200, val_interval=20)
optim_wrapper = dict(
    generator=dict(optimizer=dict(betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(betas=(0.5, 0.999))),
)
# From epoch 101 on it falls by 1 / 101 each, so that epoch 200 still learns, as published.
param_scheduler = {
    network: [dict(type='LinearLR', start_factor=1.0, end_factor=0.0, begin=99, end=201)]
    for network in ('generator', 'discriminator')
}
val_evaluator = dict(
    type='FrechetDistance', extractor='inception', real=_base_.data_root + '/testB'
)
test_evaluator = val_evaluator
