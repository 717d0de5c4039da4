# 3 epochs, no augmentation: a quarter of an epoch of warm-up, then a cosine. The learning rate is
# 0.01 x batch size (linear scaling) and all else is counted in epochs, so one recipe serves every
# batch size.
train_cfg = dict(type='AccumulatingEpochLoop', max_epochs=3, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01 * 2, momentum=0.9, weight_decay=0.0001, fused=True),
)
auto_scale_lr = dict(enable=False, base_batch_size=2)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=0.25,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0.25,
        end=3,
        T_max=2.75,
        convert_to_iter_based=True,
    ),
]
