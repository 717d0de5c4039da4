"""What the options do to a config."""

from argparse import Namespace
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from sbzoo.data.coco import read_folder
from sbzoo.engine.loss_normalizers import NORMALIZERS
from sbzoo.engine.options.config import (
    build_config,
    load_config,
    set_noise_scale,
    set_scratch,
    use_sbzoo,
)
from sbzoo.engine.options.data import set_coco
from sbzoo.engine.options.norm import set_norm
from sbzoo.engine.options.scaling import set_lr
from sbzoo.engine.options.schedule import (
    set_accumulate,
    set_batch,
    set_epochs,
    set_loss_normalizer,
)
from sbzoo.errors import UserError
from sbzoo.norm import Norm
from sbzoo.tools.train import LOSS_NORMALIZERS

LITE0 = 'configs/retinanet_lite0_bn_b2.py'
CONFIGS = sorted(set(Path('configs').glob('retinanet_*.py')) - {Path(LITE0)})


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_complete_and_builds(path):
    cfg = load_config(str(path))
    _, norm, batch, *_ = path.stem.split('_')
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == int(batch[1:])
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(LR[int(batch[1:])])
    model = MODELS.build(cfg.model)
    layers = [m for m in model.modules() if isinstance(m, (Norm, nn.BatchNorm2d, nn.GroupNorm))]
    assert len(layers) == 20 + 6 + 12
    if norm == 'bn':
        assert all(isinstance(m, nn.BatchNorm2d) for m in layers)
    else:
        assert {m.spec for m in layers} == {'gn8' if norm == 'gn' else norm}


LR = {1: 0.01, 2: 0.02, 16: 0.16}


@pytest.mark.parametrize('batch', LR)
@pytest.mark.parametrize('norm', ['bn', 'gn', 'in', 'ln', 'hybrid'])
def test_the_option_batch_scales_the_learning_rate(norm, batch):
    wanted, cfg = (load_config(f'configs/retinanet_{norm}_b2.py') for _ in range(2))
    set_batch(cfg, batch)
    set_lr(cfg, 'auto')
    wanted.train_dataloader.batch_size = wanted.auto_scale_lr.base_batch_size = batch
    wanted.optim_wrapper.optimizer.lr = LR[batch]
    assert cfg.to_dict() == wanted.to_dict()
    if batch == 1:
        assert load_config(f'configs/retinanet_{norm}_b1.py').to_dict() == wanted.to_dict()


def test_own_configs_need_nothing_added():
    cfg = load_config('configs/retinanet_gn_b2.py')
    before = cfg.pretty_text
    use_sbzoo(cfg)
    assert cfg.pretty_text == before


@pytest.mark.parametrize('norm', ['gn8', 'hybrid'])
def test_the_norms_of_efficientnet_lite0_are_in_the_backbone_alone(norm):
    cfg = load_config(LITE0)
    before = MODELS.build(cfg.model)
    set_norm(cfg, norm)
    after = MODELS.build(cfg.model)
    kept = {name for name, m in before.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, m in after.named_modules() if isinstance(m, Norm)} == kept
    assert len(kept) == 1 + 2 + 15 * 3  # stem, the first block, and the others
    assert all(name.startswith('backbone.') for name in kept)


@pytest.mark.parametrize('ending', ['_b2', '_b2_light'])
def test_configs_of_one_batch_and_data_set_differ_in_the_norm_alone(ending):
    first, *others = (load_config(str(p)) for p in CONFIGS if p.stem.endswith(ending))
    assert len(others) == 4
    for other in others:
        set_norm(other, 'gn8')
        set_norm(first, 'gn8')
        assert other.pretty_text == first.pretty_text


@pytest.mark.parametrize(
    ('name', 'turned', 'left'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 53, 0),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 53, 0),
        ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 53 + 8, 0),
        ('atss/atss_r50_fpn_1x_coco.py', 53 + 8, 0),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', None, 0),
    ],
)
def test_norm_of_mmdetection_configs(name, turned, left):
    cfg = load_config(f'mmdet::{name}')
    set_norm(cfg, 'hybrid')
    set_scratch(cfg)
    model = MODELS.build(cfg.model)
    others = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    norms = [m for m in model.modules() if isinstance(m, Norm)]
    assert len(others) == left
    assert len(norms) == turned if turned else norms
    assert not any(p.requires_grad is False for n in norms for p in n.parameters())


def test_a_norm_keeps_its_eps_and_momentum():
    cfg = load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    wanted = {(m.eps, m.momentum) for m in norms(MODELS.build(cfg.model), nn.BatchNorm2d)}
    set_norm(cfg, 'hybrid')
    assert wanted == {(1e-3, 0.03)}
    assert {(m.eps, m.momentum) for m in norms(MODELS.build(cfg.model), Norm)} == wanted


def norms(model, kind):
    return [m for m in model.modules() if isinstance(m, kind)]


def test_lr_auto_counts_devices_batch_and_accumulation(monkeypatch):
    cfg = load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')  # 0.02 for 16 images
    monkeypatch.setenv('WORLD_SIZE', '2')
    cfg.launcher = 'pytorch'
    set_batch(cfg, 1)
    set_accumulate(cfg, 4)
    assert cfg.optim_wrapper.accumulative_counts == 4
    set_lr(cfg, 'auto')
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02 * 2 * 1 * 4 / 16)
    set_lr(cfg, 'auto')  # said twice, scaled once
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.01)
    set_lr(cfg, '0.3')
    assert cfg.optim_wrapper.optimizer.lr == 0.3


@pytest.mark.parametrize(
    ('launcher', 'variable', 'devices'),
    [
        ('pytorch', 'WORLD_SIZE', 8),
        ('slurm', 'SLURM_NTASKS', 8),
        ('mpi', 'OMPI_COMM_WORLD_SIZE', 8),
        ('none', 'WORLD_SIZE', 1),  # left there by somebody else
    ],
)
def test_lr_auto_knows_the_devices_of_every_launcher(monkeypatch, launcher, variable, devices):
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, '8')
    options = dict(config=MASK_RCNN, data=None, cfg_options=None, work_dir=None)
    cfg = build_config(Namespace(**options, launcher=launcher, lr='auto'))  # 2 images a device
    assert cfg.launcher == launcher
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02 * devices * 2 / 16)
    monkeypatch.delenv(variable)
    if launcher != 'none':
        with pytest.raises(UserError, match=f'{variable} is not set'):
            build_config(Namespace(**options, launcher=launcher, lr='auto'))


def test_noise_scale_is_a_hook_of_the_config():
    cfg = load_config('configs/retinanet_gn_b2.py')
    for interval in (200, 50):  # said twice, measured once
        set_noise_scale(cfg, interval)
    assert cfg.custom_hooks[-1] == dict(type='GradientNoiseScaleHook', interval=50)
    assert sum(h.type == 'GradientNoiseScaleHook' for h in cfg.custom_hooks) == 1


@pytest.mark.parametrize(
    ('given', 'wanted'),
    [
        (dict(type='EpochBasedTrainLoop', max_epochs=1), 'AccumulatingEpochLoop'),
        (dict(by_epoch=True, max_epochs=1), 'AccumulatingEpochLoop'),
        (dict(by_epoch=False, max_iters=1), 'AccumulatingIterLoop'),
        (dict(type='TheirLoop'), 'TheirLoop'),
    ],
)
def test_an_iteration_is_an_update_in_any_config(given, wanted):
    cfg = Config(dict(train_cfg=given, optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0))))
    use_sbzoo(cfg)
    assert (cfg.train_cfg.type, 'by_epoch' in cfg.train_cfg) == (wanted, False)
    if wanted == 'TheirLoop':
        with pytest.raises(UserError, match=r'train_cfg\.type=TheirLoop has none; valid are Acc'):
            set_loss_normalizer(cfg, 'window')
    else:
        set_loss_normalizer(cfg, 'moving-average')
        assert cfg.train_cfg.loss_normalizer == 'moving-average'


def test_loss_normalizers_are_those_that_there_are_and_of_detectors():
    assert set(LOSS_NORMALIZERS) == set(NORMALIZERS)
    with pytest.raises(UserError, match='the losses of a GAN are means over its images'):
        set_loss_normalizer(load_config('configs/dcgan_gn_b2.py'), 'window')


def test_epochs_stretch_the_schedule():
    cfg = load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    set_epochs(cfg, 24)
    warm_up, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 24
    assert warm_up.end == 500  # in iterations, so not stretched
    assert (steps.end, steps.milestones) == (24, [16, 22])
    cfg = load_config('configs/retinanet_gn_b2.py')
    set_epochs(cfg, 2)
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.end == cosine.begin == pytest.approx(0.25 * 2 / 3)
    assert cosine.end == cosine.begin + cosine.T_max == 2


def test_data_sets_classes_paths_and_metrics(digits):
    cfg = load_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    pipeline = cfg.train_dataloader.dataset.pipeline
    set_coco(cfg, read_folder(digits))
    assert (
        cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 10
    )
    assert cfg.train_dataloader.dataset.pipeline == pipeline
    assert cfg.train_dataloader.dataset.metainfo.classes == tuple('0123456789')
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    assert cfg.val_evaluator.ann_file == str(digits / 'annotations/val.json')


def test_written_config_imports_sbzoo_and_is_complete(tmp_path):
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    use_sbzoo(cfg)
    set_norm(cfg, 'gn')
    cfg.dump(tmp_path / 'written.py')
    written = Config.fromfile(tmp_path / 'written.py')
    assert written.custom_imports.imports == ['sbzoo']
    hooks = [hook.type for hook in written.custom_hooks]
    assert hooks == [hook.type for hook in load_config('configs/retinanet_gn_b2.py').custom_hooks]
    backends = [backend.type for backend in written.visualizer.vis_backends]
    assert backends == ['LocalVisBackend', 'TensorboardVisBackend']
    assert written.default_hooks.checkpoint.backend_args == dict(backend='atomic')
    assert written.model.backbone.norm_cfg == dict(type='Norm', spec='gn')
    assert 'norm_cfg' not in written.model.bbox_head  # deliberately without


def test_the_config_of_a_resumed_run_starts_anew(tmp_path):
    cfg = load_config('configs/retinanet_gn_b2.py')
    cfg.resume, cfg.load_from = True, 'epoch_1.pth'
    cfg.dump(tmp_path / 'left.py')
    options = dict(config=str(tmp_path / 'left.py'), data=None, cfg_options=None, work_dir=None)
    cfg = build_config(Namespace(**options))
    assert (cfg.resume, cfg.load_from) == (False, None)


def test_options_are_applied():
    options = dict(config='configs/retinanet_gn_b2.py', data=None, cfg_options=['train_cfg.x=1'])
    options |= dict(norm='ln', batch=1, epochs=6, lr=None, seed=0, scratch=False, work_dir=None)
    cfg = build_config(Namespace(**options))
    assert cfg.model.neck.norm_cfg == dict(type='Norm', spec='ln')
    assert cfg.randomness.seed == 0
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.x) == (6, 1)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.01)
    assert cfg.work_dir == 'work_dirs/retinanet_gn_b2'
    cfg = build_config(Namespace(**options | dict(seed=None, batch=None)))
    assert cfg.randomness.seed == 0  # the config's own
    cfg = build_config(Namespace(**options | dict(config=MASK_RCNN, seed=0, epochs=None)))
    assert cfg.randomness.seed == 0


MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def test_iteration_schedules_take_no_epochs():
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=10)))
    with pytest.raises(UserError, match='counts iterations'):
        set_epochs(cfg, 2)
