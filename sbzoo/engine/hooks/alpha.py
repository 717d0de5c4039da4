"""What the hybrid norms of a model have learned: how far each trusts its batch."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from sbzoo.engine.runner import unwrapped
from sbzoo.norm import Norm


@torch.no_grad()
def alphas(model: nn.Module) -> dict[str, float]:
    """The alpha of each hybrid norm by layer; the mean, if it has one for each channel."""
    hybrids = {n: m for n, m in model.named_modules() if isinstance(m, Norm) and m.is_hybrid}
    if not hybrids:
        return {}
    values = torch.stack([layer.alpha.mean() for layer in hybrids.values()])
    return dict(zip(hybrids, values.tolist(), strict=True))  # one transfer from the device


@HOOKS.register_module()
class AlphaHook(Hook):
    """Logs the alphas of hybrid norms, when mmengine's LoggerHook logs the losses.

    The console shows their range; every layer's goes past it, as `alpha/LAYER`, to what the
    visualizer writes (scalars.json, TensorBoard). A model without hybrid norms is left in peace.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out when the losses are logged, and whether there is anything to log."""
        loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = loggers[0] if loggers and alphas(runner.model) else 0  # 0: never

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Log, if it is time; before LoggerHook, which comes later by its priority."""
        if not self.every_n_inner_iters(batch_idx, self.interval):
            return
        values = alphas(unwrapped(runner))
        hub, low, high = runner.message_hub, min(values.values()), max(values.values())
        hub.update_scalars({'train/alpha_min': low, 'train/alpha_max': high})
        hub.update_scalar('train/alpha', sum(values.values()) / len(values))
        layers = {f'alpha/{name}': round(value, 4) for name, value in values.items()}
        runner.visualizer.add_scalars(layers, step=runner.iter + 1)
