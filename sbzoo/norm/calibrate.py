"""Calibration: the affine parameters of a converted network match the moments of the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.hooks import RemovableHandle

from sbzoo.errors import UserError
from sbzoo.norm import supported
from sbzoo.norm.layers import Norm
from sbzoo.norm.moments import along_channels
from sbzoo.norm.padding import without_padding
from sbzoo.norm.precise_bn import Forward, RunningMoments, parts_of, set_running, tracks_running
from sbzoo.norm.running_statistics import RunningStatistics

AFFINE_LAST = (_NormBase, nn.GroupNorm)  # norms that end with weight and bias, sbzoo's too
NEAR_CONSTANT = 1e-3  # of the original's standard deviation: such channels are not scaled up


@dataclass(frozen=True)
class Match:
    """How near the features of one norm are to the original's.

    An error is the root mean square of the difference, over the original's standard deviation:
    0 is equal, 1 is as far as the mean of the channel. Behind a region proposal network the two
    look at other regions, so that it says nothing there (NaN where their number differs).
    """

    name: str
    before: float
    after: float
    near_constant: int  # channels: they keep their learned weight, only the mean matches

    def __str__(self) -> str:
        line = f'  {self.before:.3f} -> {self.after:.3f}  {self.name}'
        count = self.near_constant
        return f'{line} ({count} near-constant channels: only means match)' if count else line


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` did; print it."""

    matches: list[Match]
    left: dict[str, str]  # name of a norm to the reason

    def __str__(self) -> str:
        head = f'{len(self.matches)} norms calibrated, {len(self.left)} left'
        left = [f'  left {name}: {reason}' for name, reason in self.left.items()]
        return '\n'.join([f'{head}; errors of the features:', *map(str, self.matches), *left])


@torch.no_grad()
def calibrate(
    model: nn.Module,
    reference: nn.Module,
    batches: Sequence,
    forward: Forward = nn.Module.__call__,
) -> Calibration:
    """Set weight and bias of converted norms so that the features match the original network's.

    With the learned weight and bias a converted norm puts out other values than the original, and
    what comes after it sees them. Here each norm is given, when it is reached, the weight and bias
    with which every channel of its output has the mean and the variance that the original has on
    the same images; the sign of the weight stays. Its input then comes from norms that are matched
    already, so one pass does a whole network: exactly where a norm runs once, and over all runs so
    far where it runs for several batches or pyramid levels. Norms that evaluate with running
    statistics get those of the images. Nothing else of the networks is changed. Where a converted
    norm leaves out the padding of a batch, so do all of these moments.

    Norms that stayed as they were are matched too where the convolution beside them is standardised
    now, as its output is another.

    Moments, not the least squares of the difference to the original's features: those need both
    networks to look at the same pixels, which they do not behind a region proposal network, and
    on the digit scenes gave no more than 0.003 AP more.

    Args:
        model: A copy of `reference` after `convert_norm`; its norms are changed in place.
        reference: The trained network. Both run in evaluation mode.
        batches: A few dozen images, the more in a batch the better; they are gone through three
            times.
        forward: Runs a model on a batch; `model(batch)` unless told.

    Returns:
        The error of the features of every converted norm, before and after.

    Raises:
        UserError: The networks are not of one architecture, or share their weights.

    Example:
        >>> from copy import deepcopy
        >>> from sbzoo.norm import convert_norm
        >>> original = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
        >>> converted = convert_norm(deepcopy(original), 'gn2').model
        >>> x = torch.randn(4, 3, 16, 16)
        >>> torch.allclose(converted(x).std((0, 2, 3)), original(x).std((0, 2, 3)))
        False
        >>> record = calibrate(converted, original, [x])
        >>> torch.allclose(converted(x).std((0, 2, 3)), original(x).std((0, 2, 3)), atol=1e-5)
        True
    """
    layers, left = _pair(model, reference)

    def run_both() -> Iterator[None]:
        for batch in batches:
            forward(reference, batch)
            forward(model, batch)
            yield

    with _evaluation(model), _evaluation(reference), _unfused(layers):
        before = _errors(layers, run_both())
        with _matching([layer for layer in layers if layer.target.count]):
            for batch in batches:
                forward(model, batch)
        after = _errors(layers, run_both())
    left |= {layer.name: 'did not run on these images' for layer in layers if not layer.bare.count}
    ran = [layer for layer in layers if layer.name not in left]
    return Calibration([Match(x.name, before[x], after[x], x.near_constant) for x in ran], left)


class _Layer:
    """A converted norm and the one that it was made from."""

    def __init__(self, name: str, norm: nn.Module, original: nn.Module) -> None:
        self.name, self.norm, self.original = name, norm, original
        self.scale, self.shift = norm.weight.clone(), norm.bias.clone()
        self.learned = self.scale.to('cpu', torch.float64, copy=True)
        self.target, self.inputs, self.bare = RunningMoments(), RunningMoments(), RunningMoments()
        self.near_constant = 0

    def track(self, norm: nn.Module, args: tuple) -> None:
        """Hook: the norm evaluates with the statistics of all its inputs so far."""
        self.inputs.add_pictures(norm, args[0])
        set_running(norm, self.inputs)

    def match(self, norm: nn.Module, args: tuple, bare: Tensor) -> Tensor:
        """Hook: from the output without weight and bias, find both and apply them."""
        self.bare.add_pictures(norm, bare)
        std, wanted = self.bare.var.sqrt(), self.target.var.sqrt()
        near_constant = std <= NEAR_CONSTANT * wanted
        size = torch.where(near_constant, self.learned.abs(), wanted / std)
        scale = torch.where(self.learned < 0, -size, size)
        self.scale.copy_(scale)
        self.shift.copy_(self.target.mean - scale * self.bare.mean)
        self.near_constant = int(near_constant.sum())
        y = bare * along_channels(self.scale, bare) + along_channels(self.shift, bare)
        return without_padding(y, norm.pictures_in(y)) if isinstance(norm, Norm) else y


def _pair(model: nn.Module, reference: nn.Module) -> tuple[list[_Layer], dict[str, str]]:
    """The norms whose outputs are others now, and the names of those that cannot be matched."""
    originals = dict(reference.named_modules())
    behind = _behind_new_weights(model, originals)
    layers, left = [], {}
    for name, norm in model.named_modules():
        original = originals.get(name)
        if not isinstance(norm, AFFINE_LAST) and not hasattr(original, 'running_var'):
            continue
        if isinstance(norm, RunningStatistics):
            continue  # of a norm that comes by itself
        if original is None:
            raise UserError(f'{name}: the reference network has no such layer')
        if _kind(norm) == _kind(original) and norm not in behind:
            continue
        if reason := _reason_to_leave(norm, original):
            left[name] = reason
        else:
            layers.append(_Layer(name, norm, original))
    return layers, left


def _behind_new_weights(model: nn.Module, originals: dict[str, nn.Module]) -> set[nn.Module]:
    """The norms beside a convolution, as `convert_norm` has it, that is standardised newly."""
    found = set()
    for name, parent in model.named_modules():
        was = dict(originals[name].named_children()) if name in originals else {}
        widths = {
            conv.out_channels
            for key, conv in parent.named_children()
            if supported.is_standardised(conv) and not supported.is_standardised(was.get(key))
        }
        norms = (m for m in parent.children() if supported.is_of_maps(type(m)))
        found |= {m for m in norms if supported.channels(m) in widths}
    return found


def _kind(norm: nn.Module) -> tuple:
    return type(norm), getattr(norm, 'spec', None), getattr(norm, 'num_groups', None)


def _reason_to_leave(norm: nn.Module, original: nn.Module) -> str | None:
    if not isinstance(norm, AFFINE_LAST) or (isinstance(norm, Norm) and norm.pool.activates):
        return 'its output is not affine in weight and bias'
    if norm.weight is None:
        return 'it has no weight and bias'
    if norm.weight is original.weight:
        raise UserError('the networks share their weights: convert a copy.deepcopy of the original')
    is_affine = isinstance(original, AFFINE_LAST) or hasattr(original, 'running_var')
    if not is_affine or (hasattr(norm, 'act') and not hasattr(original, 'drop')):
        return 'the original has its activation inside'
    return None


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _unfused(layers: list[_Layer]) -> Iterator[None]:
    """A ReLU in the pass of a norm runs behind it, and behind the hooks that look at its output."""
    norms = [n for x in layers for n in (x.norm, x.original) if getattr(n, 'relu', False)]
    with ExitStack() as hooks:
        for norm in norms:
            norm.relu = False
            hooks.callback(setattr, norm, 'relu', True)
            hooks.enter_context(norm.register_forward_hook(lambda _, args, y: y.relu()))
        yield


def _errors(layers: list[_Layer], runs: Iterable) -> dict[_Layer, float]:
    """The error of each layer; the moments of the originals are taken on the way."""
    sums = {layer: torch.zeros(2, dtype=torch.float64) for layer in layers}
    expected: dict[_Layer, list[Tensor]] = {layer: [] for layer in layers}

    def expect(layer: _Layer, y: Tensor) -> None:
        expected[layer].append(y.clone())  # the activation that comes next may be in place

    def compare(layer: _Layer, y: Tensor) -> None:
        if not expected[layer]:
            return
        original = expected[layer].pop(0)
        layer.target.add_pictures(layer.norm, original)
        if original.shape == y.shape:
            mean = along_channels(layer.target.mean.to(y), y)
            for ours, theirs in zip(*(parts_of(layer.norm, x) for x in (y, original)), strict=True):
                gaps = torch.stack([ours - theirs, theirs - mean])
                sums[layer] += gaps.square().flatten(1).sum(1).cpu()

    with ExitStack() as hooks:
        for layer in layers:
            layer.target = RunningMoments()
            hooks.enter_context(_watch(layer.original, expect, layer))
            hooks.enter_context(_watch(layer.norm, compare, layer))
        for _ in runs:
            for outputs in expected.values():
                outputs.clear()
    return {layer: float((error / spread).sqrt()) for layer, (error, spread) in sums.items()}


def _watch(norm: nn.Module, watcher: Callable, layer: _Layer) -> RemovableHandle:
    """Show the output of a norm to `watcher`, before the activation that timm's norms contain."""
    if isinstance(getattr(norm, 'drop', None), nn.Module):
        return norm.drop.register_forward_pre_hook(lambda _, args: watcher(layer, args[0]))
    return norm.register_forward_hook(lambda _, args, y: watcher(layer, y), prepend=True)


@contextmanager
def _matching(layers: list[_Layer]) -> Iterator[None]:
    """Norms run without weight and bias, hooks find both, and in the end the norms have them."""
    for layer in layers:
        layer.norm.weight.fill_(1)
        layer.norm.bias.fill_(0)
    try:
        with ExitStack() as hooks:
            for layer in layers:
                if tracks_running(layer.norm):
                    hooks.enter_context(layer.norm.register_forward_pre_hook(layer.track))
                hooks.enter_context(layer.norm.register_forward_hook(layer.match, prepend=True))
            yield
    finally:
        for layer in layers:
            layer.norm.weight.copy_(layer.scale)
            layer.norm.bias.copy_(layer.shift)
