# SNGAN with projection on CIFAR-10, hybrid in the generator, batch size 8. Not trained here.
#   python tools/train.py configs/gan/sngan_cifar10_hybrid_b8.py --data data/cifar10
# Published, batch norm, batch size 64: FID 8.12 (MMagic 1.2.0, sngan_proj_cifar10, 50,000
# samples) and 10.84 (Mimicry, 50,000 samples against 50,000 images); other code, other Inception
# pipelines.
_base_ = './_base_/sngan_cifar10.py'
model = dict(generator=dict(norm='hybrid'))
train_dataloader = dict(batch_size=8)
