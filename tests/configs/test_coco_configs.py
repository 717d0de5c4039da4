"""The full-scale configs: what their names promise, built on the meta device."""

import re
from copy import deepcopy
from functools import cache
from math import sqrt
from pathlib import Path

import mmdet
import mmengine
import pytest
import torch
import yaml
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.detection.preprocessing import check_preprocessing
from sbzoo.engine.options.config import load_config, set_scratch, use_sbzoo
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.scaling import set_lr
from sbzoo.engine.options.schedule import set_batch
from sbzoo.norm import Norm
from sbzoo.norm.key_names import with_own_names

FOLDER = Path('configs/coco')
NAME = re.compile(r'(?P<detector>\w+?)(_r50)?_(?P<norm>gn|gn_ws|in|ibn|hybrid|fbn)_b2')
CONFIGS = {p: NAME.fullmatch(p.stem) for p in sorted(FOLDER.glob('*.py')) if 'timm' not in p.stem}
TIMM = sorted(FOLDER.glob('retinanet_timm_*.py'))
SHIPPED = Path(mmdet.__file__).parent / '.mim' / 'configs'
WEIGHTS = dict(
    gn='open-mmlab://detectron/resnet50_gn',
    gn_ws='open-mmlab://jhu/resnet50_gn_ws',
    hybrid='torchvision://resnet50',
    fbn='torchvision://resnet50',
    ibn='https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth',
)


@pytest.fixture(scope='module', autouse=True)
def _read_metafiles_once():
    """mmengine parses all of MMDetection's 90 metafiles for each `mmdet::` base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.config.utils.load', cache(mmengine.fileio.load))
        yield


@cache
def read(path: Path) -> Config:
    return Config.fromfile(path)


def built(path: Path) -> nn.Module:
    cfg = read(path).model
    with torch.device('meta'):
        model = MODELS.build(cfg)
    model.data_preprocessor = MODELS.build(cfg.data_preprocessor)
    return model


def norms(part: nn.Module) -> set[str]:
    kinds = (Norm, nn.GroupNorm, nn.BatchNorm2d)
    layers = (m for m in part.modules() if isinstance(m, kinds))
    return {m.spec if isinstance(m, Norm) else type(m).__name__ for m in layers}


def test_every_detector_has_every_norm():
    found = {match.group('detector', 'norm') for match in CONFIGS.values()}
    detectors = {'retinanet', 'fcos', 'atss', 'faster_rcnn', 'mask_rcnn', 'cascade_rcnn'}
    wanted = {
        (detector, norm)
        for detector in (*detectors, 'rtmdet_tiny')
        for norm in ('gn', 'gn_ws', 'in' if detector == 'rtmdet_tiny' else 'ibn', 'hybrid', 'fbn')
    }
    assert found == wanted
    assert len(TIMM) == 4


def rate(path: Path) -> float:
    """The learning rate of two images: MMDetection's, by the rule of its optimizer."""
    if 'convnext' in path.stem:
        return 0.0001 * sqrt(2 / 16)
    rates = dict(retinanet=0.01 / 8, fcos=0.01 / 8, atss=0.01 / 8, rtmdet=0.004 * sqrt(2 / 256))
    return rates.get(path.stem.split('_')[0], 0.02 / 8)


@pytest.mark.parametrize('path', [*CONFIGS, *TIMM], ids=lambda p: p.stem)
def test_complete_for_two_images_a_step(path):
    cfg = read(path)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate(path))
    before = deepcopy(cfg.to_dict())
    use_sbzoo(cfg)
    assert cfg.to_dict() == before  # the tools add nothing


@pytest.mark.parametrize('batch', [1, 16])
@pytest.mark.parametrize('path', [*CONFIGS, *TIMM], ids=lambda p: p.stem)
def test_the_option_batch_scales_rate_and_warm_up_by_the_optimizer(path, batch):
    before, cfg = read(path), deepcopy(read(path))
    set_batch(cfg, batch)
    set_lr(cfg, 'auto')
    adam = before.optim_wrapper.optimizer.type == 'AdamW'
    factor = sqrt(batch / 2) if adam else batch / 2
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate(path) * factor)
    assert ('betas' in cfg.optim_wrapper.optimizer) == adam
    for old, new in zip(before.param_scheduler, cfg.param_scheduler, strict=True):
        by_epoch = old.get('by_epoch', True)
        assert new.end == (old.end if by_epoch else pytest.approx(old.end * 2 / batch, abs=0.5))
    assert cfg.model == before.model


@pytest.mark.parametrize('path', [*CONFIGS, *TIMM], ids=lambda p: p.stem)
def test_header(path):
    header = path.read_text()
    assert f'tools/train.py {path} --data DIR' in header
    assert 'Not trained here' in header
    aps, source = re.search(r'AP (.*?), .*\n# \(MMDetection, (\S+)\)\.', header).groups()
    assert [float(ap) for ap in re.findall(r'[\d.]+', aps)] == published_ap(source)
    lines = (FOLDER / 'README.md').read_text().splitlines()
    (row,) = (line for line in lines if f'`{source}`' in line)
    assert all(ap in row for ap in re.findall(r'[\d.]+', aps))


def published_ap(config: str) -> list[float]:
    """Box and mask AP of a config, in MMDetection's metafiles."""
    (text,) = (text for text in metafiles() if f'/{config}.py\n    Metadata' in text)
    (model,) = (m for m in yaml.safe_load(text)['Models'] if m['Config'].endswith(f'/{config}.py'))
    return [float(ap) for result in model['Results'] for ap in result['Metrics'].values()]


@cache
def metafiles() -> list[str]:
    return [path.read_text() for path in SHIPPED.glob('*/metafile.yml')]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_norms_and_weights(path):
    model, (detector, norm) = built(path), CONFIGS[path].group('detector', 'norm')
    own = dict(gn_ws='gn').get(norm, norm)
    is_standardised = norm == 'gn_ws'
    if detector == 'rtmdet_tiny':
        assert norms(model.backbone) == {own}
        assert norms(model.neck) == norms(model.bbox_head) == {'gn' if norm == 'fbn' else own}
    else:
        ibn = {'ibn', 'BatchNorm2d'}
        assert norms(model.backbone) == (ibn if norm == 'ibn' else {own})
        assert norms(model.neck) == {own if norm == 'hybrid' else 'gn'}
        assert norms(model) - norms(model.backbone) - norms(model.neck) <= {'gn'}
        assert model.backbone.init_cfg['checkpoint'] == WEIGHTS[norm]
        assert model.backbone.frozen_stages == (-1 if norm == 'hybrid' else 1)
        check_preprocessing(model)
    standardised = {n.split('.')[0] for n, m in model.named_modules() if isinstance(m, ConvWS2d)}
    heads = {'roi_head'} if 'rcnn' in detector else {'bbox_head'}
    assert standardised == ({'backbone', 'neck'} | heads if is_standardised else set())


@pytest.mark.parametrize(
    ('ours', 'published'),
    [
        ('mask_rcnn_r50_gn_b2', 'gn/mask-rcnn_r50_fpn_gn-all_2x_coco'),
        ('mask_rcnn_r50_gn_ws_b2', 'gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco'),
        ('faster_rcnn_r50_gn_ws_b2', 'gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco'),
    ],
)
def test_published_detectors_load_into_ours(ours, published):
    """The same keys, shapes, standardised convolutions and pixels."""
    cfg, published = read(FOLDER / f'{ours}.py'), load_config(f'mmdet::{published}.py')
    assert cfg.model.data_preprocessor == published.model.data_preprocessor
    ours = built(FOLDER / f'{ours}.py')
    with torch.device('meta'):
        theirs = MODELS.build(published.model)
    have, want = with_own_names(ours, theirs.state_dict()), ours.state_dict()
    assert {k: v.shape for k, v in have.items()} == {k: v.shape for k, v in want.items()}
    kinds = [
        {n: type(m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        for model in (ours, theirs)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize('path', TIMM, ids=lambda p: p.stem)
def test_timm_backbones(path):
    model = built(path)
    assert model.backbone.init_cfg == dict(type='TimmPretrained')
    assert model.backbone.out_channels == list(read(path).model.neck.in_channels)
    assert not any(isinstance(m, _BatchNorm) for m in model.modules())
    check_preprocessing(model)


@pytest.mark.parametrize('stem', ['retinanet_r50_gn_b2', 'retinanet_timm_resnet50_gn_b2'])
def test_norm_and_scratch_change_a_config(stem):
    cfg = Config.fromfile(FOLDER / f'{stem}.py')
    set_norm(cfg, 'ln')
    assert cfg.model.backbone.norm == 'ln'
    set_scratch(cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert norms(model) == {'ln'}
    assert all(p.requires_grad for p in model.parameters())
