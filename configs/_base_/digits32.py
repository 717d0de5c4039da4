# scikit-learn's handwritten digits, white on black, 32 x 32 pixels: 1,498 to train on and 299 held
# out, with labels; built on first use.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='EmbeddedImages',
        name='digits32',
        split='train',
        image_size=32,
        labels=True,
        pipeline=[dict(type='PackImage')],
    ),
)
