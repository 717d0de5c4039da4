"""Every pool against a layer of torch, torchvision or timm, or the formula of its paper."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import EvoNorm2dS0, FilterResponseNormTlu2d
from torch import nn
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from sbzoo import UserError, build_norm
from sbzoo.norm import NORMS, Norm, layers
from sbzoo.norm.kernels import native
from sbzoo.norm.spec import parse

N, C, H, W = 4, 8, 5, 3
SPECS = [
    'gn4', 'ln', 'in', 'rms', 'frn', 'evos0', 'hybrid', 'hybrid(in,gn4)', 'hybrid(gn2,bn,channel)',
    'hybrid(bn,running)', 'sn', 'ibn', 'bn', 'fbn', 'syncbn', 'ghost2', 'bgn4', 'brn', 'mabn',
]  # fmt: skip


def make(spec: str, channels: int = C, **kwargs) -> Norm:
    """A double-precision norm of which nothing is a neutral element."""
    layer = Norm(channels, spec, **kwargs).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=0.3)
    if layer.pool.keeps_running:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return layer


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (N, C, H, W), dtype=torch.double).mul_(2).add_(1)


def maps(table: torch.Tensor) -> torch.Tensor:
    return table[..., None, None]


def assert_same(ours, theirs, *inputs):
    """Outputs and all gradients are equal."""
    close = dict(rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, **close)
    grad = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad, retain_graph=True),
        torch.autograd.grad(theirs, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **close)


def normalised(layer, x, mean, var):
    return maps(layer.weight) * (x - mean) / (var + layer.epsilon).sqrt() + maps(layer.bias)


def batch_moments(x):
    return x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)


def _rms(layer, x):
    return normalised(layer, x, 0, x.square().mean((1, 2, 3), keepdim=True))


def _switchable(layer, x):
    dims = (2, 3), (1, 2, 3), (0, 2, 3)
    mean_weights, var_weights = layer.mean_logits.softmax(0), layer.var_logits.softmax(0)
    mean = sum(w * x.mean(d, keepdim=True) for w, d in zip(mean_weights, dims, strict=True))
    variances = (x.var(d, correction=0, keepdim=True) for d in dims)
    return normalised(
        layer, x, mean, sum(w * v for w, v in zip(var_weights, variances, strict=True))
    )


def _ibn(layer, x):
    half, weight, bias = C // 2, layer.weight, layer.bias
    first = F.instance_norm(x[:, :half], weight=weight[:half], bias=bias[:half])
    second = F.batch_norm(x[:, half:], None, None, weight[half:], bias[half:], training=True)
    return torch.cat([first, second], 1)


def _ghost(layer, x):
    batch_norm = [F.batch_norm(p, None, None, layer.weight, layer.bias, True) for p in x.split(2)]
    return torch.cat(batch_norm)


def _batch_group(layer, x):
    grouped = x.view(N, 4, C // 4 * H, W)  # so that a group is one channel of batch norm
    whitened = F.batch_norm(grouped, None, None, training=True).view_as(x)
    return whitened * maps(layer.weight) + maps(layer.bias)


def _batch(layer, x):
    return F.batch_norm(x, None, None, layer.weight, layer.bias, True)


def _hybrid_by_channel(layer, x):
    alpha = maps(1 / (1 + (-layer.alpha_logit).exp()))
    grouped = x.view(N, 2, -1)
    group_mean, group_var = grouped.mean(2), grouped.var(2, correction=0)
    mean, var = batch_moments(x)
    group_mean, group_var = (maps(t.repeat_interleave(C // 2, 1)) for t in (group_mean, group_var))
    mixed = alpha * group_mean + (1 - alpha) * mean, alpha * group_var + (1 - alpha) * var
    return normalised(layer, x, *mixed)


def _hybrid_with_running(layer, x):
    """The running statistics hold the batch already; constants for the gradient."""
    alpha = 1 / (1 + (-layer.alpha_logit).exp())
    running = maps(layer.running_mean), maps(layer.running_var)
    mixed = (alpha * b + (1 - alpha) * r for b, r in zip(batch_moments(x), running, strict=True))
    return normalised(layer, x, *mixed)


@pytest.mark.parametrize(
    ('spec', 'reference'),
    [
        ('rms', _rms),
        ('sn', _switchable),
        ('ibn', _ibn),
        ('ghost2', _ghost),
        ('bgn4', _batch_group),
        ('syncbn', _batch),  # one process
        ('brn', _batch),  # no correction before step 5,000
        ('hybrid(gn2,bn,channel)', _hybrid_by_channel),
        ('hybrid(bn,running)', _hybrid_with_running),
    ],
)
def test_equals_the_formula(spec, reference):
    layer, x = make(spec), images().requires_grad_()
    assert_same(layer(x), reference(layer, x), x, *layer.parameters())


def test_filter_response_norm_equals_timm():
    layer, theirs, x = make('frn'), FilterResponseNormTlu2d(C, eps=1e-5), images()
    theirs.weight, theirs.bias, theirs.tau = layer.weight, layer.bias, layer.threshold
    x.requires_grad_()
    assert_same(layer(x), theirs.double()(x), x, *layer.parameters())


def test_evonorm_equals_timm():
    layer, theirs, x = make('evos0', 64), EvoNorm2dS0(64, groups=32), images(N, 64, H, W)
    theirs.weight, theirs.bias, theirs.v = layer.weight, layer.bias, layer.gate
    x.requires_grad_()
    assert_same(layer(x), theirs.double()(x), x, *layer.parameters())


def test_frozen_batch_norm_equals_torchvision_and_keeps_nothing_of_the_images():
    layer, x = make('fbn'), images().requires_grad_()
    theirs = torchvision.ops.FrozenBatchNorm2d(C).double()
    assert theirs.load_state_dict(layer.state_dict(), strict=False).missing_keys == []
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    assert_same(y, theirs(x), x)
    assert max(t.numel() for t in kept) == C


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('spec', [*SPECS, 'hybrid(fbn,ln)'])
def test_in_half_precision_statistics_are_taken_in_full(spec, training, dtype):
    layer, x = make(spec).to(dtype).train(training), images().to(dtype)
    exact = make(spec).train(training)
    exact.load_state_dict(layer.state_dict())
    y = layer(x.requires_grad_())
    assert y.dtype == dtype
    rounding = 8 * torch.finfo(dtype).eps
    expected = exact(x.detach().double())
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=rounding)
    y.sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


@pytest.mark.parametrize('step', [5_000, 20_000, 100_000])
def test_renorm_equals_its_paper(step):
    layer, x = make('brn'), images().requires_grad_()
    layer.num_batches_tracked.fill_(step)
    max_r = {5_000: 1, 20_000: 1 + 2 * 15 / 35, 100_000: 3}[step]
    max_d = {5_000: 0, 20_000: 5 * 15 / 20, 100_000: 5}[step]
    running_mean = maps(layer.running_mean.clone())
    running_std = maps(layer.running_var + layer.epsilon).sqrt()
    mean, var = batch_moments(x)
    std = (var + layer.epsilon).sqrt()
    r = (std / running_std).detach().clamp(1 / max_r, max_r)
    d = ((mean - running_mean) / running_std).detach().clamp(-max_d, max_d)
    expected = ((x - mean) / std * r + d) * maps(layer.weight) + maps(layer.bias)
    assert_same(layer(x), expected, x, layer.weight, layer.bias)


def test_moving_average_batch_norm_averages_both_passes_over_the_last_steps():
    layer = make('mabn')
    layer.num_batches_tracked.fill_(layer.pool.WARM_UP)
    moments, slopes = [], []
    for _ in range(2 * layer.pool.STEPS + 3):
        x = images().requires_grad_()
        running = layer.running_var.clone()
        y = layer(x)
        grad = torch.randn_like(y)
        (d_x,) = torch.autograd.grad(y, x, grad)
        moments.append(x.detach().square().mean((0, 2, 3)))
        moment = torch.stack(moments[-layer.pool.STEPS :]).mean(0)
        r = (moment / running).sqrt().clamp(1 / 1.05, 1.05)
        inverse = (moment / r.square() + layer.epsilon).rsqrt()
        whitened = x.detach() * maps(inverse)
        d_whitened = grad * maps(layer.weight)
        slopes.append((d_whitened * whitened).sum((0, 2, 3)) * -0.5 * (inverse / r).square())
        slope = torch.stack(slopes[-layer.pool.STEPS :]).mean(0)
    expected = d_whitened * maps(inverse) + maps(slope) * 2 * x.detach() / (N * H * W)
    torch.testing.assert_close(y, whitened * maps(layer.weight) + maps(layer.bias))
    torch.testing.assert_close(d_x, expected)


def test_moving_average_batch_norm_warms_up_with_the_moments_of_the_batch():
    layer, x = make('mabn'), images().requires_grad_()
    expected = normalised(layer, x, 0, x.square().mean((0, 2, 3), keepdim=True))
    assert_same(layer(x), expected, x, *layer.parameters())


@pytest.mark.parametrize('spec', [s for s in SPECS if parse(s, C).keeps_running])
def test_in_evaluation_samples_do_not_matter_to_each_other(spec):
    layer, x = make(spec).eval(), images()
    together = layer(x)
    torch.testing.assert_close(torch.cat([layer(sample) for sample in x.split(1)]), together)
    if parse(spec, C).uses_batch:
        assert not torch.allclose(layer.train()(x), together)


@pytest.mark.parametrize('spec', SPECS)
def test_second_derivatives(spec):
    if spec in ('bn', 'mabn'):
        pytest.skip('bn here is another pool of the same formula; mabn has no true gradient')
    layer, x = make(spec), images(2, C, 2, 2).requires_grad_()
    steps = layer.num_batches_tracked.clone() if layer.pool.uses_batch else None
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert steps is None or layer.num_batches_tracked == steps + 1  # one step, not two
    layer.momentum = 0.0  # differences are of one function
    assert torch.autograd.gradgradcheck(layer, x, atol=1e-4)


@pytest.mark.parametrize(
    ('spec', 'training'), [*((s, True) for s in SPECS), ('hybrid', False), ('bn', False)]
)
def test_compiles_without_a_graph_break_to_the_same_numbers(spec, training):
    layer, x = make(spec).train(training), images().requires_grad_()
    torch._dynamo.reset()
    twin = make(spec).train(training)
    twin.load_state_dict(layer.state_dict())
    compiled = torch.compile(twin, backend='aot_eager', fullgraph=True)(x)
    expected = layer(x)
    torch.testing.assert_close(compiled, expected)
    if spec != 'mabn':
        grad = torch.randn_like(x)
        ours = torch.autograd.grad(compiled, x, grad)[0]
        torch.testing.assert_close(ours, torch.autograd.grad(expected, x, grad)[0])
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[key], value)


@pytest.mark.parametrize('chunk', [1, 7, 2**19])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('spec', ['gn2', 'gn4', 'hybrid', 'bn', 'fbn'])
def test_fused_relu_equals_two_layers(spec, memory_format, chunk, monkeypatch):
    monkeypatch.setattr(layers, '_LARGE', chunk)  # so that group norm takes both of its ways
    monkeypatch.setattr(native, '_CHUNK', chunk)
    fused = make(spec, relu=True)
    plain = Norm(C, spec).double()
    plain.load_state_dict(fused.state_dict())
    plain.weight, plain.bias = fused.weight, fused.bias
    x = images().contiguous(memory_format=memory_format).requires_grad_()
    ours, theirs = fused(x), plain(x).relu()
    assert ours.is_contiguous(memory_format=memory_format)
    assert_same(ours, theirs, x, *(p for p in (fused.weight, fused.bias) if p.requires_grad))


@pytest.mark.parametrize('large', [0, 2**22])
@pytest.mark.parametrize('spec', ['gn2', 'hybrid'])
def test_second_derivatives_through_a_fused_relu(spec, large, monkeypatch):
    monkeypatch.setattr(layers, '_LARGE', large)
    layer, x = make(spec, relu=True), images(2, C, 2, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(layer, x, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('chunk', [1, 20, 2**19])
def test_kernels_equal_the_reference(dtype, memory_format, chunk, monkeypatch):
    monkeypatch.setattr(native, '_CHUNK', chunk)
    exact, grad = images(3, 6, 5, 4), torch.randn(3, 6, 5, 4, dtype=torch.double)
    table = torch.promote_types(dtype, torch.float32)
    a, b, c = torch.randn(3, 3, 6, dtype=table)
    x, g = (t.to(dtype).contiguous(memory_format=memory_format) for t in (exact, grad))
    exact, grad = x.double(), g.double()
    tolerance = {} if dtype != torch.bfloat16 else dict(rtol=1e-2, atol=2e-2)

    mean, var = native.moments(x)
    assert mean.dtype == var.dtype == table
    torch.testing.assert_close(mean.double(), exact.mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var.double(), exact.var((2, 3), correction=0), rtol=1e-5, atol=1e-6)
    y = native.affine(x, a, b, relu=True)
    expected = (exact * maps(a.double()) + maps(b.double())).relu()
    torch.testing.assert_close(y.double(), expected, check_dtype=False, **tolerance)
    masked = torch.where(y > 0, grad, 0.0)
    g, rest, own = native.masked(g, y)
    assert rest is None
    dot, total = native.products(g, x, mean)
    centred = exact - maps(mean.double())
    torch.testing.assert_close(dot.double(), (masked * centred).sum((2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total.double(), masked.sum((2, 3)), rtol=1e-4, atol=1e-4)
    d_x = native.blend(g, x, a, b, c, out=own)
    expected = maps(a.double()) * masked + maps(b.double()) * exact + maps(c.double())
    torch.testing.assert_close(d_x.double(), expected, check_dtype=False, **tolerance)
    for result in (y, d_x):
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('spec', SPECS)
def test_an_empty_batch_is_put_out_and_learns_nothing(spec, training, compiled):
    layer = make(spec).train(training)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    x = images(0, C, H, W).requires_grad_()
    torch._dynamo.reset()
    run = torch.compile(layer, backend='aot_eager', fullgraph=True) if compiled else layer
    y = run(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def _rank(rank: int, file: str, norms: list, shares: list, x: torch.Tensor, grad: torch.Tensor):
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    found = []
    for layer in norms:
        own = x.split(shares)[rank].clone().requires_grad_()
        wrapped = DistributedDataParallel(layer)
        y = wrapped(own)
        y.backward(grad.split(shares)[rank] * 2)  # of which the wrapper takes the mean
        affine = [parameter.grad for parameter in layer.parameters()]
        found.append((y.detach(), own.grad / 2, layer.state_dict(), affine))
    torch.save(found, f'{file}.{rank}')
    torch.distributed.destroy_process_group()


def on_two_ranks(path, norms, shares, x, grad) -> list[list[tuple]]:
    """Of each layer what both ranks have found: output, gradients and state."""
    arguments = str(path / f'meet{shares}'), norms, shares, x, grad
    start_processes(_rank, arguments, nprocs=2, start_method='fork')
    ranks = (torch.load(path / f'meet{shares}.{rank}') for rank in range(2))
    return list(zip(*ranks, strict=True))


INVARIANT = ['gn', 'ln', 'syncbn', 'hybrid', 'hybrid(syncbn,in,channel)']


@pytest.mark.parametrize('shares', [[1, 1], [2, 1], [3, 0]])
def test_two_ranks_are_one_rank_of_all_images(tmp_path, shares):
    """As often as the images are shared out, and as torch's batch norm does it."""
    n = sum(shares)
    x, grad = images(n, C, H, W), torch.randn(n, C, H, W).double()
    norms = [make(spec) for spec in INVARIANT]
    alone = [*copy.deepcopy(norms), nn.BatchNorm2d(C).double()]
    alone[-1].load_state_dict(norms[2].state_dict())
    found = on_two_ranks(tmp_path, norms, shares, x, grad)
    for layer, ranks in zip(alone, [*found, found[2]], strict=True):
        own = x.clone().requires_grad_()
        y = layer(own)
        y.backward(grad)
        torch.testing.assert_close(torch.cat([r[0] for r in ranks]), y.detach())
        torch.testing.assert_close(torch.cat([r[1] for r in ranks]), own.grad)
        for rank in ranks:
            torch.testing.assert_close(rank[2], dict(layer.state_dict()), check_dtype=False)
            torch.testing.assert_close(rank[3], [p.grad for p in layer.parameters()])


def test_ranks_without_any_image_learn_nothing(tmp_path):
    norms, x = [make(spec) for spec in INVARIANT], images(0, C, H, W)
    for layer, ranks in zip(norms, on_two_ranks(tmp_path, norms, [0, 0], x, x), strict=True):
        for rank in ranks:
            torch.testing.assert_close(rank[2], layer.state_dict(), rtol=0, atol=0)
            assert not any(g.any() for g in rank[3])


def test_identities():
    x = images().float()
    same = [('gn8', 'in'), ('gn1', 'ln'), ('ghost4', 'bn'), ('bgn8', 'bn'), ('hybrid(in,in)', 'in')]
    for one, other in same:
        torch.testing.assert_close(Norm(C, one)(x), Norm(C, other)(x), msg=f'{one} {other}')
    torch.testing.assert_close(Norm(C, 'ghost1')(x), Norm(C, 'in')(x))
    torch.testing.assert_close(Norm(C, 'bn')(x[:1]), Norm(C, 'in')(x[:1]))


def test_two_running_tables_in_one_hybrid_are_refused():
    with pytest.raises(UserError, match=r'hybrid\(bn,brn\): both keep running statistics'):
        build_norm('hybrid(bn,brn)', C)


@pytest.mark.parametrize('spec', ['hybrid(ln,running)', 'hybrid(fbn,running)'])
def test_running_statistics_that_no_part_of_a_hybrid_moves_are_refused(spec):
    with pytest.raises(UserError, match=r'keeps no statistics of batches; hybrid\(bn,running\)'):
        build_norm(spec, C)


@pytest.mark.parametrize('part', ['frn', 'evos0', 'hybrid', 'sn'])
def test_norms_that_learn_are_no_part_of_a_hybrid(part):
    for spec in (f'hybrid(bn,{part})', f'hybrid({part},ln)'):
        with pytest.raises(UserError, match=rf'{re.escape(spec)}: {part} learns.*mix norms'):
            build_norm(spec, C)


def test_all_that_a_hybrid_may_mix_learns():
    """Of each pair that can be built every parameter gets a gradient."""
    parts, built = sorted({s.split('(')[0] for s in SPECS} - {'fbn'}), 0
    for spec in (f'hybrid({one},{two})' for one in parts for two in parts):
        try:
            layer = make(spec)
        except UserError:
            continue
        layer(images()).square().sum().backward()
        assert all(p.grad is not None for p in layer.parameters()), spec
        built += 1
    assert built > len(parts)


@pytest.mark.parametrize('spec', ['frn', 'evos0'])
def test_a_norm_with_its_own_activation_needs_its_affine_part(spec):
    with pytest.raises(UserError, match=f'{spec}.*affine=True'):
        build_norm(spec, C, affine=False)


@pytest.mark.parametrize('spec', ['frn', 'evos0'])
def test_a_norm_with_its_own_activation_takes_no_relu(spec):
    with pytest.raises(UserError, match=f'{spec}, relu=True: it is an activation already'):
        build_norm(spec, C, relu=True)


def test_every_spec_of_the_table_is_tested():
    for entry in NORMS:
        assert any(re.fullmatch(entry.pattern, spec) for spec in SPECS), entry.spec
