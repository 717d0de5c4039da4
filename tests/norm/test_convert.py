"""Turning the norms of models that are built already."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from mmcv.cnn.bricks.conv_ws import ConvAWS2d
from mmcv.cnn.bricks.conv_ws import ConvWS2d as MMConvWS2d
from mmcv.ops import SyncBatchNorm as MMSyncBatchNorm
from mmdet.models.dense_heads import RTMDetSepBNHead
from mmdet.models.layers import FrozenBatchNorm2d as MMFrozenBatchNorm2d
from timm.layers import (
    BatchNormAct2d,
    EvoNorm2dB0,
    EvoNorm2dS0,
    FilterResponseNormTlu2d,
    GroupNormAct,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torchvision.ops import FrozenBatchNorm2d

from sbzoo import UserError, convert_norm
from sbzoo.norm import Norm
from sbzoo.norm.weight_std import ConvWS2d

ONE_RANK = SimpleNamespace(size=lambda: 1)  # a process group of one
IMAGE_NORMS = [
    lambda: nn.BatchNorm2d(8, eps=1e-3),
    lambda: nn.SyncBatchNorm(8, eps=1e-3),
    lambda: MMSyncBatchNorm(8, eps=1e-3, group=ONE_RANK),
    lambda: nn.InstanceNorm2d(8, eps=1e-3, affine=True),
    lambda: nn.InstanceNorm2d(8, eps=1e-3),
    lambda: nn.GroupNorm(2, 8, eps=1e-3),
    lambda: FrozenBatchNorm2d(8, eps=1e-3),
    lambda: MMFrozenBatchNorm2d(8, eps=1e-3),
    lambda: BatchNormAct2d(8, eps=1e-3, apply_act=False),
    lambda: GroupNormAct(8, 2, eps=1e-3, apply_act=False),
    lambda: FilterResponseNormTlu2d(8, eps=1e-3, apply_act=False),
    lambda: Norm(8, 'ln', eps=1e-3),
]


def name_of(build) -> str:
    return type(build()).__module__ + '.' + type(build()).__name__


def randomised(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in norm.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return norm


@pytest.mark.parametrize('build', IMAGE_NORMS, ids=name_of)
def test_every_image_norm_computes_what_the_spec_says_with_its_own_affine(build):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), randomised(build())).double()
    weight, bias = getattr(model[1], 'weight', None), getattr(model[1], 'bias', None)
    x = torch.randn(2, 3, 5, 5, dtype=torch.double)
    record = convert_norm(model, 'gn4')
    assert record.model is model
    expected = F.group_norm(model[0](x), 4, weight, bias, eps=1e-3)
    torch.testing.assert_close(model(x), expected)
    assert not record.left
    assert [(c.name, c.new) for c in record.changed] == [('1', 'gn4')]


def test_tensors_and_settings_are_kept():
    norm = randomised(nn.BatchNorm2d(8, eps=1e-3, momentum=0.2)).double().eval()
    norm.bias.requires_grad_(False)
    old = dict(norm.state_dict(keep_vars=True))
    model = nn.Sequential(norm)
    convert_norm(model, 'hybrid')
    new = model[0].state_dict(keep_vars=True)
    assert all(new[key] is old[key] for key in ('weight', 'bias'))
    assert all(new[key].data_ptr() == old[key].data_ptr() for key in old)
    assert [k for k in new if k not in old] == ['alpha_logit']
    assert new['alpha_logit'].dtype == torch.double
    assert (model[0].eps, model[0].momentum, model[0].training) == (1e-3, 0.2, False)
    assert new['weight'].requires_grad
    assert not new['bias'].requires_grad


def test_what_counts_padding_goes_on_to():
    kept = convert_norm(Norm(8, 'gn2', count_padding=True), 'ln').model
    left_out = convert_norm(Norm(8, 'gn2'), 'ln').model
    assert (kept.count_padding, left_out.count_padding) == (True, False)
    assert isinstance(convert_norm(kept, 'bn').model, nn.BatchNorm2d)


def test_alpha_at_one_is_the_batch_norm_that_was_replaced():
    norm = randomised(nn.BatchNorm2d(8)).eval()
    x = torch.randn(2, 8, 5, 5)
    expected = norm(x)
    hybrid = convert_norm(norm, 'hybrid').model
    nn.init.constant_(hybrid.alpha_logit, 30.0)
    torch.testing.assert_close(hybrid(x), expected)


@pytest.mark.parametrize(('spec', 'end'), [('hybrid', 'ln'), ('hybrid(gn2,bn)', 'gn2')])
def test_a_hybrid_of_trained_batch_norm_starts_at_99_hundredths_of_it(spec, end):
    trained = randomised(nn.BatchNorm2d(8)).eval()
    other = convert_norm(copy.deepcopy(trained), end).model
    x = torch.randn(2, 8, 5, 5)
    mean, var = (
        0.99 * running[:, None, None] + 0.01 * _statistic_of_groups(x, statistic, other.pool.groups)
        for running, statistic in ((trained.running_mean, torch.mean), (trained.running_var, _var))
    )
    weight, bias = trained.weight[:, None, None], trained.bias[:, None, None]
    expected = (x - mean) / (var + trained.eps).sqrt() * weight + bias
    record = convert_norm(trained, spec)
    assert 'starts at 0.99 of its trained batch norm' in str(record)
    torch.testing.assert_close(record.model(x), expected)


def _statistic_of_groups(x, statistic, groups):
    by_group = statistic(x.unflatten(1, (groups, -1)), dim=(2, 3, 4))
    return by_group.repeat_interleave(x.shape[1] // groups, 1)[..., None, None]


def _var(x, dim):
    return x.var(dim, correction=0)


def test_a_switchable_norm_of_trained_batch_norm_starts_at_99_hundredths_of_it():
    switch = convert_norm(randomised(nn.BatchNorm2d(8)), 'sn').model
    expected = torch.tensor([0.005, 0.005, 0.99])
    torch.testing.assert_close(switch.mean_logits.softmax(0), expected)
    torch.testing.assert_close(switch.var_logits.softmax(0), expected)


@pytest.mark.parametrize(
    ('norm', 'spec'),
    [
        (nn.BatchNorm2d(8), 'hybrid'),
        (nn.BatchNorm2d(8, device='meta'), 'hybrid'),
        (randomised(nn.BatchNorm2d(8)), 'hybrid(bn,running)'),
        (randomised(Norm(8, 'hybrid')), 'hybrid(bn,in)'),
        (nn.GroupNorm(2, 8), 'hybrid'),
    ],
    ids=['untrained', 'meta', 'batch norm at both ends', 'a hybrid', 'a norm without statistics'],
)
def test_a_hybrid_of_anything_else_starts_at_a_half(norm, spec):
    record = convert_norm(norm, spec)
    assert 'starts at' not in str(record)
    assert record.model.alpha_logit.is_meta or record.model.alpha == 0.5


def test_a_hybrid_that_loads_a_trained_batch_norm_starts_near_it():
    trained, hybrid = randomised(nn.BatchNorm2d(8)), Norm(8, 'hybrid')
    missing = hybrid.load_state_dict(trained.state_dict(), strict=False).missing_keys
    assert missing == ['alpha_logit']
    torch.testing.assert_close(hybrid.alpha, torch.tensor(0.99))
    other = randomised(Norm(8, 'hybrid'))
    hybrid.load_state_dict(other.state_dict())
    assert hybrid.alpha == other.alpha


class BatchNormReLU(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class GroupNormActivation(nn.GroupNorm):
    """As that of transformers' BiT."""

    def __init__(self, groups, channels):
        super().__init__(groups, channels)
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(super().forward(x))


class ConditionalNorm(nn.InstanceNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.embed = nn.Embedding(3, channels)


class BatchNorm2d(nn.Module):
    """Called as torch's, by somebody else."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(x).tanh()


class SlowNorm(Norm):
    def forward(self, x):
        return super().forward(x) / 2


class TemperedNorm(Norm):
    def __init__(self, *args):
        super().__init__(*args)
        self.temperature = nn.Parameter(torch.ones(()))


def patched() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    norm.forward = lambda x: x
    return norm


@pytest.mark.parametrize(
    ('layer', 'reason'),
    [
        (BatchNormReLU(8), 'forward of its own'),
        (GroupNormActivation(2, 8), 'forward of its own'),
        (SlowNorm(8, 'ln'), 'forward of its own'),
        (patched(), 'forward of its own'),
        (BatchNorm2d(8), 'buffers of its own'),
        (TemperedNorm(8, 'hybrid'), 'parameters or buffers of its own'),
        (ConditionalNorm(8), 'parameters or buffers of its own'),
        (timm.layers.SplitBatchNorm2d(8), 'parameters or buffers of its own'),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize('spec', ['gn2', 'bn'])
def test_what_does_more_than_its_base_is_left(layer, reason, spec):
    record = convert_norm(nn.Sequential(layer, nn.BatchNorm1d(8)), spec)
    assert record.model[0] is layer
    assert [left.name for left in record.left] == ['0']
    assert reason in record.left[0].reason


class TwoGroups(nn.GroupNorm):
    """As PoolFormerGroupNorm of transformers: another constructor alone."""

    def __init__(self, channels):
        super().__init__(2, channels)


class OtherName(Norm):
    """A norm of sbzoo by another name."""


@pytest.mark.parametrize(
    'build',
    [
        lambda: TwoGroups(8),
        lambda: timm.layers.GroupNorm1(8),
        *(
            lambda spec=spec: OtherName(8, spec)
            for spec in ('hybrid', 'sn', 'mabn', 'frn', 'evos0')
        ),
    ],
    ids=lambda build: str(build()),
)
def test_what_is_its_base_by_another_name_is_replaced(build):
    model = nn.Sequential(build())
    assert not convert_norm(model, 'gn4').left
    assert model[0].spec == 'gn4'


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.BatchNorm2d(8), 'weight', amount=0.5)


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.GroupNorm(2, 8), dim=None)


def parametrized() -> nn.Module:
    norm = Norm(8, 'hybrid')
    nn.utils.parametrize.register_parametrization(norm, 'bias', nn.Softplus())
    return norm


@pytest.mark.parametrize('build', [pruned, weight_normed, parametrized])
def test_computed_weights_are_left_to_train(build):
    model = nn.Sequential(build())
    norm, names = model[0], [name for name, _ in model.named_parameters()]
    record = convert_norm(model, 'ln')
    assert model[0] is norm
    assert [name for name, _ in model.named_parameters()] == names
    assert 'is computed' in record.left[0].reason


def frozen_batch_norm(name: str, eps: float | None = None) -> nn.Module:
    """As in the repository of DETR, and under a name of its own in each of its descendants."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        for key in ('weight', 'bias', 'running_mean', 'running_var'):
            self.register_buffer(key, torch.rand(8) + 0.5)
        if eps is not None:
            self.eps = eps

    def forward(self, x):
        scale = self.weight * (self.running_var + (eps or 1e-5)).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    return type(name, (nn.Module,), dict(__init__=__init__, forward=forward))()


@pytest.mark.parametrize('name', ['FrozenBatchNorm2d', 'RTDetrFrozenBatchNorm2d'])
@pytest.mark.parametrize('eps', [None, 1e-2])
def test_frozen_batch_norm_is_known_by_its_buffers(name, eps):
    norm, x = frozen_batch_norm(name, eps), torch.randn(2, 8, 4, 4)
    expected = norm(x)
    record = convert_norm(norm, 'fbn')
    torch.testing.assert_close(record.model(x), expected)
    torch.testing.assert_close(convert_norm(record.model, 'bn').model.eval()(x), expected)
    grouped = convert_norm(frozen_batch_norm(name, eps), 'gn2').model
    own = F.group_norm(x, 2, grouped.weight, grouped.bias, eps or 1e-5)
    torch.testing.assert_close(grouped(x), own)


def test_frozen_batch_norm_with_more_than_four_buffers_is_left():
    norm = frozen_batch_norm('FrozenBatchNorm2d')
    norm.register_buffer('mask', torch.ones(8))
    assert 'buffers of its own' in convert_norm(norm, 'gn').left[0].reason
    norm = frozen_batch_norm('FrozenBatchNorm2d')
    del norm.running_var
    assert 'forward of its own' in convert_norm(norm, 'gn').left[0].reason


def test_frozen_batch_norm_keeps_its_weights_frozen():
    norm = convert_norm(randomised(FrozenBatchNorm2d(8)), 'gn4').model
    assert [p.requires_grad for p in norm.parameters()] == [False, False]


def test_replaced_by_frozen_batch_norm_it_has_the_same_tensors_and_learns_no_more():
    norm = randomised(nn.BatchNorm2d(8)).eval()
    old, x = dict(norm.state_dict()), torch.randn(2, 8, 5, 5)
    expected = norm(x)
    frozen = convert_norm(norm, 'fbn').model
    assert not list(frozen.parameters())
    assert {k: v.data_ptr() for k, v in frozen.state_dict().items()} == {
        k: v.data_ptr() for k, v in old.items()
    }
    torch.testing.assert_close(frozen.train()(x), expected)
    again = convert_norm(frozen, 'gn4').model
    assert [p.requires_grad for p in again.parameters()] == [False, False]


def test_a_norm_that_is_the_model_is_returned():
    norm = nn.BatchNorm2d(8)
    record = convert_norm(norm, 'gn')
    assert isinstance(record.model, Norm)
    assert 'the model itself' in str(record)


def test_channels_without_32_groups_get_the_nearest_number():
    model = nn.Sequential(*(nn.BatchNorm2d(c) for c in (1, 7, 30, 96)))
    convert_norm(model, 'gn')
    assert [n.pool.groups for n in model] == [1, 1, 15, 32]


def test_a_layer_in_two_places_stays_one():
    norm = nn.BatchNorm2d(8)
    block = nn.Sequential(nn.Conv2d(8, 8, 1), norm)
    model = nn.ModuleDict(dict(first=block, again=block, other=nn.Sequential(norm)))
    record = convert_norm(model, 'gn')
    assert [c.name for c in record.changed] == ['first.1']
    assert model.first is model.again
    assert model.first[1] is model.other[0]
    assert isinstance(model.first[1], Norm)


def test_convolutions_shared_over_levels_stay_shared_with_a_norm_for_each():
    head = RTMDetSepBNHead(
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16]),
    )
    convert_norm(head, 'hybrid+ws')
    first, second = (convs[0] for convs in head.cls_convs)
    assert first.conv is second.conv
    assert isinstance(first.conv, ConvWS2d)
    assert first.norm is not second.norm
    assert {first.norm.spec, second.norm.spec} == {'hybrid'}


class Deimv2RMSNorm(nn.Module):
    """As each model of transformers has one, under a name of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))


@pytest.mark.parametrize(
    ('layer', 'reason'),
    [
        (nn.LayerNorm(8), 'per pixel'),
        (Deimv2RMSNorm(), 'per pixel'),
        (timm.layers.LayerNorm2d(8), 'per pixel'),
        (timm.layers.LayerNormAct2d(8), 'per pixel'),
        (timm.layers.RmsNorm2d(8), 'per pixel'),
        (nn.RMSNorm(8), 'per pixel'),
        (nn.LazyBatchNorm2d(), 'lazy'),
        (EvoNorm2dB0(8, apply_act=False), 'scales and shifts'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_norm_of_images_is_kept_with_the_reason(layer, reason):
    model = nn.Sequential(layer, nn.BatchNorm2d(8))
    record = convert_norm(model, 'gn')
    assert model[0] is layer
    assert [(kind.name, kind.kind) for kind in record.left] == [('0', type(layer).__name__)]
    assert reason in record.left[0].reason
    assert f'{type(layer).__name__} left, {record.left[0].reason}: 0' in str(record)
    assert isinstance(model[1], Norm)


def test_an_unknown_kind_is_kept_and_named():
    class StrangeNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

    record = convert_norm(nn.Sequential(StrangeNorm()), 'gn')
    assert 'not known' in record.left[0].reason


def test_capitals_and_blanks_do_not_matter():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert not convert_norm(model, 'BN').changed
    convert_norm(model, ' GN4 + WS')
    assert model[1].spec == 'gn4'
    assert isinstance(model[0], ConvWS2d)
    assert not convert_norm(model, 'gn4+ws').changed


def test_frozen_norms_are_kept_on_request():
    model = torchvision.models.resnet18()
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    record = convert_norm(model, 'gn', keep_frozen=True)
    assert {kind.name.split('.')[0] for kind in record.left} == {'layer1'}
    assert {kind.reason for kind in record.left} == {'frozen'}
    assert all(isinstance(m, nn.BatchNorm2d) for n, m in model.named_modules() if n in LAYER1)
    assert len(record.changed) == 20 - len(LAYER1)
    assert len(convert_norm(model, 'gn').changed) == len(LAYER1)


LAYER1 = [f'layer1.{block}.bn{i}' for block in (0, 1) for i in (1, 2)]
MODELS = ['test_efficientnet', 'test_efficientnet_gn', 'test_efficientnet_evos', 'test_resnet']


@pytest.mark.parametrize('spec', ['gn', 'hybrid', 'bn', 'gn+ws', 'fbn', 'evos0', 'mabn'])
@pytest.mark.parametrize('name', MODELS)
def test_conversion_is_idempotent_and_its_state_loads_strictly(name, spec):
    first, second = timm.create_model(name), timm.create_model(name)
    before = set(first.state_dict())
    record = convert_norm(first, spec)
    assert not convert_norm(first, spec).changed
    convert_norm(second, spec).model.load_state_dict(first.state_dict(), strict=True)
    after = set(first.state_dict())
    assert before - after == {f'{c.name}.{key}' for c in record.changed for key in c.dropped}
    assert after - before == {f'{c.name}.{key}' for c in record.changed for key in c.added}
    assert {k for k in before if k.endswith(('weight', 'bias'))} <= after
    x = torch.randn(2, 3, 64, 64)
    for model in (first, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        torch.testing.assert_close(model.eval()(x), second.eval()(x))


@pytest.mark.parametrize('name', ['resnetv2_50d_gn', 'resnetv2_50d_frn', 'resnetv2_50d_evos'])
def test_large_models_on_the_meta_device(name):
    with torch.device('meta'):
        model = timm.create_model(name)
    record = convert_norm(model, 'hybrid')
    assert len(record.changed) == 51
    assert all(p.is_meta for p in model.parameters())


def test_activation_and_dropout_inside_a_norm_are_still_applied():
    norm = BatchNormAct2d(8, act_layer=nn.PReLU, drop_layer=lambda: nn.Dropout(1.0))
    x = torch.randn(2, 8, 4, 4)
    model = nn.Sequential(norm)
    assert convert_norm(model, 'in').changed[0].added == ()
    assert (model(x) == 0).all()
    expected = F.prelu(F.instance_norm(x), norm.act.weight)
    torch.testing.assert_close(model.eval()(x), expected)
    convert_norm(model, 'bn')
    torch.testing.assert_close(model(x), F.prelu(x / (1 + 1e-5) ** 0.5, norm.act.weight))


def test_a_relu_inside_a_norm_is_fused():
    x = torch.randn(2, 8, 4, 4)
    norm = convert_norm(BatchNormAct2d(8), 'in').model
    torch.testing.assert_close(norm(x), F.relu(F.instance_norm(x)))
    assert norm.relu
    assert not list(norm.children())
    batch = convert_norm(norm, 'bn').model.eval()
    assert isinstance(batch, nn.BatchNorm2d)
    torch.testing.assert_close(batch(x), F.relu(x / (1 + 1e-5) ** 0.5))


@pytest.mark.parametrize('spec', ['gn', 'hybrid', 'bn'])
def test_hooks_are_those_of_the_new_layer_and_their_handles_remove_them(spec):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Norm(8, 'in') if spec == 'bn' else nn.BatchNorm2d(8))
    seen = []
    handles = [
        model[1].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args), with_kwargs=True
        ),
        model[1].register_forward_hook(lambda _, args, y: y * 0),
        model[1].register_full_backward_hook(lambda *_: seen.append('backward')),
    ]
    convert_norm(model, spec)
    y = model(torch.randn(2, 3, 6, 6))
    assert len(seen) == 1
    assert (y == 0).all()
    y.sum().backward()
    assert seen[1:] == ['backward']
    for handle in handles:
        handle.remove()
    y = model(torch.randn(2, 3, 6, 6))
    assert y.abs().max() > 0
    y.sum().backward()
    assert len(seen) == 2


def test_hooks_see_what_the_activation_inside_a_norm_returns():
    model, seen = nn.Sequential(BatchNormAct2d(8, act_layer=nn.PReLU)), []
    model[0].register_forward_hook(lambda _, args, y: seen.append(y))
    x = torch.randn(2, 8, 4, 4)
    for spec in ('in', 'ln', 'frn', 'in'):  # frn has an activation of its own
        convert_norm(model, spec)
        y = model(x)
        assert torch.equal(seen.pop(), y)
        assert not seen
    torch.testing.assert_close(y, F.relu(F.instance_norm(x)))


@pytest.mark.parametrize('spec', ['gn+ws', 'bn'])
def test_a_hook_of_a_standardised_convolution_stays(spec):
    model, seen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8)), []
    model[0].register_forward_hook(lambda *_: seen.append('conv'))
    convert_norm(model, spec)
    model(torch.randn(2, 3, 6, 6))
    assert seen == ['conv']


@pytest.mark.parametrize(
    ('theirs', 'spec'),
    [(FilterResponseNormTlu2d(64, eps=1e-6), 'frn'), (EvoNorm2dS0(64, groups=32), 'evos0')],
    ids=['frn', 'evos0'],
)
def test_norms_with_an_activation_become_ours_and_compute_the_same(theirs, spec):
    randomised(theirs)
    x = torch.randn(2, 64, 6, 6)
    expected = theirs(x)
    ours = convert_norm(theirs, spec).model
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    assert not list(ours.children())


def test_a_norm_with_an_activation_takes_the_place_of_one_inside_a_norm():
    frn = convert_norm(BatchNormAct2d(8, act_layer=nn.SiLU), 'frn').model
    assert not list(frn.children())


def test_thresholds_and_the_silu_of_evonorm_are_still_applied():
    x = torch.randn(2, 8, 4, 4)
    frn = FilterResponseNormTlu2d(8)
    nn.init.uniform_(frn.tau)
    expected = F.instance_norm(x).maximum(frn.tau[:, None, None])
    torch.testing.assert_close(convert_norm(frn, 'in').model(x), expected)
    evo = convert_norm(EvoNorm2dB0(8), 'in').model
    torch.testing.assert_close(evo(x), F.silu(F.instance_norm(x, eps=1e-3)))
    for spec, act in (('frn', nn.ReLU()), ('evos0', nn.SiLU())):
        norm = convert_norm(Norm(8, spec), 'in').model
        torch.testing.assert_close(norm(x), act(F.instance_norm(x)))


@pytest.mark.parametrize('kwargs', [{}, dict(stride=2, padding=1), dict(groups=2, bias=False)])
def test_weight_standardisation_is_that_of_mmcv(kwargs):
    conv = nn.Conv2d(4, 6, 3, **kwargs).double()
    theirs = MMConvWS2d(4, 6, 3, **kwargs).double()
    theirs.load_state_dict(conv.state_dict())
    ours = ConvWS2d.like(conv)
    assert ours.weight is conv.weight
    x = torch.randn(2, 4, 7, 7, dtype=torch.double)
    torch.testing.assert_close(ours(x), theirs(x))
    grads = [torch.autograd.grad(c(x).square().sum(), c.weight)[0] for c in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_which_convolutions_are_standardised():
    block = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),  # depthwise
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 5, 1),  # an output: no norm of 5 channels
    )
    model = nn.ModuleList([block, nn.Sequential(nn.Conv2d(8, 8, 1))])
    record = convert_norm(model, 'gn+ws')
    standardised = [name for name, m in model.named_modules() if isinstance(m, ConvWS2d)]
    assert standardised == ['0.0']
    assert [c.name for c in record.changed] == ['0.1', '0.3', '0.0']
    assert not convert_norm(model, 'gn+ws').changed
    convert_norm(model, 'in')
    assert isinstance(model[0][0], ConvWS2d)
    again = nn.Sequential(nn.Conv2d(3, 8, 3), Norm(8, 'gn'))
    assert [c.new for c in convert_norm(again, 'gn+ws').changed] == ['ConvWS2d']


@pytest.mark.parametrize('kind', [MMConvWS2d, ConvAWS2d, timm.layers.StdConv2d])
def test_convolutions_that_are_standardised_already_are_not_spoken_of(kind):
    model = nn.Sequential(kind(3, 8, 3), Norm(8, 'gn'))
    record = convert_norm(model, 'gn+ws')
    assert (record.changed, record.left) == ([], [])
    assert type(model[0]) is kind


def test_convolutions_with_a_forward_of_their_own_are_kept():
    padded = timm.layers.Conv2dSame(3, 8, 3)
    record = convert_norm(nn.Sequential(padded, nn.BatchNorm2d(8)), 'gn+ws')
    assert [(x.name, x.kind) for x in record.left] == [('0', 'Conv2dSame')]
    assert 'a forward of its own' in str(record)


def test_the_record_is_short():
    text = str(convert_norm(timm.create_model('resnet18'), 'gn'))
    assert text.splitlines() == [
        'norm gn: 20 layers replaced, 0 left',
        '    20 BatchNorm2d -> gn: bn1 ... layer4.1.bn2',
    ]


def test_an_unknown_spec_lists_the_known_and_changes_nothing():
    model = nn.Sequential(nn.BatchNorm2d(8))
    with pytest.raises(UserError, match=r"unknown norm 'gnn'[\s\S]*hybrid"):
        convert_norm(model, 'gnn')
    assert isinstance(model[0], nn.BatchNorm2d)


def test_a_model_without_norms_is_an_error():
    with pytest.raises(UserError, match='Linear has no norm'):
        convert_norm(nn.Linear(2, 2), 'gn')
