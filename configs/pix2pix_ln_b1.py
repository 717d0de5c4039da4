# pix2pix (Isola et al. 2017, arXiv 1611.07004) at a quarter of its width: from the outline of a
# digit to the digit in the colour of its class. Its generator has layer norm: with instance norm,
# which is what the paper's batch norm is at batch size 1, it draws droplets.
_base_ = [
    './_base_/outlines.py',
    './_base_/schedule_gan.py',
    './_base_/gan_runtime.py',
]
model = dict(
    type='Pix2Pix',
    generator=dict(type='UnetGenerator', num_downs=6, base_channels=16, norm='ln'),
    discriminator=dict(
        type='PatchDiscriminator', in_channels=6, base_channels=16, num_layers=2, norm='in'
    ),
)
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(
    generator=dict(optimizer=dict(betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(betas=(0.5, 0.999))),
)
val_evaluator = dict(type='PairDistance')
test_evaluator = val_evaluator
