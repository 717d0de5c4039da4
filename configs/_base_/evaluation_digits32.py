# 299 samples against the 1,498 training digits, beside as many digits that were held out.
_base_ = './digits32.py'
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='LatentDataset', num=299),
)
test_dataloader = val_dataloader
digits = dict(type='EmbeddedImages', name='digits32', image_size=32)
val_evaluator = dict(
    type='FrechetDistance',
    extractor='digits',
    real=dict(digits, split='train'),
    held_out=dict(digits, split='test'),
)
test_evaluator = val_evaluator
