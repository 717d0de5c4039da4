"""What is registered with OpenMMLab's libraries: importing this registers it.

Norms, generators and all else that needs no detector go to mmengine's root registries, which every
OpenMMLab library falls back to. Each registry of MMDetection has a child of the scope `sbzoo`, so
that what a config takes from `sbzoo::` finds the types of both.
"""

import contextlib
import io
from importlib import import_module

import mmdet.registry
from mmengine.registry import MODELS, Registry

from sbzoo.norm import Norm

with contextlib.redirect_stdout(io.StringIO()):  # it prints that an optional data set is absent
    import mmdet.datasets

MODULES = (
    'sbzoo.checkpoint.mmengine_loaders',
    'sbzoo.data.datasets',
    'sbzoo.data.file_errors',
    'sbzoo.data.synthetic',
    'sbzoo.data.transforms',
    'sbzoo.detection.heads',
    'sbzoo.detection.losses',
    'sbzoo.detection.padding',
    'sbzoo.detection.resnet',
    'sbzoo.detection.timm',
    'sbzoo.engine.hooks.alpha',
    'sbzoo.engine.hooks.annealing',
    'sbzoo.engine.hooks.lean',
    'sbzoo.engine.hooks.noise_scale',
    'sbzoo.engine.hooks.precise_bn',
    'sbzoo.engine.hooks.ranks',
    'sbzoo.engine.hooks.resume',
    'sbzoo.engine.hooks.samples',
    'sbzoo.engine.loops',
    'sbzoo.engine.optim',
    'sbzoo.engine.options.norm',
    'sbzoo.gan',
    'sbzoo.metrics.coco_ap',
    'sbzoo.metrics.generative',
    'sbzoo.metrics.l1',
)

MODELS.register_module(module=Norm)
for module in MODULES:
    import_module(module)

REGISTRIES = [
    Registry(parent.name, parent=parent, scope='sbzoo', locations=['sbzoo.registry'])
    for parent in vars(mmdet.registry).values()
    if isinstance(parent, Registry)
]
