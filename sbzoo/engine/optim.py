"""Optimizers: the alpha of a hybrid norm is not a weight, and a GAN has two networks."""

from __future__ import annotations

import torch
from mmengine.optim import (
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    OptimWrapperDict,
    build_optim_wrapper,
)
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.optim import Optimizer

from sbzoo.errors import UserError
from sbzoo.gan.models.base import without_wrapper
from sbzoo.norm import Norm


def wrappers_in(wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """The optimizer wrappers of a training: one, or of a GAN one for each network."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


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
        optimizer.register_load_state_dict_pre_hook(_moments_as_vectors)
        return wrapper


def _moments_as_vectors(optimizer: Optimizer, state_dict: dict) -> None:
    """Take moments [] for a parameter [1]: an alpha was a scalar up to version 0.5."""
    groups = zip(optimizer.param_groups, state_dict['param_groups'], strict=False)
    for own, saved in groups:
        for parameter, index in zip(own['params'], saved['params'], strict=False):
            state = state_dict['state'].get(index, {})
            for key in state.keys() - {'step'} if parameter.shape == (1,) else ():
                if torch.is_tensor(state[key]) and not state[key].ndim:
                    state[key] = state[key][None]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PlayersOptimWrapperConstructor:
    """A wrapper for generator and discriminator of an adversarial model, by name.

    In a config, `optim_wrapper = dict(constructor='PlayersOptimWrapperConstructor',
    generator=dict(optimizer=...), discriminator=dict(optimizer=...))`.

    Raises:
        UserError: The names are not those of the model's networks.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.cfg = {k: v for k, v in optim_wrapper_cfg.items() if isinstance(v, dict)}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the optimizers."""
        networks = without_wrapper(model).networks()
        if self.cfg.keys() != networks.keys():
            raise UserError(
                f'optim_wrapper: optimizers of {", ".join(self.cfg)}, but the model has the '
                f'networks {", ".join(networks)}'
            )
        return OptimWrapperDict(
            **{name: build_optim_wrapper(networks[name], cfg) for name, cfg in self.cfg.items()}
        )
