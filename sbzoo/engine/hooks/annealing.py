"""Cosine annealing of what mmengine's schedulers do not reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from sbzoo.engine.optim import wrappers_in
from sbzoo.engine.runner import unwrapped
from sbzoo.errors import UserError

BETA2 = 'beta2'


@HOOKS.register_module()
class CosineAnnealingHook(Hook):
    """Anneals attributes of the model, and Adam's beta2, over the whole training.

    The learning rate has mmengine's `CosineAnnealingLR`, of the same cosine (Loshchilov and Hutter
    2017, arXiv 1608.03983), and beta1 its `CosineAnnealingMomentum`. A value depends on nothing but
    the share of the updates that are done. So it is one of images, whatever the batch size and the
    accumulation, it is stretched to `--epochs`, and a resumed run goes on exactly.

    Args:
        values: First and last value by name: of `beta2`, that of all optimizers, or of an attribute
            of the model, such as `generator_ema.half_life`. A list on the way stands for each of
            its members (`penalties.weight`).

    Raises:
        UserError: The optimizers have no betas, or the model has no such attribute.
    """

    def __init__(self, values: dict[str, Sequence[float]]) -> None:
        self.values = values

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Set the values of an update."""
        share = runner.iter / runner.max_iters
        for name, (first, last) in self.values.items():
            value = last + (first - last) * (1 + cos(pi * share)) / 2
            if name == BETA2:
                _set_beta2(runner, value)
            else:
                _set_attribute(runner, name, value)
            runner.message_hub.update_scalar(f'train/{name}', value)


def _set_beta2(runner: Runner, value: float) -> None:
    for wrapper in wrappers_in(runner.optim_wrapper):
        for group in wrapper.optimizer.param_groups:
            if 'betas' not in group:
                kind = type(wrapper.optimizer).__name__
                raise UserError(f'CosineAnnealingHook: {BETA2!r}: {kind} has no betas')
            group['betas'] = group['betas'][0], value


def _set_attribute(runner: Runner, name: str, value: float) -> None:
    *path, attribute = name.split('.')
    holders = [unwrapped(runner)]
    for part in path:
        holders = list(_members(holders, part))
    for holder in holders:
        if not hasattr(holder, attribute):
            raise UserError(f'CosineAnnealingHook: {name!r}: the model has no such attribute')
        setattr(holder, attribute, value)


def _members(holders: list[Any], attribute: str) -> Iterator[Any]:
    """The attribute of each, or where it is a list its members."""
    for holder in holders:
        found = getattr(holder, attribute, None)
        yield from found if isinstance(found, list) else [found]
