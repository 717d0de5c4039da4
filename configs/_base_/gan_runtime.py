_base_ = './runtime.py'
default_scope = 'mmengine'
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')  # each network by itself
default_hooks = dict(checkpoint=dict(save_param_scheduler=False))  # a config with one sets this
custom_hooks = [*_base_.custom_hooks, dict(type='SamplesHook')]
visualizer = dict(type='Visualizer')
