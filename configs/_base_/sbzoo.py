# What every config has of sbzoo, which registers itself when any OpenMMLab runner imports it.
custom_imports = dict(imports=['sbzoo'], allow_failed_imports=False)
sbzoo = dict(
    hooks=[
        dict(type='ExactResumeHook'),
        dict(type='PretrainedHook'),
        dict(type='RanksHook'),
        dict(type='StopAtInvalidLossHook'),
        dict(type='AlphaHook'),
    ],
    # two are kept, because the older is removed before the newer is written
    checkpoint=dict(max_keep_ckpts=2, backend_args=dict(backend='atomic')),
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)
