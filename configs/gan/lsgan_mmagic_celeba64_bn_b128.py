# LSGAN with DCGAN's networks on CelebA at 64 x 64 pixels as MMagic trains it, batch norm, batch
# size 128: 63 epochs of 202,599 images are its 100,000 steps. Not trained here.
#   python tools/train.py configs/gan/lsgan_mmagic_celeba64_bn_b128.py --data data/celeba
#   python tools/generate.py --card lsgan_dcgan-archi_lr1e-3-1xb128-12Mimgs_celeba-cropped-64x64
# Published: FID 11.93 of 50,000 samples against 50,000 images (MMagic 1.2.0,
# lsgan_celeba-cropped_dcgan-archi_lr-1e-3_64_b128x1_12m); another Inception pipeline.
_base_ = './_base_/dcgan_mmagic.py'
model = dict(loss='least-squares')
train_cfg = dict(max_epochs=63, val_interval=7)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=1e-3, betas=(0.5, 0.99))),
    discriminator=dict(optimizer=dict(lr=1e-3, betas=(0.5, 0.99))),
)
