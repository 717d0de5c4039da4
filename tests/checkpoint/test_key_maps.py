"""Published state dicts, under the names and in the shapes that they have there.

Each network is computed from the published state dict by the formulas of its source, on BGR, and
by the network here with the mapped one, on RGB.
"""

import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from sbzoo import UserError
from sbzoo.checkpoint.cards import Card, card
from sbzoo.checkpoint.io import check_fit
from sbzoo.checkpoint.key_maps import own_keys
from sbzoo.detection.resnet import NormResNet
from sbzoo.engine.model import config_of

Weights = dict[str, Tensor]
H2Z = 'cyclegan_lsgan-resnet-in_1xb1-270kiters_horse2zebra'
FACADES = 'pix2pix_vanilla-unet-bn_1xb1-80kiters_facades'
CIFAR10 = 'sngan-proj_woReLUinplace_lr2e-4-ndisc5-1xb64_cifar10-32x32'
DCGANS = (
    'dcgan_1xb128-300kiters_celeba-cropped-64',
    'dcgan_1xb128-5epoches_lsun-bedroom-64x64',
    'lsgan_dcgan-archi_lr1e-3-1xb128-12Mimgs_celeba-cropped-64x64',
    'lsgan_dcgan-archi_lr1e-4-1xb128-12Mimgs_lsun-bedroom-64x64',
    'lsgan_dcgan-archi_lr1e-4-1xb64-10Mimgs_celeba-cropped-128x128',
)


def put_conv(weights: Weights, name: str, shape: tuple, bias: int = 0) -> None:
    fan_in = shape[1] * shape[2] * shape[3]
    weights[f'{name}.weight'] = torch.randn(shape) * fan_in**-0.5
    if bias:
        weights[f'{name}.bias'] = torch.randn(bias) / 4


def put_norm(weights: Weights, name: str, channels: int, affine: bool = True) -> None:
    if affine:
        weights[f'{name}.weight'] = torch.rand(channels) + 0.5
        weights[f'{name}.bias'] = torch.randn(channels) / 4
    weights[f'{name}.running_mean'] = torch.randn(channels) / 4
    weights[f'{name}.running_var'] = torch.rand(channels) / 50 + 1e-4  # so that eps matters
    weights[f'{name}.num_batches_tracked'] = torch.tensor(7)


def batch_norm(
    weights: Weights, name: str, x: Tensor, eps: float = 1e-5, own: bool = False
) -> Tensor:
    affine = (weights.get(f'{name}.weight'), weights.get(f'{name}.bias'))
    mean, var = weights[f'{name}.running_mean'], weights[f'{name}.running_var']
    if own:  # the statistics of the batch
        return F.batch_norm(x, None, None, *affine, training=True, eps=eps)
    return F.batch_norm(x, mean, var, *affine, eps=eps)


def mapped(published: Weights, name: str, generator: torch.nn.Module) -> torch.nn.Module:
    """The network here with the weights there, each of them."""
    weights = own_keys(card(name), published)
    weights = {key.removeprefix('generator.'): value for key, value in weights.items()}
    check_fit(name, weights, generator)
    generator.load_state_dict(weights)
    return generator.eval()


def generator_of(name: str) -> torch.nn.Module:
    return MODELS.build(config_of(card(name)).model.generator)


def cyclegan_weights() -> Weights:
    weights = {}
    put_conv(weights, 'model.0.conv', (64, 3, 7, 7), 64)
    put_conv(weights, 'model.1.conv', (128, 64, 3, 3), 128)
    put_conv(weights, 'model.2.conv', (256, 128, 3, 3), 256)
    for i in range(9):
        for half in range(2):
            put_conv(weights, f'model.{3 + i}.block.{half}.conv', (256, 256, 3, 3), 256)
    put_conv(weights, 'model.12.conv', (256, 128, 3, 3), 128)
    put_conv(weights, 'model.13.conv', (128, 64, 3, 3), 64)
    put_conv(weights, 'model.14.conv', (3, 64, 7, 7), 3)
    return weights


def cyclegan(weights: Weights, x: Tensor) -> Tensor:
    def wb(name: str) -> tuple[Tensor, Tensor]:
        return weights[f'{name}.conv.weight'], weights[f'{name}.conv.bias']

    def reflect(x: Tensor, n: int) -> Tensor:
        return F.pad(x, (n,) * 4, 'reflect')

    x = F.relu(F.instance_norm(F.conv2d(reflect(x, 3), *wb('model.0'))))
    for i in (1, 2):
        x = F.relu(F.instance_norm(F.conv2d(x, *wb(f'model.{i}'), stride=2, padding=1)))
    for i in range(3, 12):
        y = F.relu(F.instance_norm(F.conv2d(reflect(x, 1), *wb(f'model.{i}.block.0'))))
        x = x + F.instance_norm(F.conv2d(reflect(y, 1), *wb(f'model.{i}.block.1')))
    for i in (12, 13):
        x = F.conv_transpose2d(x, *wb(f'model.{i}'), stride=2, padding=1, output_padding=1)
        x = F.relu(F.instance_norm(x))
    return torch.tanh(F.conv2d(reflect(x, 3), *wb('model.14')))


@torch.no_grad()
def test_cyclegan():
    there = cyclegan_weights()
    both = {f'generators.zebra.{key}': value for key, value in there.items()}
    both |= {f'generators.horse.{key}': value + 1 for key, value in there.items()}
    both |= {'discriminators.zebra.model.0.conv.weight': torch.zeros(64, 3, 4, 4)}
    here = mapped(both, H2Z, generator_of(H2Z))
    rgb = torch.rand(1, 3, 32, 40) * 2 - 1
    torch.testing.assert_close(
        here(rgb).flip(1), cyclegan(there, rgb.flip(1)), atol=1e-4, rtol=1e-4
    )


def pix2pix_weights() -> Weights:
    weights, widths = {}, [64, 128, 256, 512, 512, 512, 512, 512]
    put_conv(weights, 'model.model.0.conv', (64, 3, 4, 4))
    put_conv(weights, 'model.model.2.conv', (128, 3, 4, 4), 3)
    for level in range(1, 8):
        name = 'model.' + 'model.1.' * level + 'model.'
        outer, inner, last = widths[level - 1], widths[level], level == 7
        put_conv(weights, f'{name}0.conv', (inner, outer, 4, 4))
        if not last:
            put_norm(weights, f'{name}0.bn', inner)
        up = f'{name}{1 if last else 2}'
        put_conv(weights, f'{up}.conv', (inner if last else 2 * inner, outer, 4, 4))
        put_norm(weights, f'{up}.bn', outer)
    return weights


def pix2pix(weights: Weights, x: Tensor) -> Tensor:
    def level(depth: int, x: Tensor) -> Tensor:
        name, last = 'model.' + 'model.1.' * depth + 'model.', depth == 7
        x = F.leaky_relu(x, 0.2)
        y = F.conv2d(x, weights[f'{name}0.conv.weight'], stride=2, padding=1)
        if not last:
            y = level(depth + 1, batch_norm(weights, f'{name}0.bn', y, own=True))
        up = f'{name}{1 if last else 2}'
        y = F.conv_transpose2d(F.relu(y), weights[f'{up}.conv.weight'], stride=2, padding=1)
        return torch.cat([x, batch_norm(weights, f'{up}.bn', y, own=True)], dim=1)

    x = level(1, F.conv2d(x, weights['model.model.0.conv.weight'], stride=2, padding=1))
    last = weights['model.model.2.conv.weight'], weights['model.model.2.conv.bias']
    return torch.tanh(F.conv_transpose2d(F.relu(x), *last, stride=2, padding=1))


@torch.no_grad()
def test_pix2pix():
    there = pix2pix_weights()
    published = {f'generators.photo.{key}': value for key, value in there.items()}
    here = mapped(published, FACADES, generator_of(FACADES))
    rgb = torch.rand(1, 3, 256, 256) * 2 - 1
    torch.testing.assert_close(here(rgb).flip(1), pix2pix(there, rgb.flip(1)), atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize('name', DCGANS)
def test_dcgan(name):
    inner = 4 if '128x128' in name else 3
    weights = {}
    put_conv(weights, 'noise2feat.conv', (100, 1024, 4, 4))
    put_norm(weights, 'noise2feat.bn', 1024)
    for i in range(inner):
        put_conv(weights, f'upsampling.{i}.conv', (1024 >> i, 512 >> i, 4, 4))
        put_norm(weights, f'upsampling.{i}.bn', 512 >> i)
    put_conv(weights, 'output_layer.conv', (1024 >> inner, 3, 4, 4), 3)
    published = {f'generator.{key}': value for key, value in weights.items()}
    here = mapped(published, name, generator_of(name))
    noise = torch.randn(2, 100)
    x = F.conv_transpose2d(noise[:, :, None, None], weights['noise2feat.conv.weight'])
    x = F.relu(batch_norm(weights, 'noise2feat.bn', x))
    for i in range(inner):
        x = F.conv_transpose2d(x, weights[f'upsampling.{i}.conv.weight'], stride=2, padding=1)
        x = F.relu(batch_norm(weights, f'upsampling.{i}.bn', x))
    last = weights['output_layer.conv.weight'], weights['output_layer.conv.bias']
    x = torch.tanh(F.conv_transpose2d(x, *last, stride=2, padding=1))
    torch.testing.assert_close(here(noise).flip(1), x, atol=1e-4, rtol=1e-4)


def sngan_weights() -> Weights:
    weights = dict()
    weights['noise2feat.weight'] = torch.randn(16 * 256, 128) / 12
    weights['noise2feat.bias'] = torch.randn(16 * 256) / 4
    for i in range(3):
        block = f'conv_blocks.{i}'
        for half in (1, 2):
            put_conv(weights, f'{block}.conv_{half}.conv', (256, 256, 3, 3), 256)
            put_norm(weights, f'{block}.norm_{half}.norm', 256, affine=False)
            for kind in ('weight', 'bias'):
                table = torch.randn(10, 256) / 4
                weights[f'{block}.norm_{half}.{kind}_embedding.weight'] = table
        put_conv(weights, f'{block}.shortcut.conv', (256, 256, 1, 1), 256)
    put_norm(weights, 'to_rgb.bn', 256)
    put_conv(weights, 'to_rgb.conv', (3, 256, 3, 3), 3)
    return {key: value if 'num' in key else value.double() for key, value in weights.items()}


def sngan(weights: Weights, noise: Tensor, labels: Tensor) -> Tensor:
    def conv(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(
            x, weights[f'{name}.conv.weight'], weights[f'{name}.conv.bias'], padding=padding
        )

    def of_class(name: str, x: Tensor) -> Tensor:
        scale, shift = (
            weights[f'{name}.{kind}_embedding.weight'][labels][:, :, None, None]
            for kind in ('weight', 'bias')
        )
        return F.relu(batch_norm(weights, f'{name}.norm', x, eps=1e-4) * (1 + scale) + shift)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode='nearest')

    x = F.linear(noise, weights['noise2feat.weight'], weights['noise2feat.bias'])
    x = x.reshape(len(x), -1, 4, 4)
    for i in range(3):
        block = f'conv_blocks.{i}'
        y = conv(f'{block}.conv_1', up(of_class(f'{block}.norm_1', x)))
        y = conv(f'{block}.conv_2', of_class(f'{block}.norm_2', y))
        x = y + conv(f'{block}.shortcut', up(x), padding=0)
    x = F.relu(batch_norm(weights, 'to_rgb.bn', x, eps=1e-4))
    return torch.tanh(conv('to_rgb', x))


@torch.no_grad()
def test_sngan():
    there = sngan_weights()
    there['to_rgb.conv.weight'] /= 100  # far from where tanh is flat
    published = {f'generator.{key}': value for key, value in there.items()}
    here = mapped(published, CIFAR10, generator_of(CIFAR10).double())
    noise, labels = torch.randn(3, 128).double(), torch.tensor([0, 3, 9])
    expected = sngan(there, noise, labels)
    torch.testing.assert_close(here(noise, labels).flip(1), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize('spec', ['gn', 'bn'])
def test_backbones_of_timm_and_torchvision(spec):
    name = {'gn': 'resnet50_gn', 'bn': 'resnet50'}[spec]
    published = timm.create_model(name).state_dict()
    found = Card('x', 'image-classification', '', '', keymap='resnet')
    weights = own_keys(found, published)
    backbone = NormResNet(depth=50, norm=spec)
    check_fit(name, weights, backbone)
    assert set(published) - set(weights) == {'fc.weight', 'fc.bias'}


def test_keys_that_no_rule_knows():
    published = {f'generator.{key}': value for key, value in sngan_weights().items()}
    published['generator.attention.weight'] = torch.zeros(1)
    with pytest.raises(UserError, match=r'attention.weight is in its file, and not in the map'):
        own_keys(card(CIFAR10), published)
    with pytest.raises(UserError, match=r'no keys that begin with generators\.zebra\.'):
        own_keys(card(H2Z), published)
