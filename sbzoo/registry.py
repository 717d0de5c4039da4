"""What is registered where.

Norms go to mmengine's root registry, which every OpenMMLab library falls back to.
"""

import contextlib
import io

from mmengine.registry import MODELS

from sbzoo import ops
from sbzoo.norm import Norm

ops.install()  # before mmdet.models is imported, which imports every operator
with contextlib.redirect_stdout(io.StringIO()):  # it prints that an optional data set is absent
    import mmdet.datasets  # noqa: F401

MODELS.register_module(module=Norm)

import sbzoo.backbones.resnet  # noqa: E402
import sbzoo.backbones.timm  # noqa: E402
import sbzoo.data.datasets  # noqa: E402
import sbzoo.data.image_sets  # noqa: E402
import sbzoo.data.latents  # noqa: E402
import sbzoo.data.transforms  # noqa: E402
import sbzoo.engine.alphas  # noqa: E402
import sbzoo.engine.checkpoints  # noqa: E402
import sbzoo.engine.generation  # noqa: E402
import sbzoo.engine.hooks  # noqa: E402
import sbzoo.engine.noise_scale  # noqa: E402
import sbzoo.engine.optim  # noqa: E402
import sbzoo.engine.precise_bn  # noqa: E402
import sbzoo.engine.with_norm  # noqa: E402
import sbzoo.gan  # noqa: E402
import sbzoo.heads  # noqa: E402
import sbzoo.losses  # noqa: E402
import sbzoo.metrics.ap  # noqa: E402
import sbzoo.metrics.generative  # noqa: E402
import sbzoo.metrics.pairs  # noqa: E402
import sbzoo.zoo.models  # noqa: E402, F401
