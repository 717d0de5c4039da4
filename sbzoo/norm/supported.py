"""Which layers of which libraries are norms, and which of them `convert_norm` can replace.

Layers are known by the name of their class or of a base, so that torch alone is needed: a
layer of timm, torchvision, mmcv or detectron2 is what it is called there. What computes its
output by code of anybody else may do more than its base, and is left.
"""

from __future__ import annotations

import re
from itertools import chain

import torch
from torch import Tensor, nn

from sbzoo.norm.layers import Norm
from sbzoo.norm.moments import along_channels

BUFFERS = {'weight', 'bias', 'running_mean', 'running_var'}
FROZEN = r'.*FrozenBatchNorm(Act)?2d'  # DETR's, and each of its descendants' in transformers
NORMS = (
    r'BatchNorm[123]d|SyncBatchNorm|_BatchNormXd|InstanceNorm[123]d|GroupNorm'
    r'|FilterResponseNorm(Act|Tlu)2d|EvoNorm2d[BS]\d'
)
KEPT = {
    r'.*(Layer|RMS|Rms)Norm.*|(Simple|L2)Norm.*': (
        'per pixel or token, so not of the moments of maps'
    ),
    r'_LazyNormBase': 'lazy: it does not know its channels before its first forward',
}
KNOWN = ('torch', 'torchvision', 'timm', 'mmcv', 'mmengine', 'mmdet', 'detectron2', 'sbzoo')
TENSORS = (
    r'weight|bias|running_mean|running_var|num_batches_tracked|tau|v|(act|drop)\..*'
    r'|threshold|gate|(alpha|past)_\w+|(mean|var)_logits'
)
STANDARDISED = r'ConvA?WS2d|(Scaled)?StdConv2d(Same)?'
NO_STATISTICS = 'scales and shifts alone, as EvoNorm does without its activation'
UNKNOWN = 'a kind of norm that is not known here'
OWN_FORWARD = 'a forward of its own, which may do more than normalise'
OWN_TENSORS = 'parameters or buffers of its own'
COMPUTED = 'its weight or bias is computed (parametrized, pruned, weight norm)'


def is_of_maps(kind: type) -> bool:
    """Whether a class is a norm of [N, C, *] with a weight and a bias per channel."""
    return issubclass(kind, Norm) or _is_called(kind, NORMS) or _is_called(kind, FROZEN)


def is_for_images(kind: type) -> bool:
    """Whether a class is such a norm, and takes images [N, C, H, W]."""
    return is_of_maps(kind) and rank(kind) in (2, None)


def rank(kind: type) -> int | None:
    """The rank of the maps of a norm, 2 for images; None if it takes any or does not say."""
    found = (re.search(r'([123])d', cls.__name__) for cls in kind.__mro__)
    return None if issubclass(kind, Norm) else next((int(m[1]) for m in found if m), None)


def is_norm(module: nn.Module) -> bool:
    """Whether a layer is a norm of features, be it one that can be replaced or not."""
    kind = type(module)
    if is_of_maps(kind) or any(_is_called(kind, name) for name in KEPT):
        return True
    if any(True for _ in module.children()):
        return False
    has_tensors = any(True for _ in chain(module.parameters(), module.buffers()))
    is_named_so = re.search(r'(?<!Spectral)(?<!Weight)Norm(?!al|ed)', kind.__name__)
    return bool(has_tensors and is_named_so) or hasattr(module, 'running_var')


def reason_to_leave(norm: nn.Module) -> str | None:
    """Why a norm cannot be replaced; None if it can."""
    kind = type(norm)
    for name, reason in KEPT.items():
        if _is_called(kind, name):
            return reason
    if not is_of_maps(kind):
        return UNKNOWN
    if _has_computed(norm):
        return COMPUTED
    if _has_own_tensors(norm):
        return OWN_TENSORS
    if _has_own_forward(norm):
        return OWN_FORWARD
    return NO_STATISTICS if _is_called(kind, 'EvoNorm.*') and not norm.apply_act else None


def _has_computed(norm: nn.Module) -> bool:
    """Whether a weight or a bias is neither a parameter nor a buffer: a hook or property makes it.

    In its place, parametrizations, pruning and weight norm keep others, which train.
    """
    own = norm._parameters.keys() | norm._buffers.keys()
    return any(getattr(norm, n, None) is not None and n not in own for n in ('weight', 'bias'))


def _has_own_tensors(norm: nn.Module) -> bool:
    names = (name for name, _ in chain(norm.named_parameters(), norm.named_buffers()))
    return not all(re.fullmatch(TENSORS, name) for name in names)


def _has_own_forward(norm: nn.Module) -> bool:
    """Whether its output is computed by other code than that of a library known here.

    Frozen batch norm is written anew in every repository, and is known by its four buffers.
    """
    kind = type(norm)
    author = next(cls for cls in kind.__mro__ if 'forward' in vars(cls))
    if 'forward' in vars(norm):
        return True
    if _is_called(author, FROZEN):
        return bool(norm._parameters) or not norm._buffers.keys() >= BUFFERS
    return author.__module__.partition('.')[0] not in KNOWN


def is_standardised(module: nn.Module | None) -> bool:
    """Whether a layer is a convolution with standardised weights."""
    return _is_called(type(module), STANDARDISED)


def is_frozen(norm: nn.Module) -> bool:
    """Whether a norm has weights, of which none wants a gradient."""
    weights = [t for t in (first_of(norm, 'weight'), first_of(norm, 'bias')) if t is not None]
    return bool(weights) and not any(t.requires_grad for t in weights)


def channels(norm: nn.Module) -> int:
    """The number of channels of a norm of maps."""
    counts = (getattr(norm, name, None) for name in ('num_features', 'num_channels'))
    return next(filter(None, counts), None) or norm.weight.numel()


def drop_and_activation(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The dropout and the activation that are part of a norm, identities if there are none.

    The formula of EvoNorm (Liu et al. 2020, arXiv 2004.02967) contains its activation: SiLU, as
    far as it can be told apart.
    """
    drop, act = getattr(norm, 'drop', nn.Identity()), getattr(norm, 'act', nn.Identity())
    if (threshold := first_of(norm, 'threshold', 'tau')) is not None:
        act = Threshold(threshold)
    elif hasattr(norm, 'gate') or _is_called(type(norm), 'EvoNorm2d(B.|S0)'):
        act = nn.SiLU()
    elif isinstance(norm, Norm) and norm.relu:
        act = nn.ReLU()
    return drop, act


def first_of(module: nn.Module, *names: str) -> Tensor | None:
    """The first attribute of these names that is not None."""
    return next((t for n in names if (t := getattr(module, n, None)) is not None), None)


class Threshold(nn.Module):
    """max(x, tau): the thresholded linear unit of filter response norm (arXiv 1911.09737)."""

    def __init__(self, tau: nn.Parameter) -> None:
        super().__init__()
        self.tau = tau  # [C]

    def forward(self, x: Tensor) -> Tensor:
        """Threshold x [N, C, *]."""
        return torch.maximum(x, along_channels(self.tau.to(x.dtype), x))


def _is_called(kind: type, pattern: str) -> bool:
    return any(re.fullmatch(pattern, cls.__name__) for cls in kind.__mro__)
