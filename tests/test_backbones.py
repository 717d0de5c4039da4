"""Backbones: published keys, positions of norms, frozen stages."""

from copy import deepcopy
from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from sbzoo.backbones.resnet import NormResNet
from sbzoo.engine.recipe import set_norm
from sbzoo.errors import UserError
from sbzoo.norm import Norm
from sbzoo.norm.names import accept_published_names, with_own_names

SHIPPED = Path(mmdet.__file__).parent / '.mim' / 'configs'
GN = sorted(p for d in ('gn', 'gn+ws', 'scratch') for p in (SHIPPED / d).glob('*.py'))
SMALL = dict(stem_channels=32, base_channels=32)


def on_meta(cfg: dict) -> nn.Module:
    with torch.device('meta'):
        return MODELS.build(cfg)


def shapes(state_dict: dict) -> dict:
    return {k: tuple(v.shape) for k, v in state_dict.items()}


def native(depth: int = 18, **kwargs) -> ResNet:
    return ResNet(depth, norm_cfg=dict(type='GN', num_groups=32), **SMALL, **kwargs)


def randomise(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_all_of_them():
    assert len(GN) == 20


@pytest.mark.parametrize('path', GN, ids=lambda p: p.stem)
def test_every_published_gn_checkpoint_fits_strictly(path):
    """MMDetection's own model as shipped, the same with `--norm gn`, and our backbone in it."""
    cfg = Config.fromfile(path)
    backbone = deepcopy(cfg.model.backbone)
    published = on_meta(cfg.model)
    set_norm(cfg, 'gn')
    ours = on_meta(cfg.model)
    accept_published_names(ours)
    assert any('.gn' in key for key in published.state_dict())
    assert not any('.gn' in key for key in ours.state_dict())
    assert shapes(with_own_names(ours, published.state_dict())) == shapes(ours.state_dict())
    ours.load_state_dict(published.state_dict(), strict=True, assign=True)

    ws = backbone.pop('conv_cfg', {}).get('type') == 'ConvWS'
    del backbone['norm_cfg']
    ours = on_meta({**backbone, 'type': f'Norm{backbone.type}', 'norm': 'gn+ws' if ws else 'gn'})
    ours.load_state_dict(published.backbone.state_dict(), strict=True, assign=True)
    kinds = {type(m) for m in ours.modules() if isinstance(m, nn.Conv2d)}
    assert kinds == {ConvWS2d if ws else nn.Conv2d}


@pytest.mark.parametrize(('depth', 'ws'), [(18, ''), (50, ''), (50, '+ws')])
def test_published_weights_give_the_published_output(depth, ws):
    theirs = randomise(native(depth, conv_cfg=dict(type='ConvWS') if ws else None))
    ours = NormResNet(f'gn{ws}', depth=depth, **SMALL)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_renaming_is_by_position_and_no_less_strict():
    ours = NormResNet('gn', depth=18, **SMALL)
    state = native().state_dict()
    state['layer1.0.gn9.weight'] = state['layer1.0.gn1.weight']
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"layer1\.0\.gn9\.weight"\.'):
        ours.load_state_dict(state)
    state = native().state_dict()
    state['bn1.weight'] = torch.zeros(32)  # which of the two is meant?
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"gn1\.weight"\.'):
        ours.load_state_dict(state)
    own = ours.state_dict()
    assert with_own_names(ours, own) == own


def test_a_layer_called_gn_keeps_its_name():
    module = nn.Module()
    module.bn1, module.gn1 = Norm(32), nn.GroupNorm(4, 32)
    state = module.state_dict()
    assert with_own_names(module, state).keys() == state.keys()


def test_published_names_reach_copies_and_mmengine():
    theirs = randomise(native())
    ours = deepcopy(nn.ModuleDict(dict(backbone=NormResNet('gn', depth=18, **SMALL))))
    state = {f'backbone.{k}': v for k, v in theirs.state_dict().items()}
    load_state_dict(ours, state, strict=True)
    assert torch.equal(ours.backbone.bn1.weight, theirs.gn1.weight)


@pytest.mark.parametrize('depth', [18, 34, 50, 101])
@pytest.mark.parametrize('norm', ['gn', 'in', 'hybrid'])
def test_every_norm_of_every_depth_is_the_one_asked_for(depth, norm):
    net = on_meta(dict(type='NormResNet', norm=norm, depth=depth, base_channels=16))
    blocks, inside = {18: (8, 2), 34: (16, 2), 50: (16, 3), 101: (33, 3)}[depth]
    norms = [m for m in net.modules() if isinstance(m, Norm)]
    assert {m.spec for m in norms} == {norm}
    assert len(norms) == 1 + blocks * inside + (3 if depth < 50 else 4)
    assert net.feat_dim == 16 * 8 * (1 if depth < 50 else 4)


def test_unknown_norm():
    with pytest.raises(UserError, match='unknown norm'):
        NormResNet('nonsense', depth=18)
