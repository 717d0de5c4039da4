# The 100 faces of scikit-image's lfw_subset, grey, 32 x 32 pixels: 84 to train on, 16 held out;
# built on first use.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='EmbeddedImages',
        name='faces32',
        split='train',
        image_size=32,
        pipeline=[dict(type='RandomFlip', prob=0.5), dict(type='PackImage')],
    ),
)
