# Any folder of images, at 64 x 64 pixels: the centre crop of each, by Lanczos' filter.
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='ImageFolderDataset',
        data_root='data/ffhq64',
        image_size=64,
        pipeline=[dict(type='RandomFlip', prob=0.5), dict(type='PackImage')],
    ),
)
