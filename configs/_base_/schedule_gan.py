# 8 epochs, counted in steps of the discriminator. Generator and discriminator have Adam
# without momentum at one learning rate, as SNGAN has it, whatever the batch size.
train_cfg = dict(type='AccumulatingEpochLoop', max_epochs=8, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    constructor='PlayersOptimWrapperConstructor',
    generator=dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.0, 0.9), fused=True)),
    discriminator=dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.0, 0.9), fused=True)),
)
