"""Replaces the normalization layers of a model that is built already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sbzoo.errors import UserError
from sbzoo.norm import supported
from sbzoo.norm.folding import keep_unfolded
from sbzoo.norm.layers import NEAR, Norm, norm_cfg
from sbzoo.norm.spec import parse, split_spec
from sbzoo.norm.weight_std import ConvWS2d, takes_standardisation

OWN_FORWARD = 'a convolution with a forward of its own'
CARRIED = {  # the names of the same tensor here and elsewhere
    **{key: (key,) for key in ('weight', 'bias')},
    **{key: (key,) for key in ('running_mean', 'running_var', 'num_batches_tracked')},
    'threshold': ('threshold', 'tau'),
    'gate': ('gate', 'v'),
}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
EPS = 1e-5  # of frozen batch norms that have theirs in the code
HOOKS = (
    *('_forward_pre_hooks', '_forward_pre_hooks_with_kwargs'),
    *('_forward_hooks', '_forward_hooks_with_kwargs', '_forward_hooks_always_called'),
    *('_backward_pre_hooks', '_backward_hooks'),
)


@dataclass(frozen=True)
class Change:
    """One layer that was replaced."""

    name: str  # as in `model.named_modules()`
    old: str
    new: str
    dropped: tuple[str, ...]  # entries of its state dict that have no place in the new layer
    added: tuple[str, ...]  # entries that the old layer did not have
    start: str = ''  # what the new layer starts at, if not at what it has by default


@dataclass(frozen=True)
class Left:
    """One layer that was left as it was."""

    name: str
    kind: str
    reason: str


@dataclass
class Conversion:
    """What `convert_norm` did; print it."""

    model: nn.Module  # the one given, unless that is a norm itself
    spec: str
    changed: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def __str__(self) -> str:
        changed = _grouped((f'{c.old} -> {c.new}{c.start}', c.name) for c in self.changed)
        left = _grouped((f'{x.kind} left, {x.reason}', x.name) for x in self.left)
        head = f'norm {self.spec}: {len(self.changed)} layers replaced, {len(self.left)} left'
        return '\n'.join([head, *changed, *left])


def _grouped(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    """A line for each kind, with the names of its first and last layer."""
    groups: dict[str, list[str]] = {}
    for kind, name in rows:
        groups.setdefault(kind, []).append(name or 'the model itself')
    for kind, names in groups.items():
        span = names[0] if len(names) == 1 else f'{names[0]} ... {names[-1]}'
        yield f'  {len(names):4} {kind}: {span}'


def convert_norm(model: nn.Module, spec: str, keep_frozen: bool = False) -> Conversion:
    """Replace the normalization layers of any model by those that `spec` names, in place.

    Batch, sync, frozen, instance and group norms of vectors, sequences, images and volumes are
    replaced, and filter response norms and EvoNorms. Weight and bias stay the same tensors under
    the same keys; eps, dtype, device, mode and `requires_grad` stay too (what was frozen is
    frozen), and running statistics where both norms have them. A hybrid or switchable norm that is
    made of a trained batch norm starts near it, at 0.99, and the record says so. The activation and
    the dropout that are part of timm's norms go on being applied. Forward and backward hooks are
    those of the new layer, and their handles remove them as before. A layer in two places stays
    shared.

    Kept, with the reason in the record: per-pixel norms (ConvNeXt); subclasses with a forward or
    with tensors of their own, whose work would be lost; norms whose weights are computed
    (parametrized, pruned). A norm that becomes batch norm, and does not say for which rank, has the
    rank of the convolutions beside it, or else takes vectors and sequences beside linear layers.

    A second call replaces nothing. The state dict of the result loads strictly into the same model
    converted the same way.

    Args:
        model: Trained or not, on any device (meta too).
        spec: See `sbzoo.norm.NORMS`. With `+ws`, the convolutions that have a norm of as many
            channels as they put out beside them, in the same parent module, become `ConvWS2d`.
            Depthwise convolutions do not.
        keep_frozen: Keep norms whose weights want no gradient, as in frozen stages.

    Returns:
        The record. Its `model` is the one given, unless that is a norm itself, which cannot be
        replaced in place.

    Raises:
        UserError: Unknown spec, or a model without norms.

    Example:
        There and back it evaluates as before:

        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> x = torch.randn(2, 3, 9, 9)
        >>> before = model(x)
        >>> print(convert_norm(model, 'hybrid'))
        norm hybrid: 1 layers replaced, 0 left
             1 BatchNorm2d -> hybrid: 1
        >>> record = convert_norm(model, 'bn')
        >>> torch.equal(model(x), before)
        True
    """
    plain, standardise = split_spec(spec)
    norm_cfg(plain)  # an unknown spec is an error whatever the model has
    norms = _norms(model)
    if not norms:
        raise UserError(f'norm {spec}: {type(model).__name__} has no norm to replace')
    record, new_layers = Conversion(model, spec), {}
    for norm, name in norms.items():
        reason = supported.reason_to_leave(norm)
        if keep_frozen and supported.is_frozen(norm):
            reason = 'frozen'
        if reason:
            record.left.append(Left(name, type(norm).__name__, reason))
        elif not _is(norm, plain):
            new = new_layers[norm] = _like(norm, plain, model)
            record.changed.append(_change(name, norm, new, _start(norm, new)))
    if standardise:
        left = {layer.name for layer in record.left}
        beside = {norm for norm, name in norms.items() if name not in left}
        for name, conv in _convolutions_beside(beside, model):
            if type(conv) is nn.Conv2d:
                new_layers[conv] = ConvWS2d.like(conv)
                record.changed.append(_change(name, conv, new_layers[conv]))
            elif not supported.is_standardised(conv):
                record.left.append(Left(name, type(conv).__name__, OWN_FORWARD))
    _replace(new_layers, model)
    for old, new in new_layers.items():
        _hand_over_hooks(old, new)
    keep_unfolded(model)
    record.model = new_layers.get(model, model)
    return record


def _norms(model: nn.Module) -> dict[nn.Module, str]:
    """All norms and their names, except those that are part of another norm."""
    norms = {module: name for name, module in model.named_modules() if supported.is_norm(module)}
    parts = {part for norm in norms for part in norm.modules() if part is not norm}
    return {norm: name for norm, name in norms.items() if norm not in parts}


def _is(norm: nn.Module, spec: str) -> bool:
    """Whether a norm is what `spec` names already."""
    return (
        isinstance(norm, tuple(BATCH_NORMS.values())) if spec == 'bn' else _described(norm) == spec
    )


def _like(norm: nn.Module, spec: str, model: nn.Module) -> nn.Module:
    """The layer that `spec` names, with what `norm` has learned and what it does beside."""
    channels = supported.channels(norm)
    settings = dict(
        eps=float(getattr(norm, 'eps', EPS)), affine=getattr(norm, 'weight', None) is not None
    )
    if hasattr(norm, 'momentum'):
        settings['momentum'] = norm.momentum
    if spec != 'bn' and getattr(norm, 'count_padding', False):
        settings['count_padding'] = True
    drop, act = supported.drop_and_activation(norm)
    if parse(spec, channels).activates:
        act = nn.Identity()  # the new one takes its place
    if isinstance(act, nn.ReLU) and isinstance(drop, nn.Identity) and spec != 'bn':
        settings['relu'], act = True, nn.Identity()  # in the same pass
    kind = BATCH_NORMS[_rank(norm, model)] if spec == 'bn' else partial(Norm, spec=spec)
    new = kind(channels, **settings)
    if not (isinstance(drop, nn.Identity) and isinstance(act, nn.Identity)):
        new.drop, new.act = drop, act
        new.register_forward_hook(_drop_and_activate)
    _carry(norm, new, model)
    return new.train(norm.training)


def _rank(norm: nn.Module, model: nn.Module) -> int:
    """The rank of the maps of a norm: as its class says, or as the layers beside it have it."""
    if known := supported.rank(type(norm)):
        return known
    around = [parent for parent in model.modules() if norm in set(parent.modules())]
    for parent in sorted(around, key=lambda parent: sum(1 for _ in parent.modules())):
        layers = list(parent.modules())
        ranks = [len(layer.kernel_size) for layer in layers if isinstance(layer, _ConvNd)]
        if ranks or any(isinstance(layer, nn.Linear) for layer in layers):
            return max(ranks, default=1)
    return 2


def _drop_and_activate(norm: nn.Module, args: tuple, y: Tensor) -> Tensor:
    return norm.act(norm.drop(y))


def _carry(norm: nn.Module, new: nn.Module, model: nn.Module) -> None:
    """Give `new` the tensors of `norm`, with their dtype and device or those of the model."""
    tensors = (module.state_dict().values() for module in (norm, model))
    floats = (t for t in chain.from_iterable(tensors) if t.is_floating_point())
    if (example := next(floats, None)) is not None:
        new.to(example.device, example.dtype)
    for key, names in CARRIED.items():
        old, fresh = supported.first_of(norm, *names), getattr(new, key, None)
        if old is not None and fresh is not None:
            setattr(new, key, _as(fresh, old))


def _as(fresh: Tensor, old: Tensor) -> Tensor:
    """The tensor `old`, as the parameter or the buffer that `fresh` is."""
    if not isinstance(fresh, nn.Parameter):
        return old.detach()
    if not isinstance(old, nn.Parameter):
        return nn.Parameter(old, requires_grad=False)
    return old.requires_grad_(old.requires_grad and fresh.requires_grad)


def _start(old: nn.Module, new: nn.Module) -> str:
    """Let a mixture start near the trained batch norm that it is made of, and say so."""
    is_near = isinstance(new, Norm) and _is_batch_norm(old) and new.start_near_batch_norm()
    return f', {NEAR}' if is_near else ''


def _is_batch_norm(norm: nn.Module) -> bool:
    """Whether it is one in evaluation."""
    return norm.pool.folds if isinstance(norm, Norm) else hasattr(norm, 'running_var')


def _change(name: str, old: nn.Module, new: nn.Module, start: str = '') -> Change:
    before, after = list(old.state_dict()), list(new.state_dict())
    dropped = tuple(key for key in before if key not in after)
    added = tuple(key for key in after if key not in before)
    return Change(name, _described(old), _described(new), dropped, added, start)


def _described(layer: nn.Module) -> str:
    return layer.spec if isinstance(layer, Norm) else type(layer).__name__


def _convolutions_beside(
    norms: set[nn.Module], model: nn.Module
) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions whose parent has one of `norms` too, with their number of channels."""
    seen = set()
    for name, parent in model.named_modules():
        widths = {supported.channels(child) for child in parent.children() if child in norms}
        for key, child in parent.named_children():
            if takes_standardisation(child) and child.out_channels in widths and child not in seen:
                seen.add(child)
                yield f'{name}.{key}'.removeprefix('.'), child


def _replace(new_layers: dict[nn.Module, nn.Module], model: nn.Module) -> None:
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child in new_layers:
                setattr(parent, key, new_layers[child])


def _hand_over_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let `new` have the hooks of `old` behind its own, in the dictionary that handles know."""
    for name in HOOKS:
        hooks, own = vars(old)[name], vars(new)[name]
        for key in [key for key, hook in hooks.items() if hook is _drop_and_activate]:
            del hooks[key]
        hooks.update(own)
        for key in own:
            hooks.move_to_end(key, last=False)
        setattr(new, name, hooks)
    new._is_full_backward_hook = old._is_full_backward_hook
