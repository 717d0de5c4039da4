# LSGAN with DCGAN's networks on CelebA at 128 x 128 pixels as MMagic trains it, batch norm, batch
# size 64: 51 epochs of 202,599 images are its 160,000 steps. Not trained here.
#   python tools/train.py configs/gan/lsgan_mmagic_celeba128_bn_b64.py --data data/celeba
#   python tools/generate.py --card lsgan_dcgan-archi_lr1e-4-1xb64-10Mimgs_celeba-cropped-128x128
# Published: FID 38.38 of 50,000 samples (MMagic 1.2.0,
# lsgan_celeba-cropped_dcgan-archi_lr-1e-4_128_b64x1_10m); another Inception pipeline.
_base_ = './_base_/dcgan_mmagic.py'
model = dict(
    generator=dict(image_size=128, base_channels=64),
    discriminator=dict(image_size=128),
    loss='least-squares',
)
train_dataloader = dict(batch_size=64, dataset=dict(image_size=128))
train_cfg = dict(max_epochs=51, val_interval=5)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=1e-4, betas=(0.5, 0.99))),
    discriminator=dict(optimizer=dict(lr=1e-4, betas=(0.5, 0.99))),
)
val_evaluator = dict(real=dict(image_size=128))
test_evaluator = val_evaluator
