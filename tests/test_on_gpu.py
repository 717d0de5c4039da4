"""On a GPU all is what it is on the CPU; `python -m pytest -m gpu` runs these tests."""

import copy
import warnings

import pytest
import torch
from benchmarks import clocks, norm
from benchmarks.fid import random_inception, write_images
from forks import tool
from mmcv import ops
from mmengine.optim import build_optim_wrapper
from small_detectors import CONFIGS, batch, build
from torch import nn

import sbzoo
from sbzoo.metrics.extractors.inception import Inception
from sbzoo.metrics.features import ImageFiles, extract_features
from sbzoo.norm import Norm, build_norm
from sbzoo.norm.padding import Pictures
from sbzoo.norm.recompute import make_lean

pytestmark = pytest.mark.gpu
DEVICE = torch.device('cuda')


@pytest.fixture(autouse=True)
def _whole_float32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else in convolutions
        yield


def assert_close(found, expected, tolerance):
    """Relative to the largest value; both are numbered, as gradients are."""
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.device.type == DEVICE.type
        error = (one.cpu().double() - other.double()).abs().max()
        assert error <= tolerance * other.double().abs().max().clamp(min=1e-6), number


def gradients(function, inputs, parameters=()):
    """The output, and the gradients of a random product with it."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    grad = rand(*y.shape).bfloat16().to(y)  # the same in any type
    return [y.detach(), *torch.autograd.grad(y, [*inputs, *parameters], grad)]


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('memory_format', norm.FORMATS.values())
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 2e-4), (torch.bfloat16, 4e-2)], ids=['f32', 'bf16']
)
@pytest.mark.parametrize('spec', norm.SPECS)
def test_norms(spec, dtype, tolerance, memory_format, padded):
    """By Triton's kernels, where they have passed their self-test: the CPU's in float64."""
    layer = build_norm(spec, 32)
    if padded and isinstance(layer, Norm):
        layer.pictures = Pictures([(17, 14), (12, 19)], (17, 19))
    x = torch.randn(2, 32, 17, 19).to(dtype)
    exact = copy.deepcopy(layer).double()
    expected = gradients(exact, [x.double()], parameters(exact))
    layer.to(DEVICE, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'Norms use')
        x = x.to(DEVICE).contiguous(memory_format=memory_format)
        found = gradients(layer, [x], parameters(layer))
    assert found[0].is_contiguous(memory_format=memory_format)
    compared = len(found) if dtype == torch.float32 else 2  # maps: sums of bfloat16 may cancel
    assert_close(found[:compared], expected[:compared], tolerance)


def parameters(layer):
    return [p for p in layer.parameters() if p.requires_grad]


BOXES = torch.tensor([[0, 0, 9, 9], [1, 1, 10, 9], [20, 5, 30, 30], [4, 4, 5, 5.0]])
ROIS = torch.cat([torch.tensor([[0.0], [1], [1], [0]]), BOXES], 1)
LABELS = torch.tensor([0, 3, 4, 1])  # 4 is background


OPERATORS = {
    'roi_align': lambda x: ops.RoIAlign(3, 0.5)(x, ROIS.to(x)),
    'roi_pool': lambda x: ops.RoIPool(3, 0.5)(x, ROIS.to(x)),
    'focal': lambda x: ops.sigmoid_focal_loss(
        x[0, :, :4, 0].contiguous(), LABELS.to(x.device), 2.0, 0.25, None, 'none'
    ),
    'deform': lambda x: ops.modulated_deform_conv2d(
        x, x.new_full((2, 18, 16, 16), 0.3), x.new_ones(2, 9, 16, 16), x[:, :, :3, :3], None, 1, 1
    ),
    'carafe': lambda x: ops.carafe(x, x.new_full((2, 9, 32, 32), 0.1), 3, 1, 2),
}


@pytest.mark.parametrize('name', OPERATORS)
def test_operators(name):
    x = rand(2, 4, 16, 16)
    expected = gradients(OPERATORS[name], [x])
    assert_close(gradients(OPERATORS[name], [x.to(DEVICE)]), expected, 1e-5)


def test_non_maximum_suppression():
    boxes, scores = BOXES.repeat(5, 1) + rand(20, 4).abs().cumsum(1), rand(20)
    for suppress in (ops.nms, ops.soft_nms):
        expected, kept = suppress(boxes, scores, 0.5)
        found, same = suppress(boxes.to(DEVICE), scores.to(DEVICE), 0.5)
        assert same.tolist() == kept.tolist()
        assert_close([found], [expected], 1e-5)


def losses(model, data):
    """All losses, and the gradients of their sum."""
    found = model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    total, logged = model.parse_losses(found)
    total.backward()
    return [*logged.values(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize('lean', [False, True])
@pytest.mark.parametrize('name', ['lean retinanet', *CONFIGS])
def test_detectors(name, lean):
    data, model = batch([3, 1], masks=name == 'mask'), build(name)
    expected = losses(copy.deepcopy(model), data)
    model = make_lean(model.to(DEVICE)) if lean else model.to(DEVICE)
    assert_close(losses(model, data), expected, 1e-2)


@pytest.mark.parametrize('name', ['retinanet', 'mask', 'rtmdet'])
def test_detectors_in_mixed_precision(name):
    """A lean step has finite losses, and they are those of float32 to a few percent."""
    data, model = batch([3, 1], masks=name == 'mask'), build(name)
    expected = losses(copy.deepcopy(model), data)[0]
    model = make_lean(model.to(DEVICE))
    sgd = dict(type='SGD', lr=0.0)
    wrapper = build_optim_wrapper(model, dict(type='AmpOptimWrapper', optimizer=sgd))
    found = model.train_step(copy.deepcopy(data), wrapper)
    assert found['loss'].item() == pytest.approx(expected.item(), rel=0.1)


def test_features(tmp_path):
    files = write_images(tmp_path / 'images', 4)
    with random_inception(tmp_path) as weights:
        network = Inception(weights)
        expected = extract_features(ImageFiles(files[0].parent), network, keep=True).each
        found = extract_features(ImageFiles(files[0].parent), network.to(DEVICE), keep=True).each
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize('card', ['dcgan_gn_b2', 'sngan_hybrid_b2', 'r3gan_b8'])
def test_samples_of_a_seed(card):
    """`load` puts a model on the GPU; an image comes from its seed alone, on any device."""
    model = sbzoo.load(card).model
    labels = torch.arange(2) if model.sampler.num_classes else None
    found = model.sample([3, 4], labels)
    assert_close([found], [model.cpu().sample([3, 4], labels)], 1e-2)


@pytest.mark.parametrize('config', ['retinanet_hybrid_b2', 'r3gan_b8', 'cyclegan_in_b1'])
def test_a_training_and_its_resumption(config, tmp_path):
    images = 'train_dataloader.dataset.indices=48'
    train = 'train', f'configs/{config}.py', '--work-dir', tmp_path, '--cfg-options', images
    for epochs in (1, 2):
        ended = tool(*train, '--epochs', epochs, *(['--resume'] if epochs > 1 else []))
        assert ended.status == 0, ended.errors
    assert (tmp_path / 'epoch_2.pth').exists()


def test_clocks_and_peak():
    """A GPU that sleeps takes as long by both clocks; weights add their bytes."""
    torch.zeros(1, device=DEVICE)
    times = [clock(lambda: torch.cuda._sleep(10**7)) for clock in (clocks.wall, clocks.kernels)]
    assert times[0] == pytest.approx(times[1], rel=0.2)
    assert clocks.cost(lambda: nn.Linear(2**10, 2**10, device=DEVICE), DEVICE).peak >= 2**22
