# pix2pix on facades (files of two images side by side), instance norm, batch size 1; to train
# from labels (right half) to photographs (left half). Pairs are brought to 286 x 286 pixels, of
# which 256 x 256 are trained on, and flipped, both alike (Isola et al. 2017). Not trained here.
#   python tools/train.py configs/gan/pix2pix_facades_in_b1.py --data data/facades
# Published: FID 124.98 (MMagic 1.2.0, its own training), 119.14 (the authors' weights, evaluated by
# MMagic); both batch norm with the statistics of the one image, which is instance norm.
_base_ = [
    '../_base_/schedule_gan.py',
    '../_base_/gan_runtime.py',
]
model = dict(
    type='Pix2Pix',
    generator=dict(type='UnetGenerator'),
    discriminator=dict(type='PatchDiscriminator', in_channels=6),
)
pairs = dict(type='PairedFolders', source='B', target='A')
train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        data_root='data/facades/train',
        image_size=286,
        pipeline=[
            dict(
                type='TransformBroadcaster',
                mapping=dict(img=['source', 'target']),
                auto_remap=True,
                share_random_params=True,
                transforms=[
                    dict(type='RandomSquare', size=256),
                    dict(type='RandomFlip', prob=0.5),
                ],
            ),
            dict(type='PackPair'),
        ],
        **pairs,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_root='data/facades/test',
        image_size=256,
        test_mode=True,
        pipeline=[dict(type='PackPair')],
        **pairs,
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=200, val_interval=20)
optim_wrapper = dict(
    generator=dict(optimizer=dict(betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(betas=(0.5, 0.999))),
)
val_evaluator = dict(type='PairDistance')
test_evaluator = val_evaluator
