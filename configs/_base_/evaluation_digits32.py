# 299 samples against the 1,498 training digits, beside as many digits that were held out.
import os

data_root = os.path.expanduser('{{$SBZOO_CACHE:~/.cache/sbzoo}}') + '/digits32'
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='LatentDataset', num=299),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='FrechetDistance',
    extractor='digits',
    real=data_root + '/train',
    held_out=data_root + '/test',
)
test_evaluator = val_evaluator
