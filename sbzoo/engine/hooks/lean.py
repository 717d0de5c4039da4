"""`--lean`: activation checkpointing of the whole forward."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from sbzoo.engine.runner import unwrapped
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.norm.recompute import make_lean


@HOOKS.register_module()
class LeanHook(Hook):
    """Recomputes activations in the backward: the same gradients in less memory.

    See `sbzoo.norm.recompute`.
    """

    def before_train(self, runner: Runner) -> None:
        """Make the forward of a detector lean, or of a GAN's generator.

        A discriminator's penalties differentiate twice, for which all has to be kept.
        """
        model = unwrapped(runner)
        make_lean(model.generator if isinstance(model, AdversarialModel) else model)
