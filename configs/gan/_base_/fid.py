# FID of 50,000 samples, by Inception-v3 of 2015-12-05 (its weights are downloaded once; see
# tools/fid.py).
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='LatentDataset', num=50_000),
)
test_dataloader = val_dataloader
