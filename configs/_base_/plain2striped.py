# Unpaired domains, 64 x 64 pixels: brown digits on grass (A) and digits striped like zebras (B),
# 500 of each to train on and 50 of each to test with; built on first use.
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='EmbeddedDomains',
        name='plain2striped',
        source='trainA',
        target='trainB',
        image_size=64,
        pipeline=[
            dict(
                type='TransformBroadcaster',
                mapping=dict(img=['source', 'target']),
                auto_remap=True,
                transforms=[dict(type='RandomFlip', prob=0.5)],
            ),
            dict(type='PackPair'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='EmbeddedDomains',
        name='plain2striped',
        source='testA',
        target='testB',
        image_size=64,
        test_mode=True,
        pipeline=[dict(type='PackPair')],
    ),
)
test_dataloader = val_dataloader
