# DCGAN on CelebA at 64 x 64 pixels as MMagic trains it, batch norm, batch size 128: 190 epochs of
# 202,599 images are its 300,000 steps. Not trained here.
#   python tools/train.py configs/gan/dcgan_mmagic_celeba64_bn_b128.py --data data/celeba
#   python tools/generate.py --card dcgan_1xb128-300kiters_celeba-cropped-64 --out samples.png
# Published: MS-SSIM 0.29 of 10,000 samples, and no FID (MMagic 1.2.0,
# dcgan_celeba-cropped_64_b128x1_300kiter).
_base_ = './_base_/dcgan_mmagic.py'
train_cfg = dict(max_epochs=190, val_interval=10)
