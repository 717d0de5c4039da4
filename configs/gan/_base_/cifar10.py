# CIFAR-10, 32 x 32 pixels, 50,000 to train on: data/cifar10 holds cifar-10-python.tar.gz or
# cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, or what they extract to.
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CIFAR10Dataset',
        data_root='data/cifar10',
        split='train',
        pipeline=[dict(type='RandomFlip', prob=0.5), dict(type='PackImage')],
    ),
)
