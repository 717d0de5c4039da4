"""A model whose norms are turned as it is built, so that a config can say it."""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import nn

from sbzoo.norm import convert_norm


@MODELS.register_module('WithNorm')
def build_with_norm(architecture: str, norm: str, **parts) -> nn.Module:
    """Build `architecture` from its `parts` and turn the norms that no `norm_cfg` reached.

    In a config, `model = dict(type='WithNorm', norm='gn', architecture='FasterRCNN', ...)`. The
    result is the detector itself, with its own keys. Its norms are turned before any weight is
    loaded, and before the optimizer or a distributed wrapper sees the parameters; a hook would
    come too late for all three.

    Args:
        architecture: The `type` that the model would have without.
        norm: See `sbzoo.norm.NORMS`.
        parts: The rest of the model's config.

    Raises:
        UserError: Unknown spec, or a model without norms.
    """
    model = MODELS.build(dict(type=architecture, **parts))
    record = convert_norm(model, norm)
    if record.changed or record.left:
        print_log(f'beyond norm_cfg: {record}', logger='current')
    return record.model
