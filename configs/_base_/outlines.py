# Pairs, 64 x 64 pixels: the outline of a digit, and the digit in the colour of its label; 1,000 to
# train on and 100 of other digits to test with; built on first use.
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='EmbeddedPairs',
        name='outlines',
        split='train',
        image_size=64,
        pipeline=[dict(type='PackPair')],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='EmbeddedPairs',
        name='outlines',
        split='test',
        image_size=64,
        test_mode=True,
        pipeline=[dict(type='PackPair')],
    ),
)
test_dataloader = val_dataloader
