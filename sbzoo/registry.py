"""What is registered where.

Norms go to mmengine's root registry, which every OpenMMLab library falls back to.
"""

import contextlib
import io

from mmengine.registry import MODELS

from sbzoo.detection import mmcv_ops as ops
from sbzoo.norm import Norm

ops.install()  # before mmdet.models is imported, which imports every operator
with contextlib.redirect_stdout(io.StringIO()):  # it prints that an optional data set is absent
    import mmdet.datasets  # noqa: F401

MODELS.register_module(module=Norm)

import sbzoo.checkpoint.io  # noqa: E402
import sbzoo.data.datasets  # noqa: E402
import sbzoo.data.digit_scenes_dataset  # noqa: E402
import sbzoo.data.latents  # noqa: E402
import sbzoo.data.transforms  # noqa: E402
import sbzoo.detection.heads  # noqa: E402
import sbzoo.detection.losses  # noqa: E402
import sbzoo.detection.resnet  # noqa: E402
import sbzoo.detection.timm  # noqa: E402
import sbzoo.engine.hooks.alpha  # noqa: E402
import sbzoo.engine.hooks.noise_scale  # noqa: E402
import sbzoo.engine.hooks.precise_bn  # noqa: E402
import sbzoo.engine.hooks.resume  # noqa: E402
import sbzoo.engine.optim  # noqa: E402
import sbzoo.engine.options.with_norm  # noqa: E402
import sbzoo.engine.visualize_generation  # noqa: E402
import sbzoo.gan  # noqa: E402
import sbzoo.metrics.coco_ap  # noqa: E402
import sbzoo.metrics.generative  # noqa: E402
import sbzoo.metrics.l1  # noqa: E402
import sbzoo.zoo.load  # noqa: E402, F401
