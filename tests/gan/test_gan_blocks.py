"""Building blocks of the GANs against torch's own functions and slow definitions."""

import pytest
import torch
import torch.nn.functional as F

from sbzoo import UserError
from sbzoo.gan.networks.blocks import ConditionalNorm, Lowpass, select_class
from sbzoo.gan.networks.stylegan2 import EqualConv, EqualLinear, ModulatedConv, minibatch_stddev
from sbzoo.norm import NORMS

N, C, CLASSES = 3, 4, 5


def conditional(spec: str) -> ConditionalNorm:
    norm = ConditionalNorm(C, spec, CLASSES)
    for table in (norm.scale, norm.shift):
        torch.nn.init.normal_(table.weight)
    return norm


@pytest.mark.parametrize(('spec', 'groups'), [('in', C), ('gn2', 2), ('ln', 1)])
def test_conditional_norm_has_the_scale_and_shift_of_each_class(spec, groups):
    norm, x, labels = conditional(spec), torch.randn(N, C, 5, 4), torch.tensor([3, 0, 3])
    rows = [
        F.group_norm(x[i : i + 1], groups, norm.scale.weight[k], norm.shift.weight[k])
        for i, k in enumerate(labels)
    ]
    torch.testing.assert_close(norm(x, labels), torch.cat(rows))


def test_conditional_batch_norm():
    norm, x, labels = conditional('bn'), torch.randn(N, C, 5, 4), torch.tensor([3, 0, 3])
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    for i, k in enumerate(labels):
        expected[i] = expected[i] * norm.scale.weight[k, :, None, None]
        expected[i] += norm.shift.weight[k, :, None, None]
    torch.testing.assert_close(norm(x, labels), expected)


@pytest.mark.parametrize('entry', NORMS, ids=lambda entry: entry.spec)
def test_every_norm_can_be_conditional_but_those_with_an_activation(entry):
    spec = entry.spec.split('[')[0].replace('N', '2')
    if spec in ('frn', 'evos0'):
        with pytest.raises(UserError, match='needs affine=True'):
            ConditionalNorm(C, spec, CLASSES)
        return
    norm = conditional(spec)
    x, labels = torch.randn(N, C, 5, 4), torch.tensor([3, 0, 3])
    y = norm(x, labels)
    assert y.shape == x.shape
    y.square().sum().backward()
    for table in (norm.scale, norm.shift):
        learned = table.weight.grad.abs().sum(1) > 0
        assert learned.tolist() == [True, False, False, True, False]


def test_of_class_takes_the_logit_of_the_label():
    logits = torch.arange(6.0).view(2, 3)
    assert select_class(logits, torch.tensor([2, 0])).tolist() == [2, 3]
    assert select_class(logits[:, :1], None).tolist() == [0, 3]


def test_lowpass_resamples_as_bilinear_interpolation_does():
    lowpass, x = Lowpass(), torch.randn(2, 3, 8, 6)
    up, down = lowpass.up(x), lowpass.down(x)
    kwargs = dict(mode='bilinear', align_corners=False)
    expected = F.interpolate(x, scale_factor=2, **kwargs)
    assert up.shape == expected.shape
    torch.testing.assert_close(up[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    expected = F.interpolate(x, scale_factor=0.5, antialias=True, **kwargs)
    assert down.shape == expected.shape
    torch.testing.assert_close(down[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_lowpass_keeps_constants_and_stops_the_highest_frequency():
    wave = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert Lowpass()(torch.ones(1, 1, 16, 16), padding=2)[inner].unique().tolist() == [1]
    assert Lowpass()(wave, padding=2)[inner].abs().max() < 1e-6


@pytest.mark.parametrize('demodulate', [False, True])
@pytest.mark.parametrize('up', [False, True])
def test_modulated_convolution_has_weights_for_each_sample(up, demodulate):
    """The definition: equations 1 and 3 of the paper, sample by sample."""
    conv = ModulatedConv(C, 6, 3, 7, up, demodulate)
    x, w = torch.randn(N, C, 8, 8), torch.randn(N, 7)
    rows = []
    for one, style in zip(x.split(1), conv.style(w), strict=True):
        weight = conv.weight * style[:, None, None] / (C * 9) ** 0.5
        if demodulate:
            weight = torch.stack([o / (o.square().sum() + 1e-8).sqrt() for o in weight])
        if up:
            doubled = torch.zeros(1, C, 16, 16)
            doubled[..., ::2, ::2] = one
            full = F.conv2d(doubled, weight.flip(2, 3), padding=2)[..., :17, :17]
            rows.append(4 * Lowpass()(full, padding=1))
        else:
            rows.append(F.conv2d(one, weight, padding=1))
    torch.testing.assert_close(conv(x, w), torch.cat(rows), rtol=1e-4, atol=1e-5)


def test_demodulated_maps_have_unit_variance():
    conv = ModulatedConv(64, 64, 3, 8, demodulate=True)
    y = conv(torch.randn(4, 64, 16, 16), 5 * torch.randn(4, 8))
    torch.testing.assert_close(y.std((1, 2, 3)), torch.ones(4), atol=0.1, rtol=0)


def test_equalised_layers_start_at_unit_variance():
    x = torch.randn(64, 512)
    for layer in (EqualLinear(512, 512), EqualLinear(512, 512, lr_mult=0.01)):
        scale = layer.lr_mult * layer.weight.std()
        torch.testing.assert_close(scale, torch.tensor(1.0), atol=0.01, rtol=0)
        assert 0.95 < layer(x).std() < 1.05
    assert EqualLinear(2, 3, bias=1.0, lr_mult=0.5)(torch.zeros(1, 2)).tolist() == [[1, 1, 1]]
    assert 0.9 < EqualConv(64, 64, 3)(torch.randn(1, 64, 16, 16)).std() < 1.1


@pytest.mark.parametrize(('num', 'group'), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4)])
def test_deviation_of_groups(num, group):
    x = torch.randn(num, C, 2, 2)
    y = minibatch_stddev(x)
    assert y.shape == (num, 1, 2, 2)
    groups = num // group
    for i in range(num):
        members = [x[j] for j in range(num) if j % groups == i % groups]
        assert len(members) == group
        std = (torch.stack(members).var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[i], std.expand(1, 2, 2))
