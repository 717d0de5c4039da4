# R3GAN on any folder of faces at 64 x 64 pixels, batch size 8, 32 batches accumulated. Not trained
# here.
#   python tools/train.py configs/gan/r3gan_ffhq64_b8.py --data data/ffhq
# Nearest published: FID 2.75 at 256 x 256 pixels (Huang et al. 2024, arXiv 2501.05441).
_base_ = [
    './_base_/image_folder_64.py',
    './_base_/fid.py',
    '../_base_/schedule_gan.py',
    '../_base_/gan_runtime.py',
]
model = dict(
    type='GAN',
    generator=dict(type='R3GANGenerator', image_size=64, base_channels=384),
    discriminator=dict(type='R3GANDiscriminator', image_size=64, base_channels=384),
    loss='relativistic',
    penalties=[dict(type='r1', weight=2.0), dict(type='r2', weight=2.0)],
    ema=dict(half_life=500_000),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=360, val_interval=20)
optim_wrapper = dict(
    generator=dict(accumulative_counts=32, optimizer=dict(betas=(0.0, 0.99))),
    discriminator=dict(accumulative_counts=32, optimizer=dict(betas=(0.0, 0.99))),
)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='ImageFolderDataset', data_root='data/ffhq64', image_size=64),
)
test_evaluator = val_evaluator
