"""What the losses of a detector are divided by, and how to divide them by other numbers.

A head of MMDetection divides each loss by a normaliser of its batch: positive anchors, the sum of
their centerness, sampled RoIs. Whoever splits a batch needs the normaliser of the whole, before the
loss of a part can be computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import NoneType
from typing import Any

import torch
from mmdet.models.detectors import (
    DetectionTransformer,
    SingleStageDetector,
    TwoStageDetector,
)
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.task_modules import PseudoSampler
from torch import Tensor, nn

Replace = Callable[[str, float], float]  # a normaliser's name and value -> what to divide by

DETECTORS = {kind.loss for kind in (SingleStageDetector, TwoStageDetector, DetectionTransformer)}
CONTAINERS = StandardRoIHead, CascadeRoIHead  # of heads, without a loss of their own
LOSSES = {
    *('FocalLoss', 'LeanFocalLoss', 'QualityFocalLoss', 'DistributionFocalLoss'),
    *('CrossEntropyLoss', 'L1Loss', 'SmoothL1Loss', 'IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss'),
}  # sums over what they are given, over the normaliser
METHODS = 'loss', 'loss_by_feat', 'loss_and_target'  # of whatever has a loss in MMDetection


def unsupported(model: nn.Module) -> list[str]:
    """The types in a model whose normalisers are not known here, of which the losses are."""
    if getattr(type(model), 'loss', None) not in DETECTORS:
        return [type(model).__name__]
    parts = [
        part
        for module in model.modules()
        if module is not model and any(callable(getattr(module, name, None)) for name in METHODS)
        for part in _unknown(module)
    ]
    return sorted({type(part).__name__ for part in parts})


def _unknown(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) in CONTAINERS:
        return
    if type(module).__name__ not in HEADS:
        yield module
    yield from (loss for loss in _losses(module) if type(loss).__name__ not in LOSSES)


def _losses(head: nn.Module) -> list[nn.Module]:
    return [child for name, child in head.named_children() if name.startswith('loss_')]


@contextmanager
def replaced(model: nn.Module, replace: Replace, scale: float = 1.0) -> Iterator[None]:
    """Divide the losses of a detector by other numbers.

    What a head derives from a normaliser, such as `max(normaliser, 1)`, is derived from the other.

    Args:
        model: A detector without `unsupported` parts; it is left as it was.
        replace: Called once for each normaliser and forward pass, in the same order and of the same
            names whatever is in the batch.
        scale: A factor of all losses.
    """
    normalizers = Normalizers(replace)

    def scaled(_module: nn.Module, _args: tuple, losses: dict) -> dict:
        return {name: _times(loss, scale) for name, loss in losses.items() if 'loss' in name} | {
            name: value for name, value in losses.items() if 'loss' not in name
        }

    with ExitStack() as stack:
        stack.enter_context(model.register_forward_pre_hook(normalizers.restart))
        stack.enter_context(model.register_forward_hook(scaled))
        for name, head in model.named_modules():
            if install := HEADS.get(type(head).__name__):
                install(stack, name, head, normalizers)
        yield


def _times(loss: Tensor | list[Tensor], scale: float) -> Tensor | list[Tensor]:
    return [each * scale for each in loss] if isinstance(loss, list) else loss * scale


class Normalizers:
    """The normalisers of a forward pass, each replaced where it is met first."""

    def __init__(self, replace: Replace) -> None:
        self.replace = replace
        self.found: dict[str, float] = {}
        self.means = 0  # that a head has asked for

    def restart(self, _module: nn.Module, _args: tuple) -> None:
        """Before a forward pass."""
        self.found, self.means = {}, 0

    def __call__(self, name: str, value: float) -> float:
        """What stands in for the normaliser of a name."""
        if name not in self.found:
            self.found[name] = self.replace(name, value)
        return self.found[name]

    def reduce_mean(self, tensor: Tensor) -> Tensor:
        """In the place of MMDetection's, which takes the mean over ranks, of a single number."""
        self.means += 1
        return torch.full_like(tensor, self(f'mean {self.means}', tensor.item()))


def _by_avg_factor(stack: ExitStack, name: str, head: nn.Module, of: Normalizers) -> None:
    """One normaliser, that the head gives its losses."""

    def instead(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | dict(avg_factor=of(name, float(kwargs['avg_factor'])))

    for loss in _losses(head):
        stack.enter_context(loss.register_forward_pre_hook(instead, with_kwargs=True))


def _by_rois(stack: ExitStack, name: str, head: nn.Module, of: Normalizers) -> None:
    """The RoIs that the head is given: without a positive one, it leaves out a loss."""
    stack.enter_context(head.register_forward_pre_hook(_counter(name, of)))
    _by_avg_factor(stack, name, head, of)


def _by_mean(stack: ExitStack, name: str, head: nn.Module, of: Normalizers) -> None:
    """The RoIs that the head is given, over which its loss is the mean."""

    def instead(_module: nn.Module, args: tuple, loss: Tensor) -> Tensor:
        return loss * (len(args[0]) / of(name, len(args[0])))

    stack.enter_context(head.register_forward_pre_hook(_counter(name, of)))
    for loss in _losses(head):
        stack.enter_context(loss.register_forward_hook(instead))


def _counter(name: str, of: Normalizers) -> Callable[[nn.Module, tuple], None]:
    def count(_module: nn.Module, args: tuple) -> None:
        of(name, len(args[0]))

    return count


def _by_reduce_mean(stack: ExitStack, name: str, head: nn.Module, of: Normalizers) -> None:
    """Normalisers that MMDetection averages over ranks, by a function in the head's modules."""
    for kind in type(head).__mro__:
        module = sys.modules[kind.__module__]
        if 'reduce_mean' in vars(module):
            stack.enter_context(_set(module, 'reduce_mean', of.reduce_mean))
    if hasattr(head, 'sync_cls_avg_factor'):  # without it DETR's is averaged over no ranks
        stack.enter_context(_set(head, 'sync_cls_avg_factor', True))


@contextmanager
def _set(target: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, old)


def ignores_predictions(model: nn.Module) -> bool:
    """Whether objects and anchors alone decide the normalisers of a detector without `roi_head`."""
    heads = [m for m in model.modules() if type(m).__name__ in HEADS]
    return [type(head).__name__ in OF_OBJECTS and not _samples(head) for head in heads] == [True]


def _samples(head: nn.Module) -> bool:
    return type(getattr(head, 'sampler', None)) not in (NoneType, PseudoSampler)


@contextmanager
def without_network(model: nn.Module, outputs: Any) -> Iterator[None]:
    """Let a detector that `ignores_predictions` assign targets and nothing else.

    Args:
        model: Its losses are 0.
        outputs: What its head has made of a batch of the same size.
    """
    head = model.bbox_head
    nothing = {
        model: dict(extract_feat=None, forward_transformer=dict(hidden_states=None)),
        head: dict(forward=outputs),
        **{loss: dict(forward=torch.zeros(())) for loss in _losses(head)},
    }
    with ExitStack() as stack:
        for module, methods in nothing.items():
            for name, value in methods.items():
                stack.enter_context(_returning(module, name, value))
        yield


@contextmanager
def _returning(module: nn.Module, method: str, value: Any) -> Iterator[None]:
    vars(module)[method] = lambda *_, **__: value
    try:
        yield
    finally:
        del vars(module)[method]


def zeros_like(outputs: Any) -> Any:
    """Zeros in the place of tensors, in nested lists and tuples, that take no memory."""
    if isinstance(outputs, Tensor):
        return outputs.new_zeros(()).expand(outputs.shape)
    return type(outputs)(map(zeros_like, outputs))


OF_OBJECTS = {
    *('RetinaHead', 'RetinaSepBNHead', 'LeanRetinaHead', 'LeanRetinaSepBNHead'),
    *('FCOSHead', 'ATSSHead', 'DETRHead'),
}  # heads whose normalisers do not depend on what they predict
HEADS = {
    **dict.fromkeys(('RetinaHead', 'RetinaSepBNHead', 'RPNHead'), _by_avg_factor),
    **dict.fromkeys(('LeanRetinaHead', 'LeanRetinaSepBNHead'), _by_avg_factor),
    **dict.fromkeys(('FCOSHead', 'ATSSHead', 'GFLHead', 'DETRHead'), _by_reduce_mean),
    **dict.fromkeys(('RTMDetHead', 'RTMDetSepBNHead'), _by_reduce_mean),
    **dict.fromkeys(('BBoxHead', 'ConvFCBBoxHead', 'Shared2FCBBoxHead'), _by_rois),
    'Shared4Conv1FCBBoxHead': _by_rois,
    'FCNMaskHead': _by_mean,
}
