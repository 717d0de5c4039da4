# DCGAN on LSUN's bedrooms at 64 x 64 pixels as MMagic trains it, batch norm, batch size 128, 5
# epochs of 3,033,042 images. Not trained here.
#   python tools/train.py configs/gan/dcgan_mmagic_bedroom64_bn_b128.py --data data/lsun/bedroom
#   python tools/generate.py --card dcgan_1xb128-5epoches_lsun-bedroom-64x64 --out samples.png
# Published: MS-SSIM 0.21 of 10,000 samples, and no FID (MMagic 1.2.0,
# dcgan_lsun-bedroom_64_b128x1_5e).
_base_ = './_base_/dcgan_mmagic.py'
train_dataloader = dict(dataset=dict(data_root='data/lsun/bedroom'))
train_cfg = dict(max_epochs=5, val_interval=1)
val_evaluator = dict(real=dict(data_root='data/lsun/bedroom'))
test_evaluator = val_evaluator
