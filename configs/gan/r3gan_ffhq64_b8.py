# R3GAN on any folder of faces at 64 x 64 pixels, batch size 8, 32 batches accumulated: its authors'
# preset FFHQ-64, batch size 256, 20 million images (286 epochs of FFHQ). Not trained here.
#   python tools/train.py configs/gan/r3gan_ffhq64_b8.py --data data/ffhq
# Published: FID 1.95 (Huang et al. 2024, arXiv 2501.05441).
_base_ = [
    './_base_/image_folder_64.py',
    './_base_/fid.py',
    './_base_/r3gan.py',
]
model = dict(
    generator=dict(image_size=64, base_channels=384),
    discriminator=dict(image_size=64, base_channels=384),
    penalties=[dict(type='r1', weight=2.0), dict(type='r2', weight=2.0)],
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=286, val_interval=22)
param_scheduler = dict(T_max=286)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='CosineAnnealingHook',
        values={
            'beta2': (0.9, 0.99),
            'penalties.weight': (2.0, 0.2),
            'generator_ema.half_life': (0, 500_000),
            'augment.probability': (0, 0.3),
        },
    ),
]
optim_wrapper = dict(
    generator=dict(accumulative_counts=32),
    discriminator=dict(accumulative_counts=32),
)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='ImageFolderDataset', data_root='data/ffhq64', image_size=64),
)
test_evaluator = val_evaluator
