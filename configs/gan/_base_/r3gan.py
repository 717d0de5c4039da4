# R3GAN at its published sizes, with as many batches accumulated as make its authors' batch. What is
# missing of theirs: in the augmentation, which is StyleGAN2-ADA's, rotation, scaling, luma flip and
# hue; bfloat16; for the generator's step, real images of its own. The discriminator's logit of a
# class is of one matrix, not of a product of two.
_base_ = '../../_base_/r3gan.py'
model = dict(
    augment='flip,translation,color,cutout',
    ema=dict(ramp_up=1.0),  # CosineAnnealingHook gives the half-life, which stays below this
)
