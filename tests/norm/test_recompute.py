"""Lean training: the gradients, buffers and random numbers of plain training, in less memory."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from benchmarks.memory import Allocated
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from sbzoo.engine.hooks.lean import LeanHook
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.memory import set_lean
from sbzoo.norm import build_norm, norm_cfg
from sbzoo.norm.recompute import lean, make_lean

NORMS = ('bn', 'gn4', 'in', 'ln', 'hybrid', 'hybrid(in,gn4)')


def plain(_):
    return nullcontext()


def step(model, x, context=lean):
    """Everything that a training step of a copy of `model` leaves."""
    torch.manual_seed(1)
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    with context(model):
        output = model(x)
        loss = (output * torch.linspace(0.5, 1, output.numel()).view_as(output)).sum()
    loss.backward()
    grads = [x.grad, *(p.grad for p in model.parameters())]
    return output.detach(), grads, list(model.buffers()), torch.rand(1)


def assert_same(model, x):
    torch.testing.assert_close(step(model, x), step(model, x, plain), rtol=1e-9, atol=1e-12)


def kept_bytes(model, x, context=lean):
    with context(model), Allocated() as allocated:
        output = model(x)
    return allocated.alive(output, x, *model.parameters(), *model.buffers())


class Net(nn.Module):
    """Layers, and what a forward does with them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double()

    def forward(self, x):
        return self.run(self, x)


def resnet(spec, **kwargs):
    """Two stages of ResNet-50 at an eighth of its width."""
    backbone = ResNet(
        50,
        stem_channels=8,
        base_channels=8,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        norm_cfg=norm_cfg(spec),
        norm_eval=False,
        **kwargs,
    )
    return Net(lambda net, x: net.backbone(x)[0], backbone=backbone)


def image(*shape, channels=3):
    return torch.randn(2, channels, *(shape or (32, 32)), dtype=torch.float64)


@pytest.mark.parametrize('spec', NORMS)
def test_resnet_is_the_same_in_half_the_memory(spec):
    model, x = resnet(spec), image(64, 64)
    assert_same(model, x)
    assert kept_bytes(model, x) < 0.5 * kept_bytes(model, x, plain)


def test_without_what_is_dropped_memory_is_the_same():
    model, x = Net(lambda net, x: net.conv(x), conv=nn.Conv2d(64, 8, 3)), image(channels=64)
    assert kept_bytes(model, x) == kept_bytes(model, x, plain)


def _in_place_residual(net, x):
    y = net.norm(net.conv(x))
    y += x
    return net.conv2(net.relu(y))


def _shared_relu(net, x):
    y = net.relu(net.norm(net.conv(x)))
    return net.conv2(net.relu(net.norm2(net.conv2(y))))


def _shared_over_levels(net, x):
    levels = [x, F.max_pool2d(x, 2)]
    return torch.cat([net.conv2(net.relu(net.norm(net.conv(v)))).flatten(1) for v in levels], 1)


def _input_changed_after_its_use(net, x):
    y = net.norm(net.conv(x))
    z = F.avg_pool2d(y, 1)  # which keeps y, here as it is before the change
    y = z + 1
    activated = net.gelu(y)
    y = y + 0
    kept = net.sigmoid(y)  # keeps its output alone
    y += activated
    return net.conv2(y * kept)


def _view_and_slice_of_an_output(net, x):
    y = net.relu(net.norm(net.conv(x)))
    return net.conv2(y.view(4, 8, -1, x.shape[-1])) + net.conv2(y[:, :, ::2]).flatten(0, 1).sum()


def _keyword(net, x):
    return net.conv2(input=net.relu(input=net.norm(net.conv(input=x))))


def _temporaries_at_one_address(net, x):
    total = 0
    for _ in range(6):
        total = total + net.conv2(net.relu(net.norm(net.conv(x + total))))
        torch.empty_like(total).fill_(7)
    return total


def _dropout(net, x):
    return net.conv2(net.drop(net.relu(net.norm(net.conv(x)))))


def _checkpoint(net, x):
    def block(x):
        return net.relu(net.norm(net.conv(x)))

    y = net.relu(net.norm(net.conv2(checkpoint(block, x, use_reentrant=False))))
    return net.conv2(checkpoint(block, y, use_reentrant=True))


def _frozen(net, x):
    net.conv.requires_grad_(False)
    return net.conv2(net.relu(net.norm(net.conv(x.detach()))))


def _evaluated_norm(net, x):
    net.norm.eval()
    return net.conv2(net.relu(net.norm(net.conv(x))))


def _token_mixer(net, x):
    tokens = x.flatten(2).transpose(1, 2)
    return net.linear2(net.gelu(net.linear(net.layer_norm(tokens)))).mean((1, 2))


RUNS = (
    _in_place_residual,
    _shared_relu,
    _shared_over_levels,
    _input_changed_after_its_use,
    _view_and_slice_of_an_output,
    _keyword,
    _temporaries_at_one_address,
    _dropout,
    _checkpoint,
    _frozen,
    _evaluated_norm,
    _token_mixer,
)


def net(run, spec='gn4', inplace=True):
    return Net(
        run,
        conv=nn.Conv2d(8, 8, 1),
        conv2=nn.Conv2d(8, 8, 1),
        norm=build_norm(spec, 8),
        norm2=build_norm(spec, 8),
        relu=nn.ReLU(inplace),
        gelu=nn.GELU(),
        sigmoid=nn.Sigmoid(),
        drop=nn.Dropout(0.5),
        layer_norm=nn.LayerNorm(8),
        linear=nn.Linear(8, 16),
        linear2=nn.Linear(16, 4),
    )


@pytest.mark.parametrize('spec', ['bn', 'gn4', 'hybrid'])
@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('run', RUNS)
def test_ways_to_write_a_model(run, inplace, spec):
    assert_same(net(run, spec, inplace), image(channels=8))


@pytest.mark.parametrize(
    'activation',
    [nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh],
)
@pytest.mark.parametrize('inplace', [True, False])
def test_activations(activation, inplace):
    model = net(_shared_relu)
    model.relu = activation(inplace=inplace)
    assert_same(model, 3 * image(channels=8))


@pytest.mark.parametrize('spec', ['gn4', 'hybrid'])
def test_an_empty_batch(spec):
    assert_same(net(_shared_relu, spec), image(channels=8)[:0])


def test_spectral_norm_moves_its_vectors_once():
    model = net(_shared_relu)
    spectral_norm(model.conv)
    assert_same(model, image(channels=8))


def test_hook_that_changes_an_output():
    model = net(_shared_relu)
    model.norm.register_forward_hook(lambda module, args, output: 2 * output)
    assert_same(model, image(channels=8))


def test_autocast():
    def halved(net, x):
        with torch.autocast('cpu', torch.bfloat16):
            return _shared_relu(net, x).float()

    model, x = net(halved).float(), image(channels=8).float()
    torch.testing.assert_close(step(model, x), step(model, x, plain), rtol=0, atol=0)


def test_a_graph_can_be_used_twice():
    model, x = resnet('hybrid'), image()
    results = {}
    for context in (lean, plain):
        with context(model):
            loss = model(x).square().mean()
        once = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        twice = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close(once, twice, rtol=0, atol=0)
        results[context] = once
    torch.testing.assert_close(results[lean], results[plain], rtol=1e-9, atol=1e-12)


def test_second_derivatives():
    def penalty(context):
        x = image(8, 8, channels=8).requires_grad_()
        with context(model):
            out = model(x)
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), list(model.parameters())[:2])

    model = net(_shared_relu, inplace=False)
    torch.manual_seed(0)
    expected = penalty(plain)
    torch.manual_seed(0)
    torch.testing.assert_close(penalty(lean), expected)


def test_backward_releases_everything():
    model, x = resnet('gn4'), image()
    with lean(model), Allocated() as allocated:
        loss = model(x).square().mean()
    apart = (loss, x, *model.parameters(), *model.buffers())
    assert allocated.alive(*apart) > 100_000
    loss.backward()
    assert allocated.alive(*apart) == 0


def test_a_dropped_graph_releases_everything():
    model, x = resnet('gn4'), image()
    with lean(model), Allocated() as allocated:
        output = model(x)
    del output
    assert allocated.alive(x, *model.parameters()) == 0


@pytest.mark.parametrize('what', ['activation', 'parameter', 'bias'])
def test_changes_in_place_are_found(what):
    def change(net, x):
        y = x + 0
        z = net.norm(y)
        if what == 'activation':
            y.mul_(2)
        return net.conv2(net.relu(z))

    model = net(change)
    with lean(model):
        loss = model(image(channels=8)).sum()
    if what != 'activation':
        with torch.no_grad():
            (model.norm.bias if what == 'bias' else model.conv2.weight).mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


def test_leaves_no_hooks_behind():
    model = make_lean(net(_shared_relu))
    model(image(channels=8)).sum().backward()
    with pytest.raises(RuntimeError):  # 3 channels where 8 are wanted
        model(image())
    assert not any(m._forward_hooks for m in model.children())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        image().requires_grad_().square()
    assert kept


def test_evaluation_is_untouched():
    model, x = resnet('bn').eval(), image()
    expected = model(x)
    with torch.no_grad():
        assert torch.equal(make_lean(model)(x), expected)


def test_option_makes_a_detector_lean():
    cfg = load_config('configs/retinanet_hybrid_b2.py')
    grads = {}
    for change in (lambda cfg: None, set_lean, set_lean):  # said twice, done once
        change(cfg)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).train()
        if change is set_lean:
            LeanHook().before_train(SimpleNamespace(model=model))
        batch = model.data_preprocessor(demo_mm_inputs(2, [[3, 96, 96]] * 2, num_classes=10), True)
        with Allocated() as allocated:
            loss, _ = model.parse_losses(model(**batch, mode='loss'))
        apart = (batch['inputs'], *model.parameters())
        grads[change] = [
            allocated.alive(*apart),
            *torch.autograd.grad(loss, list(model.parameters())),
        ]
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert hooks.count('LeanHook') == 1
    (full, *expected), (less, *actual) = grads.values()
    assert less < 0.5 * full
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
