# R3GAN on CIFAR-10, batch size 8, 64 batches accumulated: its authors' preset
# CIFAR10, batch size 512, 20 million images. Not trained here.
#   python tools/train.py configs/gan/r3gan_cifar10_b8.py --data data/cifar10
# Published: FID 1.96 (Huang et al. 2024, arXiv 2501.05441).
_base_ = [
    './_base_/cifar10.py',
    './_base_/fid.py',
    './_base_/r3gan.py',
]
nets = dict(num_classes=10)
model = dict(
    generator=nets,
    discriminator=nets,
    penalties=[dict(type='r1', weight=0.05), dict(type='r2', weight=0.05)],
)
train_dataloader = dict(batch_size=8)
val_dataloader = dict(dataset=dict(num_classes=10))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=400, val_interval=20)
param_scheduler = dict(T_max=400)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='CosineAnnealingHook',
        values={
            'beta2': (0.9, 0.99),
            'penalties.weight': (0.05, 0.005),
            'generator_ema.half_life': (0, 5_000_000),
            'augment.probability': (0, 0.55),
        },
    ),
]
optim_wrapper = dict(
    generator=dict(accumulative_counts=64),
    discriminator=dict(accumulative_counts=64),
)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='inception',
    real=dict(type='CIFAR10Dataset', data_root='data/cifar10'),
)
test_evaluator = val_evaluator
