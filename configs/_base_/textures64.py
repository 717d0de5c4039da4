# Brick, grass, gravel and stained tissue, 64 x 64 pixels: 1,000 crops of scikit-image's photographs
# to train on and 200 of other parts of them, with labels; built on first use.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='EmbeddedImages',
        name='textures64',
        split='train',
        image_size=64,
        labels=True,
        pipeline=[dict(type='RandomFlip', prob=0.5), dict(type='PackImage')],
    ),
)
