# LSGAN with DCGAN's networks on LSUN's bedrooms at 64 x 64 pixels as MMagic trains it, batch norm,
# batch size 128: 4 epochs of 3,033,042 images are 95,000 of its 100,000 steps. Not trained here.
#   python tools/train.py configs/gan/lsgan_mmagic_bedroom64_bn_b128.py --data data/lsun/bedroom
#   python tools/generate.py --card lsgan_dcgan-archi_lr1e-4-1xb128-12Mimgs_lsun-bedroom-64x64
# Published: FID 30.74 of 50,000 samples against 50,000 images (MMagic 1.2.0,
# lsgan_lsun-bedroom_dcgan-archi_lr-1e-4_64_b128x1_12m); another Inception pipeline.
_base_ = './_base_/dcgan_mmagic.py'
model = dict(loss='least-squares')
train_dataloader = dict(dataset=dict(data_root='data/lsun/bedroom'))
train_cfg = dict(max_epochs=4, val_interval=1)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=1e-4, betas=(0.5, 0.99))),
    discriminator=dict(optimizer=dict(lr=1e-4, betas=(0.5, 0.99))),
)
val_evaluator = dict(real=dict(data_root='data/lsun/bedroom'))
test_evaluator = val_evaluator
