"""Norms against torch's own layers, closed forms and finite differences."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sbzoo import UserError, build_norm, convert_norm, norm_cfg
from sbzoo.norm import NORMS, Norm
from sbzoo.norm.moments import Moments
from sbzoo.norm.normalize import normalize
from sbzoo.norm.pools import Batch, Group, Mix, Pool
from sbzoo.norm.spec import num_groups, parse, say_once, split_spec

SPECS = ['bn', 'in', 'ln', 'gn4', 'hybrid', 'hybrid(in,gn2)', 'hybrid(gn4,bn)']
C = 8


def engine(layer: Norm, x: torch.Tensor) -> torch.Tensor:
    """The table path, also where the layer prefers a kernel of torch."""
    if isinstance(layer.pool, Batch) and not layer.training:
        return layer(x)
    return normalize(x, layer.statistics, layer.epsilon, layer.weight, layer.bias)


def make(spec: str, channels: int = C) -> Norm:
    """A norm whose parameters and running statistics are no neutral elements."""
    layer = Norm(channels, spec)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=0.5)
    if layer.running_mean is not None:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return layer


def reference(layer: Norm, x: torch.Tensor) -> torch.Tensor:
    """The same norm by its definition, over all pixels and without a table."""
    mean, var = _statistics(layer.pool, layer, x)
    y = (x - mean) / (var + layer.epsilon).sqrt()
    return y * layer.weight[:, None, None] + layer.bias[:, None, None]


def _statistics(pool, layer, x):
    n, c, _h, _w = x.shape
    if isinstance(pool, Mix):
        alpha = 1 / (1 + (-layer.alpha_logit).exp())
        (m1, v1), (m2, v2) = (_statistics(p, layer, x) for p in (pool.first, pool.second))
        return alpha * m1 + (1 - alpha) * m2, alpha * v1 + (1 - alpha) * v2
    if isinstance(pool, Batch):
        if not layer.training:
            return layer.running_mean[:, None, None], layer.running_var[:, None, None]
        pixels, shape = x.transpose(0, 1).reshape(c, -1), (1, c, 1, 1)
    else:
        pixels, shape = x.reshape(n * pool.groups, -1), (n, pool.groups, 1, 1)
    mean, var = pixels.mean(1).view(shape), pixels.var(1, correction=0).view(shape)
    repeats = c // shape[1]
    return mean.repeat_interleave(repeats, 1), var.repeat_interleave(repeats, 1)


def torch_layer(spec: str, channels: int) -> nn.Module:
    groups = {'in': channels, 'ln': 1, 'gn4': 4}
    return nn.BatchNorm2d(channels) if spec == 'bn' else nn.GroupNorm(groups[spec], channels)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('spec', SPECS)
def test_forward_and_gradient_equal_the_definition(spec, training):
    layer = make(spec).double().train(training)
    x = torch.randn(3, C, 5, 4, dtype=torch.double, requires_grad=True)
    inputs = (x, *layer.parameters())
    grad = torch.randn(3, C, 5, 4, dtype=torch.double)
    ours, theirs = engine(layer, x), reference(layer, x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(layer(x), theirs)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(theirs, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('spec', SPECS)
def test_gradcheck(spec):
    layer = make(spec).double()
    x = torch.randn(2, C, 3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: engine(layer, x), (x, *layer.parameters()), fast_mode=False
    )


@pytest.mark.parametrize('spec', SPECS)
def test_gradient_of_a_gradient_of_the_weight(spec):
    """The first backward does not come to x, the second does."""
    layer = make(spec).double()
    x = torch.randn(3, C, 5, 4, dtype=torch.double, requires_grad=True)
    slopes = []
    for function in (engine, reference):
        y = function(layer, x).tanh()
        (first,) = torch.autograd.grad(y.sum(), layer.weight, create_graph=True)
        slopes.append(torch.autograd.grad(first.square().sum() + y.sum(), (x, layer.weight)))
    torch.testing.assert_close(*slopes)


class Constant(Pool):
    """Statistics that are no function of the images."""

    def __call__(self, table, layer):
        return Moments(torch.zeros(1, C), torch.ones(1, C), table.count)


def test_a_pool_need_not_look_at_its_table():
    layer, x = make('ln'), torch.randn(2, C, 3, 2, requires_grad=True)
    layer.pool, layer.epsilon = Constant(), 0.0
    y = layer(x)
    torch.testing.assert_close(y, x * layer.weight[:, None, None] + layer.bias[:, None, None])
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, layer.weight[:, None, None].expand_as(x))


@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('offset', [0.0, 1e4])
@pytest.mark.parametrize('spec', ['bn', 'in', 'ln', 'gn4'])
def test_float32_is_as_exact_as_torch(spec, offset, batch):
    """Compared with float64, ours is at most twice as far off, or as the rounding of x itself."""
    x = torch.randn(batch, 16, 9, 7) + offset
    grad = torch.randn_like(x)

    def both_passes(layer, x):
        x = x.clone().requires_grad_()
        y = engine(layer, x) if isinstance(layer, Norm) else layer(x)
        return y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), grad.to(x.dtype))

    exact = both_passes(torch_layer(spec, 16).double(), x.double())
    theirs = both_passes(torch_layer(spec, 16), x)
    ours = both_passes(Norm(16, spec), x)
    for ideal, their, our in zip(exact, theirs, ours, strict=True):
        terms = x.numel() // ideal.numel()  # that a value is the sum of
        size = max(offset, 10 * ideal.abs().max().item()) * terms**0.5
        rounding = size * torch.finfo(torch.float32).eps
        assert (our - ideal).abs().max() <= 2 * max((their - ideal).abs().max(), rounding)


@pytest.mark.parametrize('spec', SPECS)
def test_channels_last_keeps_format_and_values(spec):
    layer, x = make(spec), torch.randn(2, C, 6, 5)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, make_equal(layer)(x))


def make_equal(layer: Norm) -> Norm:
    twin = Norm(layer.num_features, layer.spec)
    twin.load_state_dict(layer.state_dict())
    return twin


@pytest.mark.parametrize('spec', SPECS)
def test_bf16_autocast(spec):
    layer, conv = make(spec), nn.Conv2d(3, C, 1)
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = conv(x)
        y = layer(features)
    assert features.dtype == y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    torch.testing.assert_close(y.float(), reference(layer, features.float()), atol=0.05, rtol=0.02)


def test_batch_norm_at_batch_1_on_a_1x1_map_learns_nothing():
    """One pixel has no variance: the output is the bias, the gradient zero."""
    layer = make('bn')
    x = torch.randn(1, C, 1, 1, requires_grad=True)
    y = layer(x)
    scale = layer.epsilon**-0.5  # by which, as in torch's kernels, the rounding of x is multiplied
    torch.testing.assert_close(y, layer.bias.view(1, C, 1, 1), atol=scale * 1e-6, rtol=0)
    y.backward(torch.randn_like(y))
    assert x.grad.abs().max() <= scale * 1e-6
    assert layer.weight.grad.abs().max() <= scale * 1e-6
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        nn.BatchNorm2d(C)(x)  # torch's own refuses it


@pytest.mark.parametrize(
    ('spec', 'channels'),
    [*((s, C) for s in ('ln', 'gn4', 'hybrid', 'hybrid(in,bn)', 'rms', 'sn')), ('evos0', 64)],
)
def test_sample_statistics_still_learn_on_a_1x1_map(spec, channels):
    layer = make(spec, channels)
    x = torch.randn(1, channels, 1, 1, requires_grad=True)
    layer(x).backward(torch.randn(1, channels, 1, 1))
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize('momentum', [0.3, None])  # None: the average over all batches
def test_running_statistics_follow_torch(momentum):
    ours, theirs = Norm(C, 'bn', momentum=momentum), nn.BatchNorm2d(C, momentum=momentum)
    for _ in range(3):
        x = torch.randn(4, C, 3, 3) * 2 + 1
        torch.testing.assert_close(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_mix_at_its_ends_is_its_parts():
    x = torch.randn(3, C, 4, 4)
    layer = Norm(C, 'hybrid(bn,gn2)')
    for logit, part in ((100.0, nn.BatchNorm2d(C)), (-100.0, nn.GroupNorm(2, C))):
        nn.init.constant_(layer.alpha_logit, logit)
        torch.testing.assert_close(layer(x), part(x))


def test_hybrid_at_batch_1_mixes_instance_and_layer_norm():
    x = torch.randn(1, C, 4, 4)
    torch.testing.assert_close(Norm(C, 'hybrid')(x), Norm(C, 'hybrid(in,ln)')(x))


def test_groups_are_the_nearest_divisor_with_two_channels_in_a_group():
    assert [num_groups(c, 32) for c in (256, 96, 64, 48, 32)] == [32, 32, 32, 24, 16]
    assert [num_groups(c, 32) for c in (24, 16, 19, 7, 2, 1)] == [12, 8, 1, 1, 1, 1]
    assert num_groups(40, 9) == 10  # the larger of 8 and 10
    for channels, groups in ((19, 1), (32, 16)):
        layer = Norm(channels, 'gn')
        x = torch.randn(2, channels, 1, 1)
        torch.testing.assert_close(layer(x), F.group_norm(x, groups))


def test_as_many_groups_as_channels_are_those_asked_for():
    assert [parse(f'gn{c}', c).groups for c in (32, 19, 1)] == [32, 19, 1]
    assert parse('evos0', 32).groups == 32  # published networks have so many


def test_other_groups_than_those_asked_for_are_said_once(caplog):
    say_once.cache_clear()
    for spec in ('gn', 'gn8', 'in', 'evos0'):
        build_norm(spec, 24)
    norm_cfg('gn7')
    assert not caplog.messages
    model = nn.Sequential(nn.BatchNorm2d(64), nn.BatchNorm2d(64), nn.BatchNorm2d(10))
    convert_norm(model, 'gn7')
    build_norm('hybrid(bn,gn9)', 64)
    build_norm('bgn5', 64)
    assert caplog.messages == [
        f'{asked} groups do not divide {channels} channels: {taken} are taken'
        for asked, channels, taken in ((7, 64, 8), (7, 10, 5), (9, 64, 8), (5, 64, 4))
    ]
    assert model[0].pool.groups == 8
    x = torch.randn(2, 48, 3, 3)
    torch.testing.assert_close(Norm(48, 'gn')(x), F.group_norm(x, 24))


@pytest.mark.parametrize(
    'spec', ['xn', 'gn0', 'gn00', 'gn-1', 'bn2', 'hybrid(bn)', 'hybrid(bn,xn)', '']
)
def test_unknown_spec_lists_the_known(spec):
    with pytest.raises(UserError) as error:
        parse(spec, 32)
    assert all(entry.spec in str(error.value) for entry in NORMS)


def test_alpha_is_a_vector_for_fsdp_and_loads_from_a_scalar():
    layer = Norm(C, 'hybrid')
    assert layer.alpha_logit.shape == (1,)
    assert layer.alpha.shape == ()
    saved = {**layer.state_dict(), 'alpha_logit': torch.tensor(0.7)}  # up to version 0.5
    for model, prefix in ((layer, ''), (nn.Sequential(Norm(C, 'hybrid')), '0.')):
        model.load_state_dict({prefix + key: value for key, value in saved.items()}, strict=True)
        torch.testing.assert_close(model.get_parameter(f'{prefix}alpha_logit').item(), 0.7)
    assert Norm(C, 'hybrid(bn,ln,channel)').alpha.shape == (C,)


def test_other_libraries_exempt_norms_from_weight_decay():
    """By the class in ultralytics, by the number of dimensions in timm."""
    known = tuple(kind for name, kind in vars(nn).items() if 'Norm' in name)
    for entry in NORMS:
        layer = Norm(C, re.sub(r'N$', '2', entry.spec.partition('[')[0]))
        assert isinstance(layer, known)
        assert all(p.ndim == 1 for p in layer.parameters())


def test_specs_build():
    assert isinstance(build_norm('bn', C), nn.BatchNorm2d)
    assert isinstance(build_norm('gn', C, eps=1e-3), Norm)
    assert norm_cfg('bn') == dict(type='BN')
    assert norm_cfg('gn8') == dict(type='Norm', spec='gn8')
    assert parse('HYBRID( gn2 , in )', C) == Mix(Group(2), Group(C))


def test_capitals_and_blanks_do_not_matter():
    assert split_spec(' Hybrid( BN, LN )+WS') == ('hybrid(bn,ln)', True)
    assert split_spec('IBN-a') == ('ibn-a', False)
    assert isinstance(build_norm('BN ', C), nn.BatchNorm2d)
    assert norm_cfg('Bn') == dict(type='BN')
    assert norm_cfg('GN 8') == dict(type='Norm', spec='gn8')
    assert Norm(C, 'Hybrid(bn, LN)').spec == 'hybrid(bn,ln)'
    for build in (norm_cfg, lambda spec: Norm(C, spec)):  # convolutions are not theirs
        with pytest.raises(UserError, match=r"unknown norm 'gn\+ws'"):
            build('gn+ws')


def test_output_takes_an_inplace_relu_and_a_second_backward():
    layer = make('hybrid')
    x = torch.randn(2, C, 4, 4, requires_grad=True)
    y = F.relu(layer(x), inplace=True).sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], first)


def test_frozen_parameters_get_no_gradient():
    layer = make('hybrid').requires_grad_(False)
    x = torch.randn(2, C, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in layer.parameters())


SINGLE = ['in', 'gn8', 'ibn', 'frn', 'hybrid(in,gn8)', 'hybrid(in,ibn)']


@pytest.mark.parametrize(
    ('spec', 'channels'), [*((s, C) for s in SINGLE), ('ln', 1), ('rms', 1), ('evos0', 1)]
)
@pytest.mark.parametrize('training', [True, False])
def test_statistics_of_single_values_are_refused(spec, channels, training):
    layer = Norm(channels, spec).train(training)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, channels, 1, 1).contiguous(memory_format=memory_format)
        with pytest.raises(UserError, match=rf'{re.escape(spec)}.* of \[3, {channels}, 1, 1\].*ln'):
            layer(x)
    layer(torch.randn(3, channels, 1, 2))  # two values are enough
    layer(torch.randn(0, channels, 1, 1))  # and none
