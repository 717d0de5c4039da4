"""The optimizer knows that the alpha of a hybrid norm is not a weight."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from sbzoo.norm import Norm


@OPTIM_WRAPPER_CONSTRUCTORS.register_module('DefaultOptimWrapperConstructor', force=True)
class NormOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default, with a parameter group of its own for the alphas of hybrid norms.

    It takes the default's place in the registry, so that a hybrid norm learns in any config
    without a word about it; a model without hybrid norms is treated as before. Alphas get
    `ALPHA_LR_MULT` times the learning rate that they would have and no weight decay.
    """

    ALPHA_LR_MULT = 10.0

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of a model and set its alphas apart."""
        wrapper = super().__call__(model)
        alphas = {m.alpha_logit for m in model.modules() if isinstance(m, Norm) and m.is_hybrid}
        optimizer = wrapper.optimizer
        for group in list(optimizer.param_groups):
            apart = [p for p in group['params'] if p in alphas]
            if apart:
                group['params'] = [p for p in group['params'] if p not in alphas]
                own = dict(params=apart, lr=group['lr'] * self.ALPHA_LR_MULT, weight_decay=0.0)
                optimizer.add_param_group({**group, **own})
        optimizer.param_groups = [g for g in optimizer.param_groups if g['params']]
        return wrapper
