# DCGAN (Radford et al. 2015, arXiv 1511.06434) for 32 x 32 pixels, at half its width, with the
# hinge loss and a discriminator of spectral norm alone (Miyato et al. 2018, arXiv 1802.05957), so
# that only the generator has a norm to choose. Adam is five times as fast as for SNGAN.
_base_ = './schedule_gan.py'
model = dict(
    type='GAN',
    generator=dict(
        type='DCGANGenerator', image_size=32, noise_size=64, base_channels=32, norm='bn'
    ),
    discriminator=dict(type='DCGANDiscriminator', image_size=32, base_channels=32),
    loss='hinge',
    ema=dict(half_life=5000),
)
train_cfg = dict(max_epochs=16, val_interval=4)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=1e-3, betas=(0.0, 0.99))),
    discriminator=dict(optimizer=dict(lr=1e-3, betas=(0.0, 0.99))),
)
