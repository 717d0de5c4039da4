"""`--norm` on models whose norms no `norm_cfg` reaches."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from sbzoo.engine.options.config import load_config, use_sbzoo
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.schedule import set_epochs
from sbzoo.engine.train import train
from sbzoo.norm import Norm
from sbzoo.norm.weight_std import ConvWS2d

# Ten batch norms of this pyramid are written into its code.
NECK = dict(
    type='NASFCOS_FPN',
    in_channels=[16, 32, 64, 128],
    out_channels=64,
    num_outs=3,
    norm_cfg=dict(type='BN'),
    _delete_=True,
)


def hard_coded(spec: str) -> Config:
    cfg = load_config('configs/retinanet_bn_b2.py')
    cfg.merge_from_dict(dict(model=dict(neck=NECK, backbone=dict(out_indices=(0, 1, 2, 3)))))
    set_norm(cfg, spec)
    return cfg


def test_norms_that_no_norm_cfg_reaches_are_turned():
    model = MODELS.build(hard_coded('hybrid').model)
    assert type(model).__name__ == 'RetinaNet'
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model.neck.adapt_convs[0].norm.spec == 'hybrid'
    assert not any('architecture' in key for key in model.state_dict())


def test_the_optimizer_has_the_alphas_of_all():
    cfg = hard_coded('hybrid')
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    optimised = {id(p) for group in groups for p in group['params']}
    assert {id(p) for p in model.parameters()} == optimised


def test_the_last_norm_asked_for_counts():
    cfg = hard_coded('gn')
    set_norm(cfg, 'ln')
    assert (cfg.model.type, cfg.model.architecture, cfg.model.norm) == (
        'WithNorm',
        'RetinaNet',
        'ln',
    )
    norms = [m for m in MODELS.build(cfg.model).modules() if isinstance(m, Norm)]
    assert {m.spec for m in norms} == {'ln'}


def test_capitals_do_not_matter():
    models = [MODELS.build(hard_coded(spec).model) for spec in ('GN +WS', 'gn+ws')]
    assert str(models[0]) == str(models[1])


def test_weight_standardisation_reaches_the_convolutions():
    model = MODELS.build(hard_coded('gn+ws').model)
    assert isinstance(model.backbone.conv1, ConvWS2d)
    assert isinstance(model.neck.adapt_convs[0].conv, ConvWS2d)
    assert type(model.bbox_head.retina_cls) is nn.Conv2d
    assert {m.spec for m in model.modules() if isinstance(m, Norm)} == {'gn'}


@pytest.mark.parametrize('name', ['swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'])
def test_layer_norms_of_tokens_stay(name):
    cfg = load_config(f'mmdet::{name}')
    set_norm(cfg, 'gn')
    backbone = MODELS.build(cfg.model).backbone
    assert {type(m) for n, m in backbone.named_modules() if 'norm' in n} == {nn.LayerNorm}


def small(cfg: Config, work_dir) -> Config:
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.indices = 12
    use_sbzoo(cfg)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    return cfg


def weights(runner: Runner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in runner.model.state_dict().items()}


def test_resumed_and_run_by_the_host_it_ends_the_same(digits, tmp_path):
    cfg = small(hard_coded('hybrid'), tmp_path / 'whole')
    set_epochs(cfg, 2)
    whole, _ = train(cfg)
    assert any(key.startswith('neck.fpn') and 'alpha_logit' in key for key in weights(whole))

    written = Config.fromfile(tmp_path / 'whole' / 'retinanet_bn_b2.py')
    written.work_dir, written.experiment_name = str(tmp_path / 'host'), 'host'
    host = Runner.from_cfg(written)  # as MMDetection's tools/train.py does
    host.train()

    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'resumed'), 'resumed'
    resumed, _ = train(cfg, resume=str(tmp_path / 'whole/epoch_1.pth'))
    for other in (host, resumed):
        torch.testing.assert_close(weights(other), weights(whole), rtol=0, atol=0)


def test_norms_of_another_library_stay_as_they_are_named():
    backbone = dict(type='mmpretrain.ConvNeXt', norm_cfg=dict(type='LN2d'))
    cfg = Config(dict(model=dict(type='FasterRCNN', backbone=dict(backbone))))
    set_norm(cfg, 'gn')
    assert cfg.model.backbone == backbone


def test_parts_are_looked_up_in_the_scope_of_the_config():
    cfg = hard_coded('gn')
    with DefaultScope.overwrite_default_scope('mmengine'):
        set_norm(cfg, 'in')
        assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    assert cfg.model.neck.norm_cfg.spec == 'in'
