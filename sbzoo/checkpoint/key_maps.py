"""Published state dicts under the names of the networks here.

A map is a table of rules, a regular expression for a key each. A key that no rule knows is an
error, and so is a tensor that the network does not get. MMDetection's checkpoints since v2.0 need
none: their names are those of MMDetection 3, and a `Norm` takes them (`sbzoo.norm.key_names`).

MMagic's networks (1.2.0) work on BGR images, the ones here on RGB, so that the first and the last
convolution exchange channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator

import torch
from torch import Tensor

from sbzoo.checkpoint.cards import Card
from sbzoo.errors import UserError

Weights = dict[str, Tensor]
Rule = tuple[str, Callable[[re.Match, Tensor], Weights]]

GENERATOR = 'generator.'  # what keys of a GAN's weights begin with here
EPS, MMAGIC_EPS = 1e-5, 1e-4  # of batch norm in SNGAN
BLOCKS = 9  # of CycleGAN's generator
DEPTH = 8  # of pix2pix's


def own_keys(card: Card, weights: Weights) -> Weights:
    """The weights of a card under the keys of the network that its config builds.

    Raises:
        UserError: There are keys that the card's map does not know.
    """
    if not card.keymap:
        return weights
    prefix, rules = KEYMAPS[card.keymap]
    prefix = card.prefix or prefix
    ours = {}
    for key, value in below(prefix, weights).items():
        ours |= _apply(rules, key, value, card)
    if not ours:
        raise UserError(f'card {card.name}: its file has no keys that begin with {prefix}')
    return {(GENERATOR if prefix else '') + key: value for key, value in ours.items()}


def below(prefix: str, weights: Weights) -> Weights:
    """Those weights whose keys begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def without_wrappers(weights: Weights, own: Container[str]) -> Weights:
    """Without the `module.` of wrappers that distributed training puts around each network."""
    return {
        key if key in own else key.replace('.module.', '.', 1): value
        for key, value in weights.items()
    }


def _apply(rules: list[Rule], key: str, value: Tensor, card: Card) -> Weights:
    for pattern, rule in rules:
        if match := re.fullmatch(pattern, key):
            return rule(match, value)
    raise UserError(f'card {card.name}: {key} is in its file, and not in the map {card.keymap}')


def _to(name: str, change: Callable[[Tensor], Tensor] = lambda value: value) -> Callable:
    """Another name, with groups of the pattern as in `re.Match.expand`."""
    return lambda match, value: {match.expand(name): change(value)}


def _drop(match: re.Match, value: Tensor) -> Weights:
    return {}


def _rgb_out(value: Tensor) -> Tensor:
    """Of the bias [3] or the weight [3, C, h, w] of a convolution to images."""
    return value.flip(0)


def _rgb_in(value: Tensor) -> Tensor:
    """Of the weight [C, 3, h, w] of a convolution; of a transposed one it is the output."""
    return value.flip(1)


def _plain_affine(name: str) -> Callable:
    """A bias [C] before an instance norm, which takes it away: the norm gets 1 and 0 instead."""
    return lambda match, value: {
        f'{name}.weight': torch.ones_like(value),
        f'{name}.bias': torch.zeros_like(value),
    }


def _without_bias(name: str, change: Callable[[Tensor], Tensor] = lambda value: value) -> Callable:
    """A convolution that has a bias here, and has none there."""
    return lambda match, value: {
        f'{name}.weight': change(value),
        f'{name}.bias': torch.zeros(len(value)),
    }


def _cyclegan() -> Iterator[Rule]:
    # where each convolution of the sequence is there and here, the norm behind it being next
    places = {0: 1, 1: 4, 2: 7, 3 + BLOCKS: 10 + BLOCKS, 4 + BLOCKS: 13 + BLOCKS}
    convs = {
        f'model.{there}.conv': (f'model.{here}', f'model.{here + 1}')
        for there, here in places.items()
    }
    for i in range(BLOCKS):
        for half, here in ((0, 1), (1, 5)):
            block = f'model.{10 + i}.conv_block'
            convs[f'model.{3 + i}.block.{half}.conv'] = (f'{block}.{here}', f'{block}.{here + 1}')
    for there, (conv, norm) in convs.items():
        change = _rgb_in if conv == 'model.1' else lambda value: value
        yield re.escape(f'{there}.weight'), _to(f'{conv}.weight', change)
        yield re.escape(f'{there}.bias'), _plain_affine(norm)
    last = rf'model\.{5 + BLOCKS}\.conv\.(weight|bias)'
    yield last, _to(rf'model.{17 + BLOCKS}.\1', _rgb_out)


def _pix2pix() -> Iterator[Rule]:
    yield r'model\.model\.0\.conv\.weight', _without_bias('down', _rgb_in)
    yield r'model\.model\.2\.conv\.weight', _to('up.weight', _rgb_in)
    yield r'model\.model\.2\.conv\.bias', _to('up.bias', _rgb_out)
    # At batch 1 it is trained and tested with the statistics of the one image.
    yield r'.*\.bn\.(running_mean|running_var|num_batches_tracked)', _drop
    for level in range(1, DEPTH):
        there, here = r'model\.' + r'model\.1\.' * level, 'inner.' * level
        innermost = level == DEPTH - 1
        down = rf'{there}model\.0\.conv\.weight'
        yield down, (_without_bias if innermost else _to_weight)(f'{here}down')
        yield rf'{there}model\.0\.bn\.(weight|bias)', _to(rf'{here}down_norm.\1')
        up = rf'{there}model\.{1 if innermost else 2}'
        yield rf'{up}\.conv\.weight', _to(f'{here}up.weight')
        yield rf'{up}\.bn\.(weight|bias)', _to(rf'{here}up_norm.\1')


def _to_weight(name: str) -> Callable:
    return _to(f'{name}.weight')


def _dcgan(inner: int) -> Iterator[Rule]:
    """Of a generator that upsamples `inner` times before its last layer."""
    yield r'noise2feat\.conv\.weight', _to('layers.0.weight')
    yield r'noise2feat\.bn\.(\w+)', _to(r'layers.1.\1')
    for i in range(inner):
        yield rf'upsampling\.{i}\.conv\.weight', _to(f'layers.{3 * i + 3}.weight')
        yield rf'upsampling\.{i}\.bn\.(\w+)', _to(rf'layers.{3 * i + 4}.\1')
    yield r'output_layer\.conv\.weight', _to(f'layers.{3 * inner + 3}.weight', _rgb_in)
    yield r'output_layer\.conv\.bias', _to(f'layers.{3 * inner + 3}.bias', _rgb_out)


def _other_eps(variance: Tensor) -> Tensor:
    """So that the variance and the eps here add up to what they do there."""
    return variance + (MMAGIC_EPS - EPS)


_BLOCK, _KEPT = r'conv_blocks\.(\d)', '(running_mean|num_batches_tracked)'
_SNGAN = [
    (r'noise2feat\.(\w+)', _to(r'linear.\1')),
    (rf'{_BLOCK}\.conv_(\d)\.conv\.(\w+)', _to(r'blocks.\1.conv\2.\3')),
    (rf'{_BLOCK}\.shortcut\.conv\.(\w+)', _to(r'blocks.\1.shortcut.\2')),
    (rf'{_BLOCK}\.norm_(\d)\.norm\.{_KEPT}', _to(r'blocks.\1.norm\2.norm.\3')),
    (rf'{_BLOCK}\.norm_(\d)\.norm\.running_var',
     _to(r'blocks.\1.norm\2.norm.running_var', _other_eps)),
    (rf'{_BLOCK}\.norm_(\d)\.weight_embedding\.weight',
     _to(r'blocks.\1.norm\2.scale.weight', lambda value: value + 1)),  # it is added to 1 there
    (rf'{_BLOCK}\.norm_(\d)\.bias_embedding\.weight', _to(r'blocks.\1.norm\2.shift.weight')),
    (r'to_rgb\.bn\.(weight|bias|running_mean|num_batches_tracked)', _to(r'norm.\1')),
    (r'to_rgb\.bn\.running_var', _to('norm.running_var', _other_eps)),
    (r'to_rgb\.conv\.(\w+)', _to(r'to_rgb.\1', _rgb_out)),
]  # fmt: skip

_RESNET = [(r'fc\.(weight|bias)', _drop), (r'((conv1|bn1|layer\d)\..+)', _to(r'\1'))]

# What the keys begin with, and the rules for the rest of them.
KEYMAPS: dict[str, tuple[str, list[Rule]]] = {
    'mmagic_cyclegan': ('generators.', list(_cyclegan())),
    'mmagic_pix2pix': ('generators.', list(_pix2pix())),
    'mmagic_dcgan64': (GENERATOR, list(_dcgan(3))),
    'mmagic_dcgan128': (GENERATOR, list(_dcgan(4))),
    'mmagic_sngan': (GENERATOR, _SNGAN),
    'resnet': ('', _RESNET),  # timm's and torchvision's; the classifier is no part of a backbone
}
