"""Activation checkpointing of cheap layers: what is cheap to recompute is not kept for backward.

Autograd keeps the input or the output of nearly every layer. Between two large convolutions these
are the same map before its norm and after its ReLU, or the wide map that a 1 x 1 convolution made
of a narrow one. Here such maps are recomputed, when backward asks for them, from what is kept
anyway: activation checkpointing (Chen et al. 2016, arXiv 1604.06174) layer by layer, for the cheap
layers alone, as in in-place activated batch norm (Rota Bulo et al. 2018, arXiv 1712.02616), but
for the layers of any model as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.weak import WeakTensorKeyDictionary

from sbzoo.norm.layers import Norm
from sbzoo.norm.normalize import recomputation

Function = Callable[[Tensor], Tensor]

MULTIPLY_ADDS = 512  # the dearest linear map to recompute, for each number of its output
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM_LAYERS = (Norm, nn.GroupNorm, nn.LayerNorm, _BatchNorm, _InstanceNorm)
KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Hardtanh, nn.Hardsigmoid)
SMOOTH = (nn.SiLU, nn.Mish, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish)
CHEAP = NORM_LAYERS + KINKED + SMOOTH


def make_lean(model: nn.Module) -> nn.Module:
    """Make every forward of `model` from now on a lean one; returns the model."""
    entered = ExitStack()

    def enter(model: nn.Module, _: tuple) -> None:
        entered.enter_context(lean(model))

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(lambda *_: entered.close(), always_call=True)
    return model


@contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Within, a forward of `model` keeps less for backward; the gradients are the same.

    Norms, activations and cheap linear maps (1 x 1 convolutions of few channels, depthwise ones)
    are recomputed in backward. Running statistics move once, random numbers are as before.
    A part under `torch.utils.checkpoint` keeps what that keeps.

    Raises:
        RuntimeError: In backward, if a tensor or parameter that it needs was changed in place.
    """
    tape = _Tape()
    with ExitStack() as stack:
        for module in model.modules() if torch.is_grad_enabled() else ():
            if isinstance(module, LINEAR + CHEAP):  # first, as other hooks may change its output
                stack.callback(module.register_forward_hook(tape.note, prepend=True).remove)
        stack.enter_context(saved_tensors_hooks(tape.pack, _Kept.value))
        yield


class _Kept:
    """A tensor that backward needs, or how to compute it; its first use turns this into that.

    All that keep the same tensor share one of these: what is computed for the first of them is
    there for the others and goes with the last.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor.detach(), tensor._version
        self.compute: Callable[[], Tensor] | None = None

    def drop(self, compute: Callable[[], Tensor]) -> None:
        """Keep how to compute it instead."""
        self.tensor, self.compute = None, compute

    def value(self) -> Tensor:
        """The tensor."""
        if self.compute is not None:
            self.tensor, self.compute = self.compute(), None
            self.version = self.tensor._version
        _check_version(self.tensor, self.version)  # as autograd does where there are no hooks
        return self.tensor


class _Tape:
    """What one forward keeps, by tensor and version of the tensor."""

    def __init__(self) -> None:
        self.kept: MutableMapping[Tensor, dict[int, _Kept]] = WeakTensorKeyDictionary()

    def pack(self, tensor: Tensor) -> _Kept:
        """Keep a tensor."""
        versions = self.kept.setdefault(tensor, {})
        if tensor._version not in versions:
            versions[tensor._version] = _Kept(tensor)
        return versions[tensor._version]

    def note(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """Drop the output of a module if it is cheap and its input is kept; a forward hook.

        To keep the input for the output's sake would gain nothing, and what comes later could no
        longer change it in place. Where the module itself does that, its input must be one that
        can be computed.
        """
        x = args[0] if args else output  # given by keyword, an input is not known
        in_place = x is output
        source = self.kept.get(x, {}).get(x._version - in_place)
        if source is None or (in_place and source.compute is None) or not output.requires_grad:
            return
        if not output.numel():  # there is nothing to drop
            return
        function = _as_function(module, output)
        if function is not None:
            self.pack(output).drop(_computation(function, module, source, x.device.type))


def _computation(
    function: Function, module: nn.Module, source: _Kept, device: str
) -> Callable[[], Tensor]:
    """How to compute the output that `module` has just computed."""
    versions = [(p, p._version) for p in module.parameters(recurse=False)]
    autocast = torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    )

    def compute() -> Tensor:
        for parameter, version in versions:
            _check_version(parameter, version)
        with torch.no_grad(), autocast:
            return function(source.value())

    return compute


def _check_version(tensor: Tensor, version: int) -> None:
    if tensor._version != version:
        raise RuntimeError(
            f'a tensor of shape {tuple(tensor.shape)} that is needed for gradient computation has '
            f'been modified by an inplace operation: it is at version {tensor._version} instead '
            f'of {version}'
        )


def _as_function(module: nn.Module, output: Tensor) -> Function | None:
    """What `module` has just done, without side effects; None if it is dear or has others."""
    forward = type(module).forward
    if any(module.children()):  # parametrisations, fake quantisation
        return None
    if isinstance(module, LINEAR):
        own = 'weight' in module._parameters  # and not computed by a hook
        cheap = own and module.weight[0].numel() <= MULTIPLY_ADDS
        return partial(forward, module) if cheap else None
    if not any(forward is kind.forward for kind in CHEAP):
        return None
    if module.training and isinstance(module, Norm) and module.pool.uses_batch:
        return recomputation(output) if output.ndim == 4 else None
    if module.training and forward is _BatchNorm.forward:
        affine = dict(weight=module.weight, bias=module.bias, eps=module.eps)
        return partial(F.batch_norm, running_mean=None, running_var=None, training=True, **affine)
    if module.training and forward is _InstanceNorm.forward and module.track_running_stats:
        return None
    module = copy(module)  # as it is now: in training or not
    module.inplace = False
    return partial(forward, module)
