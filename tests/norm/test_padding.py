"""Norms of padded batches, against the norm of each picture by itself and against pixels."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sbzoo.norm import Norm, layers, reestimate
from sbzoo.norm.padding import Pictures, within
from sbzoo.norm.recompute import lean

SIZES, CANVAS = [(24, 40), (32, 17), (9, 30)], (32, 40)
ON_MAPS = [(6, 10), (8, 5), (3, 8)]  # a quarter of them, rounded up
OF_SAMPLES = 'gn4', 'gn8', 'ln', 'in', 'rms', 'frn', 'evos0', 'hybrid(in,ln)'
OF_BATCHES = 'bn', 'syncbn', 'bgn4', 'ghost3', 'ghost2', 'hybrid', 'sn', 'ibn', 'brn', 'mabn', 'fbn'
FORMATS = torch.contiguous_format, torch.channels_last


def random_norm(spec: str, **kwargs) -> Norm:
    norm = Norm(8, spec, **kwargs).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return norm


def maps(memory_format: torch.memory_format = FORMATS[0]) -> Tensor:
    x = torch.randn(3, 8, 8, 10, dtype=torch.float64) * 2 + 1
    return x.to(memory_format=memory_format).requires_grad_()


def padded(norm: nn.Module, x: Tensor) -> Tensor:
    norms = [m for m in norm.modules() if isinstance(m, Norm)]
    with within(norms, Pictures(SIZES, CANVAS)):
        return norm(x)


def alone(norm: nn.Module, x: Tensor) -> Tensor:
    """Each picture cut out and by itself, and zeros around it."""
    outputs = [norm(x[i : i + 1, :, :h, :w]) for i, (h, w) in enumerate(ON_MAPS)]
    return torch.cat(
        [F.pad(y, (0, 10 - w, 0, 8 - h)) for y, (h, w) in zip(outputs, ON_MAPS, strict=True)]
    )


def assert_same(ours: Callable, theirs: Callable, x: Tensor, *norms: nn.Module) -> None:
    """In value and in the gradients of maps and parameters."""
    outputs, gradients, weights = [], [], torch.randn_like(x)
    for function, norm in zip((ours, theirs), norms, strict=True):
        own = x.detach().clone().requires_grad_()
        outputs.append(function(norm, own))
        inputs = [own, *norm.parameters()]
        gradients.append(torch.autograd.grad((outputs[-1] * weights).sum(), inputs))
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize(
    ('spec', 'training', 'relu'),
    [
        *product(OF_SAMPLES, [True, False], [False]),
        *product(OF_BATCHES, [False], [False, True]),
        *product(('gn4', 'in', 'rms', 'hybrid(in,ln)', 'fbn'), [True], [True]),
        ('fbn', True, False),
    ],
)
def test_a_picture_is_normed_as_by_itself(spec, training, relu, memory_format):
    norm = random_norm(spec, relu=relu).train(training)
    assert_same(padded, alone, maps(memory_format), norm, copy.deepcopy(norm))


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('spec', ['gn4', 'gn8', 'ln', 'in'])
def test_a_picture_on_large_maps_is_normed_as_by_itself(monkeypatch, spec, relu, memory_format):
    monkeypatch.setattr(layers, '_SMALL', 0)
    norm = random_norm(spec, relu=relu)
    assert_same(padded, alone, maps(memory_format), norm, copy.deepcopy(norm))


def of_pixels(norm: Norm, x: Tensor) -> Tensor:
    """Batch norm of the pixels of all pictures, by its definition."""
    pixels = torch.cat([x[i, :, :h, :w].flatten(1) for i, (h, w) in enumerate(ON_MAPS)], 1)
    if norm.spec == 'bgn4':
        pixels = pixels.unflatten(0, (4, 2)).flatten(1).repeat_interleave(2, 0)
    var, mean = torch.var_mean(pixels, 1, correction=0)
    y = (x - mean[:, None, None]) / (var[:, None, None] + norm.epsilon).sqrt()
    y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    norm.running_mean.lerp_(mean.detach(), 0.1)
    unbiased = var * pixels.shape[1] / (pixels.shape[1] - 1)
    norm.running_var.lerp_((var if norm.spec == 'bgn4' else unbiased).detach(), 0.1)
    inside = torch.zeros(3, 1, 8, 10)
    for i, (h, w) in enumerate(ON_MAPS):
        inside[i, :, :h, :w] = 1
    return y * inside


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('spec', ['bn', 'syncbn', 'ghost3', 'bgn4'])
def test_statistics_of_a_batch_weigh_each_pixel_alike(spec, memory_format):
    norm = random_norm(spec)
    other = copy.deepcopy(norm)
    assert_same(padded, of_pixels, maps(memory_format), norm, other)
    torch.testing.assert_close(norm.running_mean, other.running_mean)
    torch.testing.assert_close(norm.running_var, other.running_var, rtol=0.01, atol=0)


@pytest.mark.parametrize('spec', ['hybrid', 'hybrid(bn,gn4)', 'sn', 'ibn', 'ghost2', 'brn', 'mabn'])
def test_what_the_padding_holds_does_not_matter(spec):
    x, norm = maps(), random_norm(spec)
    noisy = x.detach().clone()
    for sample, (h, w) in zip(noisy, ON_MAPS, strict=True):
        sample[:, h:], sample[:, :, w:] = 1e6, float('nan')
    one, other = (padded(copy.deepcopy(norm), values) for values in (x, noisy))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.allclose(one, copy.deepcopy(norm)(x))


@pytest.mark.parametrize('memory_format', FORMATS)
def test_a_large_offset_costs_no_more_than_without_padding(memory_format):
    x = (torch.randn(3, 8, 8, 10) + 1e4).to(memory_format=memory_format)
    expected = alone(Norm(8, 'gn4').double(), x.double())
    torch.testing.assert_close(padded(Norm(8, 'gn4'), x).double(), expected, rtol=0, atol=2e-2)


def test_sizes_on_maps_are_those_of_the_convolutions():
    """Of a picture by itself, at every stride to 128, on whatever canvas."""
    convolution = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    for height in (1, 31, 32, 33, 63, 64, 65, 100, 127, 129, 200, 333):
        canvas = torch.zeros(1, 1, 416, 352)
        x, pictures = torch.zeros(1, 1, height, 352), Pictures([(height, 352)], (416, 352))
        for _ in range(7):
            canvas, x = convolution(canvas), convolution(x)
            assert pictures.on(canvas) == [tuple(x.shape[2:])], (height, canvas.shape)


@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.parametrize('spec', ['gn4', 'hybrid'])
def test_activation_checkpointing(spec, reentrant):
    net = nn.Sequential(random_norm(spec), nn.ReLU(), random_norm(spec))

    def checkpointed(net: nn.Module, x: Tensor) -> Tensor:
        pictures = Pictures(SIZES, CANVAS)
        with within([net[0], net[2]], pictures):
            return checkpoint(net, x, use_reentrant=reentrant)

    other = copy.deepcopy(net)
    x, weights, gradients = maps(), torch.randn(3, 8, 8, 10), []
    for function, model in ((checkpointed, net), (padded, other)):
        own = x.detach().clone().requires_grad_()
        (function(model, own) * weights).sum().backward()
        gradients.append([own.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('spec', ['gn4', 'hybrid', 'frn', 'fbn'])
def test_lean(spec):
    net = nn.Sequential(nn.Conv2d(8, 8, 1).double(), random_norm(spec), nn.ReLU())

    def leanly(net: nn.Module, x: Tensor) -> Tensor:
        with lean(net):
            return padded(net, x)

    assert_same(leanly, padded, maps(), net, copy.deepcopy(net))


@pytest.mark.parametrize('spec', ['gn4', 'hybrid', 'frn', 'evos0', 'bn'])
def test_compiled_without_a_break_for_whatever_sizes(spec):
    torch.compiler.reset()
    norm = random_norm(spec)
    compiled = torch.compile(norm, backend='eager', fullgraph=True)
    for sizes in (SIZES, SIZES[::-1]):
        own, other = copy.deepcopy(norm.state_dict()), copy.deepcopy(norm)
        outputs, x = [], maps()
        for function, layer in ((compiled, norm), (other, other)):
            with within([layer], Pictures(sizes, CANVAS)):
                outputs.append(function(x))
        torch.testing.assert_close(*outputs)
        norm.load_state_dict(own)


@pytest.mark.parametrize('spec', ['gn4', 'hybrid(bn,ln)'])
def test_second_derivatives(spec):
    norm, x = random_norm(spec), torch.randn(2, 8, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        with within([norm], Pictures([(1, 2), (2, 1)], (2, 2))):
            return norm(x)

    assert torch.autograd.gradgradcheck(function, x, atol=1e-6)


def test_only_pictures_within_their_pass_are_cut():
    x, norm = maps(), random_norm('gn4')
    plain = norm(x)
    assert not torch.allclose(padded(norm, x), plain)
    assert torch.equal(norm(x), plain)  # their pass has ended
    with within([norm], Pictures(SIZES, CANVAS)):
        regions = torch.cat([x, x])  # of another number: no maps of the pictures
        torch.testing.assert_close(norm(regions), torch.cat([plain, plain]))
    norm.count_padding = True
    assert torch.equal(padded(norm, x), plain)


def test_precise_batch_norm_is_of_pictures():
    x, norm = maps(), Norm(8, 'bn').double()
    with within([norm], Pictures(SIZES, CANVAS)):
        reestimate(norm, [x])
    pixels = torch.cat([x[i, :, :h, :w].flatten(1) for i, (h, w) in enumerate(ON_MAPS)], 1)
    torch.testing.assert_close(norm.running_mean, pixels.mean(1))
    torch.testing.assert_close(norm.running_var, pixels.var(1))
