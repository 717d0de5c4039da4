# Two folders without pairs, as CycleGAN's data sets have them: trainA, trainB, testA and testB.
# Images are brought to 286 x 286 pixels, of which 256 x 256 are trained on (Zhu et al. 2017).
data_root = 'data/horse2zebra'
train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='UnpairedFolders',
        data_root=data_root,
        source='trainA',
        target='trainB',
        image_size=286,
        pipeline=[
            dict(
                type='TransformBroadcaster',
                mapping=dict(img=['source', 'target']),
                auto_remap=True,
                transforms=[
                    dict(type='RandomSquare', size=256),
                    dict(type='RandomFlip', prob=0.5),
                ],
            ),
            dict(type='PackPair'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='UnpairedFolders',
        data_root=data_root,
        source='testA',
        target='testB',
        image_size=256,
        test_mode=True,
        pipeline=[dict(type='PackPair')],
    ),
)
test_dataloader = val_dataloader
