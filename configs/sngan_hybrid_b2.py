_base_ = [
    './_base_/sngan.py',
    './_base_/schedule_gan.py',
    './_base_/evaluation_digits32.py',
    './_base_/gan_runtime.py',
]
model = dict(generator=dict(norm='hybrid'))
val_dataloader = dict(dataset=dict(num_classes=10))
test_dataloader = val_dataloader
