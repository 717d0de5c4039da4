"""Backbones: published keys, positions of norms, frozen stages."""

import pickle
import re
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import mmdet
import pytest
import timm
import torch
import torchvision
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from safetensors.torch import save_file
from torch import nn

from sbzoo.checkpoint.io import check_fit, load
from sbzoo.detection.preprocessing import (
    CAFFE2,
    CHECKPOINTS,
    TORCHVISION,
    Preprocessing,
    check_preprocessing,
)
from sbzoo.detection.resnet import NormResNet
from sbzoo.detection.timm import TimmBackbone, TimmPretrained
from sbzoo.engine.options.norm import set_norm
from sbzoo.errors import UserError
from sbzoo.norm import Norm
from sbzoo.norm.convert import convert_norm
from sbzoo.norm.key_names import accept_published_names, with_own_names

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


def architecture(path: Path) -> str:
    """What the keys and shapes of a detector depend on; schedules and pretrained weights do not."""
    model = Config.fromfile(path).model
    model.pop('data_preprocessor')
    model.backbone.pop('init_cfg')
    return str(model.to_dict())


DISTINCT = {architecture(path): path for path in GN}.values()


def test_published_gn_configs():
    assert (len(GN), len(DISTINCT)) == (20, 12)


@pytest.mark.parametrize('path', DISTINCT, ids=lambda p: p.stem)
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
    ours = NormResNet(f'gn32{ws}', depth=depth, **SMALL)
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


class Halves(nn.Module):
    """The norm of IBN-Net (arXiv 1807.09441) as its checkpoints have it."""

    def __init__(self, channels):
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x):
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


class AddThenNormalise(nn.ReLU):
    """The last ReLU of a block of torchvision; the third call is the one after the addition."""

    def __init__(self, norm, calls):
        super().__init__()
        self.norm, self.calls, self.count = [norm], calls, 0

    def forward(self, x):
        self.count += 1
        return super().forward(self.norm[0](x) if self.count % self.calls == 0 else x)


def ibn_net(kind: str, depth: int) -> nn.Module:
    """IBN-Net, made of torchvision's ResNet."""
    net = getattr(torchvision.models, f'resnet{depth}')()
    for stage in (net.layer1, net.layer2, net.layer3):
        for block in stage if kind == 'ibn-a' else ():
            block.bn1 = Halves(block.bn1.num_features)
    for stage in (net.layer1, net.layer2) if kind == 'ibn-b' else ():
        stage[-1].IN = nn.InstanceNorm2d(stage[-1].conv1.in_channels, affine=True)
        stage[-1].relu = AddThenNormalise(stage[-1].IN, calls=2 if depth == 18 else 3)
    if kind == 'ibn-b':
        net.bn1 = nn.InstanceNorm2d(64, affine=True)
    net.fc = net.avgpool = nn.Identity()
    return net


@pytest.mark.parametrize('kind', ['ibn-a', 'ibn-b'])
@pytest.mark.parametrize('depth', [18, 50])
def test_ibn_net_checkpoints_load_and_give_their_output(kind, depth):
    theirs = randomise(ibn_net(kind, depth))
    theirs(torch.randn(4, 3, 64, 64))  # for running statistics
    ours = NormResNet(kind, depth=depth)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    expected = theirs.eval()(x).view(2, -1, 2, 2)
    for mode in (False, True):  # norm_eval freezes batch norm in training
        torch.testing.assert_close(ours.train(mode)(x)[-1], expected, rtol=1e-3, atol=1e-4)


def test_ibn_b_checkpointing_changes_no_gradient():
    plain, checkpointed = (NormResNet('ibn-b', depth=18, **SMALL) for _ in range(2))
    checkpointed.load_state_dict(plain.state_dict())
    for stage in ('layer1', 'layer2'):
        getattr(checkpointed, stage)[-1].with_cp = True
    x = torch.randn(2, 3, 64, 64)
    for net in (plain, checkpointed):
        net(x)[-1].square().mean().backward()
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


@pytest.mark.parametrize('spec', ['bn', 'ibn', 'gn+ws', 'ibn-a'])
def test_capitals_in_a_norm_do_not_matter(spec):
    ours, theirs = (NormResNet(s, depth=18, norm_eval=True, **SMALL) for s in (spec.upper(), spec))
    described = [str(dict(net.train().named_modules())) for net in (ours, theirs)]
    assert described[0] == described[1]
    modes = [[m.training for m in net.modules()] for net in (ours, theirs)]
    assert modes[0] == modes[1]


def test_ibn_freezes_with_its_stage():
    for kind in ('ibn-a', 'ibn-b'):
        net = NormResNet(kind, depth=18, frozen_stages=1)
        frozen = {k for k, p in net.named_parameters() if not p.requires_grad}
        early = ('conv1', 'bn1', 'layer1')
        assert frozen == {k for k, _ in net.named_parameters() if k.startswith(early)}


@pytest.mark.parametrize('backbone', ['NormResNetV1d', 'NormResNeXt'])
def test_ibn_b_is_for_plain_resnets(backbone):
    with pytest.raises(UserError, match=f'not for this {backbone}'):
        on_meta(dict(type=backbone, norm='ibn-b', depth=50))


def test_unknown_norm():
    with pytest.raises(UserError, match='unknown norm'):
        NormResNet('nonsense', depth=18)


NETS = {
    'test_efficientnet_gn': (1, 2, 3, 4),
    'test_resnet': (1, 2, 3, 4),
    'test_convnext': (0, 1, 2, 3),
}


@pytest.fixture
def weights(tmp_path):
    """Weights of a whole network of timm, fine-tuned to seven classes, and the file they are in."""
    whole = randomise(timm.create_model('test_resnet', num_classes=7))
    path = tmp_path / 'weights.safetensors'
    save_file(whole.state_dict(), path)
    return whole.state_dict(), path


@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('norm', [None, 'gn8'])
def test_timm_maps_are_those_of_timm(name, norm, tmp_path):
    whole = randomise(timm.create_model(name, num_classes=7))
    save_file(whole.state_dict(), tmp_path / 'weights.safetensors')
    ours = TimmBackbone(name, NETS[name], norm)
    TimmPretrained(str(tmp_path / 'weights.safetensors'))(ours)
    if norm:
        convert_norm(whole, norm)
        turned = any(isinstance(m, Norm) for m in ours.modules())
        assert turned == (name != 'test_convnext')  # its norms are per pixel
    x = torch.randn(2, 3, 64, 64)
    maps = ours.eval()(x)
    assert [m.shape[1] for m in maps] == ours.out_channels
    assert [m.shape[2] for m in maps] == [16, 8, 4, 2]
    expected = whole.eval().forward_intermediates(x, list(NETS[name]), intermediates_only=True)
    torch.testing.assert_close(maps, tuple(expected))


@pytest.mark.parametrize('name', NETS)
def test_timm_frozen_stages(name):
    for stages, stride in ((0, 2), (1, 4), (2, 8)):
        net = TimmBackbone(name, NETS[name], 'gn8', frozen_stages=stages).train()
        maps = net(torch.randn(2, 3, 64, 64))
        assert [m.requires_grad for m in maps] == [64 // m.shape[2] > stride for m in maps]
        frozen = {k for k, p in net.named_parameters() if not p.requires_grad}
        still = {k for k, m in net.named_modules() if not m.training and k}
        assert {k.rpartition('.')[0] for k in frozen} <= still
    assert not TimmBackbone(name, NETS[name]).frozen
    with pytest.raises(UserError, match='no stage 5, of stride 64'):
        TimmBackbone(name, NETS[name], frozen_stages=5)


@pytest.mark.parametrize('name', NETS)
def test_timm_checkpointing_changes_no_gradient(name):
    plain = TimmBackbone(name, NETS[name])
    checkpointed = TimmBackbone(name, NETS[name], with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for net in (plain, checkpointed):
        sum(m.square().mean() for m in net(x)).backward()
    assert checkpointed.net.grad_checkpointing
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


def test_timm_norm_eval_keeps_running_statistics():
    for norm_eval in (True, False):
        net = TimmBackbone('test_resnet', (1, 2), norm_eval=norm_eval).train()
        before = deepcopy(net.state_dict())
        net(torch.randn(2, 3, 32, 32))
        changed = any(not torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert changed != norm_eval


def test_timm_weights_start_training_but_not_testing(weights):
    state, path = weights
    digest = sha256(path.read_bytes()).hexdigest()
    init_cfg = dict(type='TimmPretrained', checkpoint=str(path), sha256=digest)
    net = TimmBackbone('test_resnet', (1, 2, 3, 4), 'hybrid', init_cfg=init_cfg)
    assert not torch.equal(net.net.layer1[0].conv1.weight, state['layer1.0.conv1.weight'])
    net.init_weights()
    assert torch.equal(net.net.layer1[0].conv1.weight, state['layer1.0.conv1.weight'])
    assert torch.equal(net.net.layer1[0].bn1.running_var, state['layer1.0.bn1.running_var'])


def test_timm_weights_of_a_training_run(weights, tmp_path):
    torch.save(dict(epoch=3, state_dict=weights[0]), tmp_path / 'last.pth')
    net = TimmBackbone('test_resnet', (1, 2))
    TimmPretrained(str(tmp_path / 'last.pth'))(net)
    assert torch.equal(net.net.layer1[0].conv1.weight, weights[0]['layer1.0.conv1.weight'])


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (
            lambda s: s.pop('layer3.0.bn1.bias'),
            r'than test_resnet\n  layer3.0.bn1.b',
        ),
        (lambda s: s.update(extra=torch.ones(3)), r'in the file:\n  extra \[3\]'),
        (lambda s: s.update({'bn1.bias': torch.ones(5)}), r'in the file:\n  bn1.bias \[5\]'),
    ],
)
def test_timm_weights_are_strict(weights, spoil, message):
    state, path = weights
    spoil(state)
    save_file(state, path)
    with pytest.raises(UserError, match=message):
        TimmPretrained(str(path))(TimmBackbone('test_resnet', (1, 2)))


def test_timm_weights_that_are_not_the_ones_meant(weights, tmp_path):
    net, path = TimmBackbone('test_resnet', (1, 2)), weights[1]
    with pytest.raises(UserError, match='no such file'):
        TimmPretrained(str(tmp_path / 'absent.pth'))(net)
    with pytest.raises(UserError, match='wrong sha256, want 0000'):
        TimmPretrained(str(path), sha256='0' * 64)(net)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match='the checkpoint is broken or cut short'):
        TimmPretrained(str(path))(net)
    (tmp_path / 'code.pth').write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(UserError, match='not a checkpoint of plain data'):
        TimmPretrained(str(tmp_path / 'code.pth'))(net)


def test_timm_has_no_such_model():
    with pytest.raises(UserError, match=r'no model .resnet50_ng.'):
        TimmBackbone('resnet50_ng', (1, 2))


def test_evonorm_is_left_as_trained():
    net = on_meta(dict(type='TimmBackbone', model='resnetv2_50d_evos', out_indices=(1, 2, 3, 4)))
    assert any('EvoNorm' in type(m).__name__ for m in net.modules())
    assert net.out_channels == [256, 512, 1024, 2048]


@pytest.mark.parametrize('folder', ['gn', 'gn+ws', 'fcos', 'crowddet', 'yolof'])
def test_known_preprocessing_is_that_of_mmdetection(folder):
    """CrowdDet gives torchvision's weights BGR pixels; all others agree with the table."""
    known = 0
    for path in (SHIPPED / folder).glob('*.py'):
        model = Config.fromfile(path).model
        checkpoint = model.backbone.get('init_cfg', {}).get('checkpoint', '')
        wanted = [v for k, v in CHECKPOINTS.items() if re.fullmatch(k, checkpoint)]
        given = model.data_preprocessor
        given = Preprocessing(given.mean, given.std, given.bgr_to_rgb)
        assert all(given.is_close(w) == (folder != 'crowddet') for w in wanted), path
        known += len(wanted)
    assert known


def detector(backbone: dict, mean: list, std: list, bgr_to_rgb: bool) -> nn.Module:
    model = nn.Module()
    model.backbone = on_meta(backbone)
    model.data_preprocessor = MODELS.build(
        dict(type='DetDataPreprocessor', mean=mean, std=std, bgr_to_rgb=bgr_to_rgb)
    )
    return model


def pretrained(checkpoint: str) -> dict:
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    return dict(type='NormResNet', depth=18, init_cfg=init_cfg)


TIMM = dict(type='TimmBackbone', model='resnet18', out_indices=(1, 2))
UNIT = ([127.5] * 3, [127.5] * 3, True)


@pytest.mark.parametrize(
    ('backbone', 'right', 'wrong'),
    [
        (pretrained('open-mmlab://detectron/resnet50_gn'), CAFFE2, TORCHVISION),
        (pretrained('open-mmlab://jhu/resnet50_gn_ws'), TORCHVISION, CAFFE2),
        (pretrained('torchvision://resnet50'), TORCHVISION, TORCHVISION._replace(rgb=False)),
        ({**TIMM, 'init_cfg': dict(type='TimmPretrained')}, TORCHVISION, UNIT),
        ({**TIMM, 'model': 'test_resnet', 'init_cfg': dict(type='x')}, UNIT, TORCHVISION),
    ],
)
def test_preprocessing_is_checked(backbone, right, wrong):
    check_preprocessing(detector(backbone, *right))
    with pytest.raises(UserError, match=r'trained with (RGB|BGR), mean .* would give it (RGB|BGR)'):
        check_preprocessing(detector(backbone, *wrong))
    backbone = {k: v for k, v in backbone.items() if k != 'init_cfg'}
    check_preprocessing(detector(backbone, *wrong))  # from random weights


def test_a_detector_that_does_not_normalise_is_checked():
    model = detector(pretrained('torchvision://resnet50'), *TORCHVISION)
    model.data_preprocessor = MODELS.build(dict(type='DetDataPreprocessor'))
    with pytest.raises(UserError, match=r'give it BGR, mean \[0.0, 0.0, 0.0\]'):
        check_preprocessing(model)


class Toy(BaseModel):
    """A network to train for one step."""

    def __init__(self, backbone: dict, data_preprocessor: dict):
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.backbone(inputs)[0].mean())


@pytest.fixture
def run_dir(tmp_path):
    """A work directory whose log file is let go of: mmengine's newest logger is everybody's."""
    yield tmp_path
    MMLogger.get_instance(f'after {tmp_path.name}')


def runner_of(backbone: dict, pixels: Preprocessing, work_dir: Path) -> Runner:
    preprocessor = dict(zip(('mean', 'std', 'bgr_to_rgb'), pixels, strict=True))
    image = dict(inputs=torch.randint(256, (3, 32, 32), dtype=torch.uint8))
    sampler = dict(type='DefaultSampler', shuffle=False)
    return Runner(
        Toy(backbone, dict(type='ImgDataPreprocessor', **preprocessor)),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=[image], sampler=sampler, batch_size=1),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[dict(type='PretrainedHook')],
        default_scope='mmdet',
        experiment_name=f'{work_dir.parent.name}-{work_dir.name}',
        log_level='ERROR',
    )


def test_published_weights_start_a_run(run_dir):
    """Of MMDetection's ResNet with another norm, as after `--norm`; nothing but the hook helps."""
    theirs = randomise(native())
    torch.save(theirs.state_dict(), run_dir / 'published.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(run_dir / 'published.pth'))
    norm = dict(type='Norm', spec='gn32')
    backbone = dict(type='ResNet', depth=18, norm_cfg=norm, init_cfg=init_cfg, **SMALL)
    runner = runner_of(backbone, TORCHVISION, run_dir)
    runner.train()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(runner.model.backbone(x), theirs(x))


def test_a_run_with_other_pixels_does_not_start(weights, run_dir):
    init_cfg = dict(type='TimmPretrained', checkpoint=str(weights[1]))
    backbone = {**TIMM, 'model': 'test_resnet', 'init_cfg': init_cfg}
    runner_of(backbone, Preprocessing(*UNIT), run_dir / 'right').train()
    with pytest.raises(UserError, match='trained with RGB, mean'):
        runner_of(backbone, TORCHVISION, run_dir / 'wrong').train()


def test_published_checkpoints_pass_for_ours(tmp_path):
    path = tmp_path / 'published.pth'
    torch.save(dict(state_dict=native().state_dict()), path)
    weights = load(path)['state_dict']
    check_fit(path, weights, NormResNet('gn', depth=18, **SMALL))
    with pytest.raises(UserError, match='with another norm'):
        check_fit(path, weights, NormResNet('hybrid', depth=18, **SMALL))
