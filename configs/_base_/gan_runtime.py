# Runs with any OpenMMLab runner: sbzoo registers itself when it is imported.
custom_imports = dict(imports=['sbzoo'], allow_failed_imports=False)
default_scope = 'mmengine'
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')  # each player by itself
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # two are kept, because the older is removed before the newer is written
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        save_param_scheduler=False,  # there is none; a config with one sets this
        backend_args=dict(backend='atomic'),
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='ExactResumeHook'),
    dict(type='PretrainedHook'),
    dict(type='StopAtInvalidLossHook'),
    dict(type='SamplesHook'),
    dict(type='AlphaHook'),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
