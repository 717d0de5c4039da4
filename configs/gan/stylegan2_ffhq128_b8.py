# StyleGAN2 on any folder of faces at 128 x 128 pixels, batch size 8. Not trained here.
#   python tools/train.py configs/gan/stylegan2_ffhq128_b8.py --data data/ffhq
# Nearest published: FID 3.99 at 256 x 256 pixels, batch size 32 (MMagic 1.2.0,
# stylegan2_c2_ffhq_256_b4x8).
_base_ = [
    './_base_/image_folder_128.py',
    './_base_/fid.py',
    '../_base_/schedule_gan.py',
    '../_base_/gan_runtime.py',
]
model = dict(
    type='GAN',
    generator=dict(type='StyleGAN2Generator', image_size=128, style_mixing=0.9),
    discriminator=dict(type='StyleGAN2Discriminator', image_size=128),
    loss='non-saturating',
    # 0.0002 times the pixels of an image over the batch size, the rule of StyleGAN2-ADA's code
    penalties=[dict(type='r1', weight=0.0002 * 128**2 / 8, interval=16)],
    path_length=dict(weight=2.0, interval=4),
    ema=dict(half_life=10_000),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=360, val_interval=20)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=2e-3, betas=(0.0, 0.99))),
    discriminator=dict(optimizer=dict(lr=2e-3, betas=(0.0, 0.99))),
)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='ImageFolderDataset', data_root='data/ffhq128', image_size=128),
)
test_evaluator = val_evaluator
