# SNGAN (Miyato et al. 2018, arXiv 1802.05957) for 32 x 32 pixels at a quarter of its width, of ten
# classes: the generator's norms have a scale and a shift of each class, the discriminator projects
# (arXiv 1802.05637).
model = dict(
    type='GAN',
    generator=dict(
        type='SNGANGenerator',
        image_size=32,
        noise_size=64,
        base_channels=16,
        norm='bn',
        num_classes=10,
    ),
    discriminator=dict(type='SNGANDiscriminator', image_size=32, base_channels=16, num_classes=10),
    loss='hinge',
    ema=dict(half_life=5000),
)
