# What every config here has of sbzoo, whatever the detector.
custom_imports = dict(imports=['sbzoo'], allow_failed_imports=False)
custom_hooks = [
    dict(type='ExactResumeHook'),
    dict(type='PretrainedHook'),
    dict(type='StopAtInvalidLossHook'),
    dict(type='AlphaHook'),
]
