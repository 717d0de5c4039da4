"""Vectors, sequences and volumes: norms of [N, C, *] against torch's own layers of that rank."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sbzoo import UserError, convert_norm
from sbzoo.norm import Norm, calibrate, reestimate
from sbzoo.norm.padding import Pictures
from sbzoo.norm.recompute import lean

C = 8
SHAPES = [(4, C), (4, C, 7), (4, C, 5, 6), (4, C, 3, 5, 6), (2, C, 2, 3, 2, 3)]
BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def pairs() -> list[tuple[str, nn.Module, tuple]]:
    """Specs, torch's layers and the shapes that both take."""
    found = [('bn', BATCH_NORMS[len(s)](C), s) for s in SHAPES if len(s) in BATCH_NORMS]
    found += [('fbn', BATCH_NORMS[len(s)](C).eval(), s) for s in SHAPES if len(s) in BATCH_NORMS]
    found += [
        ('in', INSTANCE_NORMS[len(s)](C, affine=True), s)
        for s in SHAPES
        if len(s) in INSTANCE_NORMS
    ]
    for shape in SHAPES:
        found += [('ln', nn.GroupNorm(1, C), shape), ('gn2', nn.GroupNorm(2, C), shape)]
    return found


@pytest.mark.parametrize(('spec', 'theirs', 'shape'), pairs())
def test_equal_torchs_own_layers_of_that_rank(spec, theirs, shape):
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    ours = Norm(C, spec)
    ours.load_state_dict(theirs.state_dict())
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
    our, their = ours(x), theirs(x)
    torch.testing.assert_close(our, their, rtol=1e-6, atol=2e-6)
    slopes = [torch.autograd.grad(y, x, grad)[0] for y in (our, their)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())  # running statistics too


@pytest.mark.parametrize('shape', [s for s in SHAPES if len(s) != 4])
@pytest.mark.parametrize('spec', ['hybrid', 'sn', 'rms', 'brn', 'bgn4', 'evos0', 'frn'])
def test_maps_are_images_of_as_many_pixels(spec, shape):
    if spec == 'frn' and len(shape) == 2:
        pytest.skip('of single values')
    layer = Norm(C, spec).double()
    x = torch.randn(shape, dtype=torch.double)
    images = x.flatten(2)[..., None] if len(shape) > 2 else x[..., None, None]
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(images).view(shape))


@pytest.mark.parametrize('shape', [s for s in SHAPES if len(s) != 4])
@pytest.mark.parametrize('spec', ['gn2', 'hybrid'])
def test_output_takes_an_inplace_relu_and_lean_gradients_are_the_same(spec, shape):
    model = nn.Sequential(Norm(C, spec), nn.ReLU(inplace=True), Norm(C, spec), nn.ReLU())
    x = torch.randn(shape, requires_grad=True)
    other = nn.Sequential(*(copy.deepcopy(model[i]) for i in (0, 2)))
    plain = torch.autograd.grad(F.relu(other[1](F.relu(other[0](x)))).square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(model(x).square().sum(), x)[0], plain)
    with lean(model):
        torch.testing.assert_close(torch.autograd.grad(model(x).square().sum(), x)[0], plain)
    for norm in other:
        norm.relu = True
    torch.testing.assert_close(torch.autograd.grad(other(x).square().sum(), x)[0], plain)


def test_channels_last_volumes_are_not_copied():
    x = torch.randn(2, C, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    layer = Norm(C, 'hybrid')
    y = copy.deepcopy(layer)(x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(y, layer(x.contiguous()))


def test_pictures_are_not_looked_for_in_vectors_and_volumes():
    layer = Norm(C, 'hybrid')
    layer.pictures = Pictures([(8, 8), (4, 8)], (8, 8))
    free = Norm(C, 'hybrid')
    for shape in ((2, C), (2, C, 8), (2, C, 8, 8, 8)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), free(x))


@pytest.mark.parametrize('spec', ['bn', 'syncbn', 'ghost2', 'brn', 'bgn8', 'hybrid(bn,in)'])
def test_one_vector_in_training_is_refused_as_by_torch(spec):
    x = torch.randn(1, C)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        nn.BatchNorm1d(C)(x)
    with pytest.raises(UserError, match=rf'norm {re.escape(repr(spec))} of \[1, {C}\]'):
        Norm(C, spec)(x)
    if 'in' not in spec:
        torch.testing.assert_close(Norm(C, spec).eval()(x), nn.BatchNorm1d(C).eval()(x))
    for taken in ('ln', 'gn2', 'hybrid', 'sn', 'bgn2'):
        assert Norm(C, taken)(x).isfinite().all()


def test_what_has_other_channels_or_none_is_refused():
    for shape in ((2, C + 1), (C,), (C, 5, 5)):
        with pytest.raises(UserError, match=rf'\[N, {C}, \*\], vectors, sequences, images'):
            Norm(C, 'gn2')(torch.randn(shape))


class UNet3d(nn.Module):
    """As MONAI's: convolutions of stride 2, a norm and PReLU each, and back with a skip."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 8, 3, 2, 1), norm(8), nn.PReLU())
        self.bottom = nn.Sequential(nn.Conv3d(8, 8, 3, 1, 1), norm(8), nn.PReLU())
        self.up = nn.Sequential(nn.ConvTranspose3d(16, 4, 2, 2), norm(4), nn.PReLU())

    def forward(self, x):
        x = self.down(x)
        return self.up(torch.cat([x, self.bottom(x)], 1))


class SegResBlock(nn.Module):
    """As MONAI's SegResNet: norms before the convolutions, as siblings of modules of them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, 8), nn.GroupNorm(2, 8)
        self.conv1, self.conv2 = (nn.Sequential(nn.Conv3d(8, 8, 3, padding=1)) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class Speech(nn.Module):
    """As the feature extractor of Wav2Vec2: one group norm, a channel a group."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer_norm = nn.Conv1d(1, 8, 5, 2, bias=False), nn.GroupNorm(8, 8)

    def forward(self, x):
        return F.gelu(self.layer_norm(self.conv(x)))


def projector() -> nn.Sequential:
    """As the heads of SimCLR, BYOL and VICReg over several devices."""
    head = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return nn.SyncBatchNorm.convert_sync_batchnorm(head)


NETWORKS = {
    'UNet with batch norm': (lambda: UNet3d(nn.BatchNorm3d), (2, 1, 8, 8, 8), nn.BatchNorm3d),
    'UNet with instance norm': (lambda: UNet3d(nn.InstanceNorm3d), (2, 1, 8, 8, 8), nn.BatchNorm3d),
    'SegResNet': (SegResBlock, (2, 8, 4, 4, 4), nn.BatchNorm3d),
    'Wav2Vec2': (Speech, (2, 1, 50), nn.BatchNorm1d),
    'SSL head': (projector, (4, 6), nn.BatchNorm1d),
}


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('spec', ['gn', 'hybrid', 'ln', 'fbn'])
def test_networks_of_other_ranks_are_converted_and_back(name, spec):
    build, shape, batch_norm = NETWORKS[name]
    model, x = build(), torch.randn(shape)
    original = copy.deepcopy(model)
    keys = [k for k in model.state_dict() if k.endswith(('weight', 'bias'))]
    record = convert_norm(model, spec)
    assert record.changed
    assert not record.left
    assert not convert_norm(model, spec).changed
    assert set(keys) <= set(model.state_dict())
    model(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    if spec == 'gn' and 'instance' not in name:  # which has no weight and bias
        assert calibrate(model, original, [x]).matches
    convert_norm(model, 'bn')
    norms = [m for m in model.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, Norm))]
    assert {type(norm) for norm in norms} == {batch_norm}
    assert model(x).isfinite().all()


def test_statistics_over_batches_of_volumes():
    model, x = nn.Sequential(Norm(C, 'hybrid')), torch.randn(6, C, 3, 4, 2)
    assert reestimate(model, x.split([1, 2, 3])) == ['0']
    torch.testing.assert_close(model[0].running_var, x.transpose(0, 1).flatten(1).var(1))
