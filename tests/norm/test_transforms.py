"""Norms within torch.func, torch.fx, torch.export and FSDP2."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, grad, jvp, vmap

from sbzoo import UserError
from sbzoo.norm import Norm
from sbzoo.norm.padding import Pictures
from sbzoo.norm.spec import parse

C = 8
SPECS = ['gn4', 'ln', 'rms', 'frn', 'evos0', 'hybrid', 'hybrid(in,gn2)', 'hybrid(bn,running)']
SPECS += ['sn', 'ibn', 'bn', 'fbn', 'ghost2', 'bgn4']
SAMPLEWISE = [spec for spec in SPECS if not parse(spec, C).uses_batch]


def network(spec: str, training: bool = True) -> tuple[nn.Module, dict, dict, torch.Tensor]:
    model = nn.Sequential(nn.Conv2d(3, C, 1), Norm(C, spec)).double().train(training)
    x = torch.randn(4, 3, 5, 4, dtype=torch.double)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return model, dict(model.named_parameters()), buffers, x


def loss(model: nn.Module, parameters: dict, buffers: dict, x: torch.Tensor) -> torch.Tensor:
    return functional_call(model, (parameters, buffers), (x,)).tanh().sum()


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('spec', SPECS)
def test_gradients_of_torch_func_are_those_of_backward(spec, training):
    model, parameters, buffers, x = network(spec, training)
    ours = grad(partial(loss, model))(parameters, buffers, x)
    names = [name for name, p in parameters.items() if p.requires_grad]
    loss(model, parameters, dict(model.named_buffers()), x).backward()
    for name in names:
        torch.testing.assert_close(ours[name], parameters[name].grad)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)


@pytest.mark.parametrize('spec', SPECS)
def test_forward_mode_is_the_limit_of_differences(spec):
    model, parameters, _, x = network(spec, training='running' not in spec)
    direction, step = torch.randn_like(x), 1e-6

    def run(x: torch.Tensor) -> torch.Tensor:
        return functional_call(copy.deepcopy(model), parameters, (x,))

    with torch.no_grad():
        slope = (run(x + step * direction) - run(x - step * direction)) / (2 * step)
    close = dict(rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(jvp(run, (x,), (direction,))[1].detach(), slope, **close)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x, direction)))
        torch.testing.assert_close(dual.tangent.detach(), slope, **close)


@pytest.mark.parametrize('spec', SPECS)
def test_gradients_for_each_sample(spec):
    model, parameters, buffers, x = network(spec, training=spec in SAMPLEWISE)
    each = vmap(grad(lambda p, x: loss(model, p, buffers, x[None])), (None, 0))(parameters, x)
    for i in range(len(x)):
        alone = grad(lambda p, i=i: loss(model, p, buffers, x[i : i + 1]))(parameters)
        for name, value in alone.items():
            torch.testing.assert_close(each[name][i], value)


def test_an_ensemble_is_its_members():
    members = [network('hybrid')[0] for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(members)
    x = torch.randn(4, 3, 5, 4, dtype=torch.double)
    together = vmap(lambda p, b: functional_call(members[0], (p, b), (x,)))(parameters, buffers)
    for i, member in enumerate(members):
        torch.testing.assert_close(together[i], member(x))
        torch.testing.assert_close(buffers['1.running_var'][i], member[1].running_var)


@pytest.mark.parametrize('spec', ['hybrid', 'sn', 'bn', 'brn', 'mabn'])
def test_one_set_of_running_statistics_for_many_batches_is_refused_by_name(spec):
    model, parameters, buffers, x = network(spec)
    with pytest.raises(UserError, match=rf"norm '{spec}' cannot be transformed by torch.func"):
        vmap(grad(lambda p, x: loss(model, p, buffers, x[None])), (None, 0))(parameters, x)


def test_padding_is_left_out_within_torch_func():
    layer, x = Norm(C, 'gn2').double(), torch.randn(2, C, 8, 8, dtype=torch.double)
    layer.pictures = Pictures([(8, 8), (4, 8)], (8, 8))
    ours = grad(lambda x: layer(x).tanh().square().sum())(x)
    own = x.clone().requires_grad_()
    layer(own).tanh().square().sum().backward()
    torch.testing.assert_close(ours, own.grad)


@pytest.mark.parametrize('spec', ['gn4', 'hybrid', 'mabn'])
def test_fx_traces_around_a_norm(spec):
    model, x = nn.Sequential(nn.Conv2d(3, C, 1), Norm(C, spec), nn.ReLU()), torch.randn(2, 3, 5, 4)
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == 'call_module'] == ['0', '1', '2']
    for training in (True, False):
        torch.testing.assert_close(
            copy.deepcopy(traced).train(training)(x), copy.deepcopy(model).train(training)(x)
        )


def test_fx_of_a_norm_alone_is_refused():
    with pytest.raises(UserError, match=r"norm 'gn4': torch\.fx traces models of norms"):
        torch.fx.symbolic_trace(Norm(C, 'gn4'))


@pytest.mark.parametrize('shape', [(2, C), (2, C, 5, 4), (2, C, 3, 5, 4)])
@pytest.mark.parametrize('spec', ['gn4', 'hybrid'])
def test_exported_it_takes_other_images(spec, shape):
    model = nn.Sequential(Norm(C, spec)).eval()
    size = {0: torch.export.Dim('n', min=2)}
    exported = torch.export.export(model, (torch.randn(shape),), dynamic_shapes=(size,)).module()
    x = torch.randn(5, *shape[1:])
    torch.testing.assert_close(exported(x), model(x))


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/ranks', rank=0, world_size=1)
    yield init_device_mesh('cpu', (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')  # that an empty batch is looked for
@pytest.mark.parametrize('shape', [(2, C, 7), (2, C, 3, 5, 4)])
def test_traced_it_takes_other_maps_of_its_rank(shape):
    model = nn.Sequential(Norm(C, 'hybrid')).eval()
    traced, x = torch.jit.trace(model, torch.randn(shape)), torch.randn(5, C, *[9] * len(shape[2:]))
    torch.testing.assert_close(traced(x), model(x))


def test_fsdp2_shards_and_trains_norms(mesh):
    specs = ['gn4', 'hybrid', 'hybrid(bn,ln,channel)', 'sn', 'evos0', 'fbn']
    model = nn.Sequential(nn.Conv2d(3, C, 3), *(Norm(C, spec) for spec in specs))
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    fully_shard(model, mesh=mesh)
    for each in (model, twin):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(model(x), twin(x))
