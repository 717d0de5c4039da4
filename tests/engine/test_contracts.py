"""What MMDetection, mmcv and mmengine expect of a norm layer."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule, build_norm_layer, fuse_conv_bn, is_norm
from mmdet.models.backbones import ResNet
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.engine.optim import NormOptimWrapperConstructor
from sbzoo.norm import Norm

SPECS = ['gn8', 'in', 'ln', 'hybrid']


def resnet(spec: str, **kwargs) -> ResNet:
    return ResNet(
        depth=18,
        stem_channels=8,
        base_channels=8,
        norm_cfg=dict(type='Norm', spec=spec),
        **{'norm_eval': False, **kwargs},
    )


def norms(model: nn.Module) -> list[Norm]:
    return [m for m in model.modules() if isinstance(m, Norm)]


@pytest.mark.parametrize('spec', SPECS)
def test_built_from_a_norm_cfg(spec):
    name, layer = build_norm_layer(dict(type='Norm', spec=spec), 16, postfix=1)
    assert name == 'bn1'
    assert isinstance(layer, Norm)
    assert (layer.num_features, layer.spec, layer.eps) == (16, spec, 1e-5)


def test_eps_and_requires_grad_reach_the_layer():
    cfg = dict(type='Norm', spec='hybrid', eps=1e-3, requires_grad=False)
    layer = build_norm_layer(cfg, 16)[1]
    assert layer.eps == 1e-3
    assert not any(p.requires_grad for p in layer.parameters())
    x = torch.full((2, 16, 4, 4), 0.5)
    x[:, :, :2] = -0.5  # variance 1/4
    torch.testing.assert_close(layer(x), x / (0.25 + 1e-3) ** 0.5)


@pytest.mark.parametrize('cfg', [{}, dict(requires_grad=True), dict(requires_grad=False)])
def test_frozen_batch_norm_is_frozen_however_it_is_built(cfg):
    conv = ConvModule(3, 16, 3, norm_cfg=dict(type='Norm', spec='fbn', **cfg))
    theirs = ConvModule(3, 16, 3, norm_cfg=dict(type='BN'))
    conv.load_state_dict(theirs.state_dict(), strict=True)
    assert conv.state_dict().keys() == theirs.state_dict().keys()
    before = {key: value.clone() for key, value in conv.bn.state_dict().items()}
    optimizer = build_optim_wrapper(conv, _optimizer())
    optimizer.update_params(conv(torch.randn(2, 3, 8, 8)).sum())
    assert not torch.equal(conv.conv.weight, theirs.conv.weight)
    assert all(torch.equal(value, before[key]) for key, value in conv.bn.state_dict().items())


@pytest.mark.parametrize('spec', SPECS)
def test_known_as_a_norm_but_not_as_batch_norm(spec):
    layer = Norm(16, spec)
    assert is_norm(layer)
    assert not isinstance(layer, _BatchNorm)


@pytest.mark.parametrize('spec', SPECS)
def test_keys_are_those_of_a_batch_norm_checkpoint(spec):
    batch = ResNet(18, stem_channels=8, base_channels=8).state_dict()
    ours = resnet(spec).state_dict()
    own = {k for k in ours if k.endswith('alpha_logit')}
    missing = {k for k in batch if k not in ours}
    assert set(ours) - own <= set(batch)
    assert len(own) == (20 if spec == 'hybrid' else 0)
    assert bool(missing) == (spec != 'hybrid')  # per-sample norms keep no running statistics
    assert all('running_' in k or 'num_batches' in k for k in missing)


@pytest.mark.parametrize('spec', SPECS)
def test_weights_of_batch_norm_load_without_their_metadata(spec):
    """As from safetensors: what has no place is unexpected, and no more than that."""
    layer, batch = Norm(16, spec), nn.BatchNorm2d(16)
    nn.init.normal_(batch.weight)
    with_metadata = layer.load_state_dict(batch.state_dict(), strict=False)
    nn.init.zeros_(layer.weight)
    assert layer.load_state_dict(dict(batch.state_dict()), strict=False) == with_metadata
    assert torch.equal(layer.weight, batch.weight)
    old = {k: v for k, v in batch.state_dict().items() if k != 'num_batches_tracked'}
    missing = layer.load_state_dict(old, strict=False).missing_keys
    assert missing == (['alpha_logit'] if spec == 'hybrid' else [])  # of before torch 0.4.1


@pytest.mark.parametrize('spec', SPECS)
def test_weights_start_as_batch_norm_weights_do(spec):
    model = resnet(spec, init_cfg=None, zero_init_residual=True)
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, Norm):
            expected = 0.0 if name.endswith('.bn2') else 1.0  # the last of a residual branch
            assert (module.weight == expected).all(), name
            assert (module.bias == 0).all(), name
    conv = ConvModule(3, 16, 3, norm_cfg=dict(type='Norm', spec=spec))
    nn.init.zeros_(conv.bn.weight)
    conv.init_weights()
    assert (conv.bn.weight == 1).all()


def test_weight_decay_exemption():
    model = resnet('hybrid')
    wrapper = build_optim_wrapper(model, _optimizer(paramwise_cfg=dict(norm_decay_mult=0.0)))
    decay = {id(p): g['weight_decay'] for g in wrapper.optimizer.param_groups for p in g['params']}
    assert decay.keys() == {id(p) for p in model.parameters()}
    for module in model.modules():
        expected = 0.0 if isinstance(module, Norm) else 0.01
        assert all(decay[id(p)] == expected for p in module.parameters(recurse=False))


def _optimizer(**kwargs) -> dict:
    return dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01), **kwargs)


@pytest.mark.parametrize('kwargs', [{}, dict(paramwise_cfg=dict(bias_lr_mult=2.0))])
def test_alpha_has_its_own_learning_rate_and_no_decay_unasked(kwargs):
    model = resnet('hybrid')
    groups = build_optim_wrapper(model, _optimizer(**kwargs)).optimizer.param_groups
    alphas = {id(n.alpha_logit) for n in norms(model)}
    seen = {id(p) for g in groups for p in g['params']}
    assert seen == {id(p) for p in model.parameters()}
    assert sum(len(g['params']) for g in groups) == len(seen)
    for group in groups:
        for parameter in group['params']:
            if id(parameter) in alphas:
                assert group['lr'] == 0.1 * NormOptimWrapperConstructor.ALPHA_LR_MULT
                assert group['weight_decay'] == 0
            elif not kwargs:
                assert (group['lr'], group['weight_decay']) == (0.1, 0.01)


@pytest.mark.parametrize('optimizer', [dict(type='SGD', lr=0.1, momentum=0.9), dict(type='AdamW')])
def test_an_optimizer_saved_with_a_scalar_alpha_goes_on(optimizer):
    """As up to version 0.5."""
    x = torch.randn(2, 3, 8, 8)
    runs = []
    for _ in range(2):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), Norm(8, 'hybrid'))
        runs.append((model, build_optim_wrapper(model, dict(optimizer=optimizer))))
    (model, wrapper), (resumed, other) = runs
    wrapper.update_params(model(x).square().mean())
    weights, state = copy.deepcopy((model.state_dict(), wrapper.state_dict()))
    weights['1.alpha_logit'].squeeze_()
    moments = [t for each in state['state'].values() for t in each.values() if t.shape == (1,)]
    assert moments
    for moment in moments:
        moment.squeeze_()
    resumed.load_state_dict(weights)
    other.load_state_dict(state)
    for each, optim_wrapper in runs:
        optim_wrapper.update_params(each(x).square().mean())
    torch.testing.assert_close(resumed.state_dict(), model.state_dict())


def test_a_model_without_hybrid_norms_is_optimised_as_by_mmengine():
    groups = build_optim_wrapper(resnet('gn8'), _optimizer()).optimizer.param_groups
    assert [(g['lr'], g['weight_decay']) for g in groups] == [(0.1, 0.01)]


def test_norm_eval_leaves_running_statistics_learning():
    """MMDetection freezes what is a `_BatchNorm`; a hybrid goes on learning, and says so."""
    model = resnet('hybrid', norm_eval=True)
    model.train()
    assert all(n.training for n in norms(model))
    assert 'norm_eval' in Norm.__doc__


@pytest.mark.parametrize('spec', SPECS)
def test_frozen_stages_freeze_norms(spec):
    model = resnet(spec, frozen_stages=1)
    model.train()
    x = torch.randn(2, 3, 64, 64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sum(y.sum() for y in model(x)).backward()
    frozen, free = norms(nn.ModuleList([model.bn1, model.layer1])), norms(model.layer2)
    assert len(frozen) == 5
    assert all(not n.training and n.weight.grad is None for n in frozen)
    assert all(n.training and n.weight.grad is not None for n in free)
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert not any(k.startswith(('bn1', 'layer1')) for k in changed)
    assert bool(changed) == (spec == 'hybrid')  # the running statistics of the free stages


@pytest.mark.parametrize('spec', SPECS)
def test_not_fused_and_not_made_sync_batch_norm(spec):
    block = ConvModule(3, 16, 3, norm_cfg=dict(type='Norm', spec=spec)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = block(x)
    torch.testing.assert_close(fuse_conv_bn(block)(x), expected)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    assert isinstance(converted.bn, Norm)
    assert isinstance(revert_sync_batchnorm(block).bn, Norm)
