# R3GAN (Huang et al. 2024, arXiv 2501.05441) as its authors train it (github.com/brownvc/R3GAN,
# train.py): Adam at 2e-4 without momentum, and five values that follow a cosine over the whole
# training. That of the learning rate is mmengine's, of which a config gives the epochs; the others
# are those of CosineAnnealingHook.
_base_ = ['./schedule_gan.py', './gan_runtime.py']
model = dict(
    type='GAN',
    generator=dict(type='R3GANGenerator'),
    discriminator=dict(type='R3GANDiscriminator'),
    loss='relativistic',
)
default_hooks = dict(checkpoint=dict(save_param_scheduler=True))
param_scheduler = dict(type='CosineAnnealingLR', eta_min=5e-5, convert_to_iter_based=True)
