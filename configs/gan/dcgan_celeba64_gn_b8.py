# DCGAN at its published width on any folder of faces at 64 x 64 pixels, gn in the generator,
# batch size 8. Not trained here.
#   python tools/train.py configs/gan/dcgan_celeba64_gn_b8.py --data data/celeba
# Nearest published: FID 11.93, networks of the same width with batch norm in both, least squares,
# 128 images a step (MMagic 1.2.0, lsgan_celeba-cropped_dcgan-archi_lr-1e-3_64_b128x1_12m).
_base_ = [
    './_base_/image_folder_64.py',
    './_base_/fid.py',
    '../_base_/schedule_gan.py',
    '../_base_/gan_runtime.py',
]
model = dict(
    type='GAN',
    generator=dict(type='DCGANGenerator', image_size=64, norm='gn'),
    discriminator=dict(type='DCGANDiscriminator', image_size=64),
    loss='least-squares',
    ema=dict(half_life=50_000),
)
train_dataloader = dict(batch_size=8, dataset=dict(data_root='data/celeba'))
train_cfg = dict(max_epochs=60, val_interval=10)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='ImageFolderDataset', data_root='data/celeba', image_size=64),
)
test_evaluator = val_evaluator
