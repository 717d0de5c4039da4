# CycleGAN (Zhu et al. 2017, arXiv 1703.10593) at a quarter of its width: plain digits to striped
# ones and back, without pairs. 2,000 steps.
_base_ = [
    './_base_/plain2striped.py',
    './_base_/schedule_gan.py',
    './_base_/gan_runtime.py',
]
model = dict(
    type='CycleGAN',
    generator=dict(type='ResnetGenerator', base_channels=16, num_blocks=3, norm='in'),
    discriminator=dict(type='PatchDiscriminator', base_channels=16, num_layers=2, norm='in'),
    image_size=64,
)
train_cfg = dict(max_epochs=4)
optim_wrapper = dict(
    generator=dict(optimizer=dict(betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(betas=(0.5, 0.999))),
)
striped = dict(
    type='EmbeddedImages',
    name='plain2striped',
    split='trainB',
    image_size=64,
)
val_evaluator = dict(type='FrechetDistance', extractor='digits', real=striped)
test_evaluator = val_evaluator
