"""Norms that are traced and exported: equal to themselves, of any image, in few nodes."""

import copy
import logging
import warnings

import onnx
import onnxruntime
import pytest
import torch
from test_pools import SPECS, images, make
from torch import nn

from sbzoo import UserError

NODES = {'gn4': 1, 'ln': 1, 'in': 1, 'ibn': 5, 'hybrid': 13, 'fbn': 1, 'bn': 1, 'mabn': 1}


@pytest.fixture(autouse=True)
def _silent():
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that sizes are constants of a trace
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('spec', [spec for spec in SPECS if spec != 'mabn'])
def test_a_trace_is_of_every_image(spec, training):
    norm = make(spec).train(training)
    trace = torch.jit.trace(norm, images(), check_trace=False)
    x = images().requires_grad_()
    state = copy.deepcopy(norm.state_dict())
    grad = torch.randn(x.shape, dtype=x.dtype)
    expected = norm(x)
    wanted = torch.autograd.grad(expected, x, grad)
    trace.load_state_dict(state)
    y = trace(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad), wanted)


def test_a_gradient_of_its_own_is_not_traced():
    with pytest.raises(UserError, match=r'mabn: .* not traced in training; call eval'):
        torch.jit.trace(make('mabn'), images())


class Each(nn.Module):
    """What several norms make of the same images."""

    def __init__(self, norms: list[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [norm(x) for norm in self.norms]


def test_an_exported_program_is_of_every_image():
    each = Each([make(spec).float() for spec in SPECS]).eval()
    program = torch.export.export(each, (images().float(),)).module()
    x = images().float()
    torch.testing.assert_close(program(x), each(x))


@pytest.mark.parametrize('dynamo', [False, True])
def test_onnx_is_of_every_image(dynamo, tmp_path):
    path, x, specs = tmp_path / 'norms.onnx', images().float(), list(NODES) if dynamo else SPECS
    each = Each([make(spec).float() for spec in specs]).eval()
    opset = 21 if dynamo else 17
    torch.onnx.export(
        each, (images().float(),), path, dynamo=dynamo, opset_version=opset, verbose=False
    )
    session = onnxruntime.InferenceSession(path)
    (pixels,) = session.get_inputs()
    outputs = map(torch.from_numpy, session.run(None, {pixels.name: x.numpy()}))
    torch.testing.assert_close(list(outputs), each(x), rtol=1e-4, atol=1e-5)
    if dynamo:
        graph = onnx.load(path).graph
        outputs = dict(zip(NODES, (o.name for o in graph.output), strict=True))
        assert {spec: _nodes_to(graph, outputs[spec]) for spec in NODES} == NODES


def _nodes_to(graph: onnx.GraphProto, output: str) -> int:
    """How many nodes an output takes."""
    makers = {name: node for node in graph.node for name in node.output}
    found, wanted = {}, [output]
    while wanted:
        name = wanted.pop()
        if name in makers and name not in found:
            found[name] = makers[name]
            wanted += makers[name].input
    return len({id(node) for node in found.values()})
